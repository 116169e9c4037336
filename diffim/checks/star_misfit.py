"""Where constant stars do not subtract: a PSF or a kernel that is right for most of the frame may be wrong in a part of it.

Medians over all stars say nothing of a step between two amplifiers or of a steep rim. Each star is judged by itself: the
residual is developed in the PSF and its derivatives. The first ones are a change of flux and a shift, which variable and moving
stars leave too; those of second to fourth order are what a wrong shape leaves; the rest of the pixels tells what noise there is,
whatever the variance plane says of a star's own photons (it knows no gain where none is given).
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
from tasks.arrays import F64, I64, Flags, nearest_pixels

__all__ = ["StarMisfits", "star_misfits"]

RADIUS = 1.2  # FWHM of the difference: pixels around a star that are looked at
ORDER = 4  # of the derivatives by x and y that stand for a wrong shape
POOR = 6.0  # times the variance of the rest: the mean square of those of a star that does not subtract
CHANGES = 3  # flux and shifts, which come first
TOLERANCE = 0.02  # of its light in each pixel, that no model of a PSF is better than
SAMPLED = 3.0  # px: the light of stars with a smaller FWHM is aliased, and leaves more
SEEN = 0.8  # of those pixels, that a star must have
NEAREST = 12  # stars whose share is that of a place, or
PART = 0.1  # of all, where that is more: a crowded core is not a part of the frame
MOST = 1000  # stars that are judged: evenly by brightness
LEAST = 25  # stars: of fewer some odd ones (blends, stars that moved far) make a large share


@dataclass(frozen=True)
class StarMisfits:
    """Shares of stars that do not subtract: of all, and of the nearest ones around the poorest place (x, y; frame px).

    NaN where the stars are too few, or too narrow for the pixels.
    """

    share: float = float("nan")
    local_share: float = float("nan")
    x: float = float("nan")
    y: float = float("nan")


def star_misfits(difference: Exposure, stars: Stars) -> StarMisfits:
    """Judge each of some bright sources by the rest of the difference there.

    The mean square of its shape coefficients is compared with that of the pixels' rest, or with 1 where that is less. Sigma is
    that of the difference and `TOLERANCE` of the source's light.
    """
    psf = difference.require_psf()
    stamps = psf_images(psf, stars.x, stars.y) if len(stars) >= LEAST else np.zeros((0, 1, 1), np.float32)
    defined = np.isfinite(stamps).all((1, 2))  # not in the gap of a coadd
    if np.count_nonzero(defined) < LEAST:
        return StarMisfits()
    kept = np.flatnonzero(defined)
    if kept.size > MOST:
        kept = kept[np.argsort(-stars.snr[kept], kind="stable")][np.linspace(0, kept.size - 1, MOST).astype(np.int64)]
    stamps, stars = stamps[kept], stars.take(kept)
    x, y = stars.x, stars.y
    fwhm = float(np.median(fwhm_of(psf.moments_at(x, y))))
    if not fwhm >= SAMPLED:
        return StarMisfits()
    side = 2 * int(np.ceil(RADIUS * fwhm)) + 1
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    values, known = MaskedImage.of(difference, "BAD", "SAT", "CR").stamps(ix, iy, side)
    basis = _derivatives(sided(stamps, side + 2 * ORDER).astype(np.float64))
    light = np.abs(basis[:, 0]) * np.clip(stars.psfFlux, 0, None)[:, None, None]
    variance = known.astype(np.float64) + (TOLERANCE * light) ** 2
    g = np.arange(side) - side // 2
    disc = np.hypot(g[:, None], g[None, :]) <= RADIUS * fwhm
    use = disc & np.isfinite(variance) & (variance > 0)
    weight = np.where(use, 1 / np.sqrt(np.where(use, variance, 1.0)), 0)
    data = (np.where(use, values, 0) * weight).reshape(x.size, -1)
    shape, rest = _powers(data, (basis * weight[:, None]).reshape(x.size, basis.shape[1], -1), use.sum((1, 2)))
    able = use.sum((1, 2)) >= SEEN * disc.sum()
    poor = (shape > POOR * np.maximum(rest, 1))[able]
    return _shares(x[able], y[able], poor)


def _derivatives(profile: F64) -> F64:
    """Return the PSF and its derivatives to `ORDER` by rising order, (N, 15, S, S), of stamps with `ORDER` pixels more a side."""
    rows = [profile]
    out = [profile]
    for _ in range(ORDER):
        rows = [np.gradient(row, axis=2) for row in rows] + [np.gradient(rows[-1], axis=1)]
        out += rows
    inner = slice(ORDER, -ORDER)
    return np.stack([v[:, inner, inner] for v in out], axis=1)


def _powers(data: F64, basis: F64, counts: I64) -> tuple[F64, F64]:
    """Return the mean squares (N,) of whitened residuals (N, P) along the derivatives (N, K, P) from the second on, and of the rest.

    Orthogonalised by rising order: what flux and shifts explain is not shape.
    """
    scale = np.sqrt((basis**2).sum(-1, keepdims=True)) + 1e-300
    modes = np.linalg.qr(np.swapaxes(basis / scale, 1, 2))[0]
    along = np.einsum("npk,np->nk", modes, data) ** 2
    rest = (data**2).sum(1) - along.sum(1)
    n = basis.shape[1]
    return along[:, CHANGES:].mean(1), rest / np.maximum(counts - n, 1)


def _shares(x: F64, y: F64, poor: Flags) -> StarMisfits:
    """Return the shares of the stars (N,) that are poor."""
    if x.size < LEAST:
        return StarMisfits()
    places = np.column_stack([x, y])
    around = np.asarray(cKDTree(places).query(places, max(NEAREST, int(PART * x.size)))[1], np.int64)
    local = poor[around].mean(1)
    worst = int(np.argmax(local))
    return StarMisfits(float(poor.mean()), float(local[worst]), *(float(v[around[worst]].mean()) for v in (x, y)))
