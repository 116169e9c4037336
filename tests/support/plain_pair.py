"""A small pair of plain images with known stars and transients, for tests and for the examples of the documentation."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

__all__ = ["GAIN", "SKY", "PlainPair", "plain_pair", "render", "tan", "write_pair"]

GAIN, READ_NOISE, SKY = 1.5, 4.0, 300.0  # electrons per count, counts, counts
SCALE = 0.4  # arcsec per px
SIGMA_PER_FWHM = 1 / 2.3548200450309493


@dataclass(frozen=True)
class PlainPair:
    """Two images on one pixel grid, their variances, and what is in them: `new` has the transients beside the stars."""

    new: NDArray[np.float32]
    old: NDArray[np.float32]
    new_variance: NDArray[np.float32]
    old_variance: NDArray[np.float32]
    wcs: WCS
    stars: NDArray[np.float64]  # (N, 3): x, y, flux in counts
    transients: NDArray[np.float64]


def tan(side: int) -> WCS:
    """Return a TAN WCS with its reference in the middle, north up, east left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150.0, 2.0], [(side + 1) / 2] * 2
    wcs.wcs.cd = np.array([[-1.0, 0.0], [0.0, 1.0]]) * SCALE / 3600
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def render(points: NDArray[np.float64], side: int, fwhm: float) -> NDArray[np.float64]:
    """Return the noise-free counts of Gaussian stars, sampled at pixel centres, without sky."""
    grid, out = np.arange(side), np.zeros((side, side))
    sigma = fwhm * SIGMA_PER_FWHM
    for x, y, flux in points:
        ex, ey = (np.exp(-0.5 * ((grid - c) / sigma) ** 2) for c in (x, y))
        out += flux / (2 * np.pi * sigma**2) * ey[:, None] * ex[None, :]
    return out


def plain_pair(side: int = 256, n_stars: int = 90, seed: int = 1, noise: float = 1.0) -> PlainPair:
    """Return a pair with six transients; the stars keep 12 px from them and 8 px from each other.

    `noise` scales the noise, and the variances by its square.
    """
    rng = np.random.default_rng(seed)
    where = np.array([[0.2, 0.75], [0.35, 0.25], [0.5, 0.6], [0.65, 0.37], [0.8, 0.8], [0.72, 0.17]]) * side
    transients = np.column_stack([where + rng.uniform(-0.5, 0.5, where.shape), [8e3, 4e3, 6e3, 3e3, 1e4, 5e3]])
    stars: list[list[float]] = []
    while len(stars) < n_stars:
        place = rng.uniform(4, side - 5, 2)
        if np.hypot(*(where - place).T).min() < 12 or any(np.hypot(*(place - s[:2])) < 8 for s in stars):
            continue
        stars.append([*place, 10 ** rng.uniform(3.3, 5.0)])
    known = np.array(stars)
    light = [render(np.concatenate([known, transients]), side, 3.2), render(known, side, 2.8)]
    images, variances = [], []
    for counts in light:
        variance = ((counts + SKY) / GAIN + READ_NOISE**2) * noise**2
        images.append((counts + SKY + rng.normal(0, np.sqrt(variance))).astype(np.float32))
        variances.append(variance.astype(np.float32))
    return PlainPair(images[0], images[1], variances[0], variances[1], tan(side), known, transients)


def write_pair(pair: PlainPair, folder: Path, variance: bool = True) -> tuple[Path, Path]:
    """Write ``new.fits`` and ``old.fits`` with IMAGE and, where asked for, VARIANCE extensions; returns the paths."""
    paths = []
    for name, image, spread in (("new", pair.new, pair.new_variance), ("old", pair.old, pair.old_variance)):
        hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, pair.wcs.to_header(), name="IMAGE")]
        if variance:
            hdus.append(fits.ImageHDU(spread, name="VARIANCE"))
        fits.HDUList(hdus).writeto(folder / f"{name}.fits", overwrite=True)
        paths.append(folder / f"{name}.fits")
    return paths[0], paths[1]
