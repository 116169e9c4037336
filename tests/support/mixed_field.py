"""Frames with stars and galaxies whose PSF and truth are known."""

import numpy as np

from exposure import Exposure, MoffatPsf
from exposure.psf import fwhm_of
from simulation.render import add_galaxies, add_points

__all__ = ["SKY", "add_noise", "mixed_light", "size_errors"]

SKY = 900.0  # electrons


def mixed_light(rng, side, stars, galaxies, fwhm=(4.3,), faint=2500.0):
    """Electrons without sky and noise, the PSF, and (x, y, flux of stars, x, y of galaxies); counts as of real fields."""
    psf = MoffatPsf(tuple(fwhm), 3.3, max(41, int(6 * fwhm[0]) | 1), (0, 0, side, side), (0.03,), (-0.02,))
    x, y = rng.uniform(5, side - 6, (2, stars))
    flux = np.minimum(faint * rng.uniform(size=stars) ** (-1 / 0.7), 6e5)
    light = np.zeros((side, side))
    add_points(light, psf, x, y, flux)
    own = np.minimum(1.5 * faint * rng.uniform(size=galaxies) ** (-1 / 0.9), 6e5)
    radius = np.clip(1.8 * (own / 1500) ** 0.22 * rng.lognormal(0, 0.3, galaxies), 1.2, 14)
    table = {"flux": own, "re": radius, "index": rng.choice([1.0, 1.0, 1.5, 2.5], galaxies)}
    table |= {"q": rng.uniform(0.3, 1, galaxies), "angle": rng.uniform(0, np.pi, galaxies)}
    table |= dict(zip("xy", rng.uniform(5, side - 6, (2, galaxies)), strict=True))
    add_galaxies(light, psf, table)
    return light, psf, (x, y, flux, table["x"], table["y"])


def add_noise(rng, light, unit=1.0):
    """An exposure of the light with the noise of photons and of a sky, which is taken off again; `unit`: counts per electron."""
    variance = light + SKY
    image = light + rng.normal(size=light.shape) * np.sqrt(variance)
    planes = (unit * image).astype(np.float32), (unit**2 * variance).astype(np.float32)
    return Exposure(*planes, np.zeros(light.shape, np.int32), band="r")


def size_errors(model, psf, side):
    """Relative errors of the FWHM of a model over a frame."""
    x, y = (a.ravel() for a in np.meshgrid(*[np.linspace(0.1, 0.9, 5) * side] * 2))
    return np.asarray(fwhm_of(model.moments_at(x, y)) / fwhm_of(psf.moments_at(x, y)) - 1)
