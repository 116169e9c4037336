"""The PSF of a plain image, from its own stars."""
