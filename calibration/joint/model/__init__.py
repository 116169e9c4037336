"""What is fitted: maps of chips and visits, stars that move, fluxes."""
