"""One visit's transaction: loaded, stored, recorded as done."""
