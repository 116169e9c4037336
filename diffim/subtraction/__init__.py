"""Matched images become a difference: Alard-Lupton, ZOGY, noise, background."""
