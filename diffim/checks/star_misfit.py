"""Where constant stars do not subtract: a PSF or a kernel that is right for most of the frame may be wrong in a part of it.

Medians over all stars say nothing of a step between two amplifiers or of a steep rim. Each star is judged by itself, by what is
left of it beside a change of its flux and a shift, which variable and moving stars leave too.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.photometry import psf_images
from exposure.psf import fwhm_of
from exposure.stamps import sided
from exposure.stars import Stars
from tasks.arrays import F64, Flags, nearest_pixels

__all__ = ["StarMisfits", "star_misfits"]

RADIUS = 1.2  # FWHM of the difference: pixels around a star that are looked at
POOR = 2.0  # times the variance: what is left of a star that does not subtract
TOLERANCE = 0.02  # of its light in each pixel, that no model of a PSF is better than
SAMPLED = 3.0  # px: the light of stars with a smaller FWHM is aliased, and leaves more
SEEN = 0.8  # of those pixels, that a star must have
NEAREST = 12  # stars whose share is that of a place
LEAST = 25  # stars: of fewer some odd ones (blends, stars that moved far) make a large share


@dataclass(frozen=True)
class StarMisfits:
    """Shares of stars that do not subtract: of all, and of the `NEAREST` ones around the poorest place (x, y; frame px).

    NaN where the stars are too few, or too narrow for the pixels.
    """

    share: float = float("nan")
    local_share: float = float("nan")
    x: float = float("nan")
    y: float = float("nan")


def star_misfits(difference: Exposure, stars: Stars) -> StarMisfits:
    """Judge each of some bright sources by the rest of the difference there.

    Flux, and shifts along both axes, are fitted to each and do not count. Sigma is that of the difference and `TOLERANCE` of the
    source's light.
    """
    psf = difference.require_psf()
    stamps = psf_images(psf, stars.x, stars.y) if len(stars) >= LEAST else np.zeros((0, 1, 1), np.float32)
    defined = np.isfinite(stamps).all((1, 2))  # not in the gap of a coadd
    if np.count_nonzero(defined) < LEAST:
        return StarMisfits()
    stamps, stars = stamps[defined], stars.take(np.flatnonzero(defined))
    x, y = stars.x, stars.y
    fwhm = float(np.median(fwhm_of(psf.moments_at(x, y))))
    if not fwhm >= SAMPLED:
        return StarMisfits()
    side = 2 * int(np.ceil(RADIUS * fwhm)) + 1
    profile = sided(stamps, side + 2).astype(np.float64)
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    values, known = MaskedImage.of(difference, "BAD", "SAT", "CR").stamps(ix, iy, side)
    light = np.abs(profile[:, 1:-1, 1:-1]) * np.clip(stars.psfFlux, 0, None)[:, None, None]
    variance = known.astype(np.float64) + (TOLERANCE * light) ** 2
    g = np.arange(side) - side // 2
    disc = np.hypot(g[:, None], g[None, :]) <= RADIUS * fwhm
    use = disc & np.isfinite(variance) & (variance > 0)
    weight = np.where(use, 1 / np.sqrt(np.where(use, variance, 1.0)), 0)
    slopes = np.asarray(np.gradient(profile, axis=(1, 2)), np.float64)
    basis = np.stack([p[:, 1:-1, 1:-1] * weight for p in (profile, *slopes)], axis=1).reshape(x.size, 3, -1)
    data = (np.where(use, values, 0) * weight).reshape(x.size, -1)
    scale = np.sqrt((basis**2).sum(-1, keepdims=True)) + 1e-300
    basis /= scale
    normal = np.einsum("nkp,nlp->nkl", basis, basis) + 1e-9 * np.eye(3)
    fitted = np.linalg.solve(normal, np.einsum("nkp,np->nk", basis, data)[..., None])[..., 0]
    left = ((data - np.einsum("nk,nkp->np", fitted, basis)) ** 2).sum(1)
    able = use.sum((1, 2)) >= SEEN * disc.sum()
    poor = (left > POOR * np.maximum(use.sum((1, 2)) - 3, 1))[able]
    return _shares(x[able], y[able], poor)


def _shares(x: F64, y: F64, poor: Flags) -> StarMisfits:
    """Return the shares of the stars (N,) that are poor."""
    if x.size < LEAST:
        return StarMisfits()
    places = np.column_stack([x, y])
    around = np.asarray(cKDTree(places).query(places, NEAREST)[1], np.int64)
    local = poor[around].mean(1)
    worst = int(np.argmax(local))
    return StarMisfits(float(poor.mean()), float(local[worst]), *(float(v[around[worst]].mean()) for v in (x, y)))
