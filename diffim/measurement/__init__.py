"""What is measured of a detection: position, fluxes, dipole, trail, flags, reliability."""
