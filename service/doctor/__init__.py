"""``alertprod doctor``: what a service needs, looked at one after the other; each line says what is wrong and what to do."""
