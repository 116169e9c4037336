"""Exposures, plain images and tables of components, in and out of FITS."""
