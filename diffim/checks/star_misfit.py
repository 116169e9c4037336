"""Where constant stars do not subtract: a PSF or a kernel that is right for most of the frame may be wrong in a part of it.

Medians over all stars say nothing of a step between two amplifiers or of a steep rim. Each star is judged by itself: the
residual is developed in the PSF and its derivatives. The first ones are a change of flux and a shift, which variable and moving
stars leave too; those of second to fourth order are what a wrong shape leaves; the rest of the pixels tells what noise there is,
whatever the variance plane says of a star's own photons (it knows no gain where none is given).
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import bdtrc

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.photometry import psf_images
from exposure.psf import fwhm_of
from exposure.stamps import sided
from exposure.stars import Stars
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["StarMisfits", "star_misfits"]

RADIUS = 1.2  # FWHM of the difference: pixels around a star that are looked at
ORDER = 4  # of the derivatives by x and y that stand for a wrong shape
POOR = 6.0  # times the variance of the rest: the mean square of those of a star that does not subtract
CHANGES = 3  # flux and shifts, which come first
TOLERANCE = 0.02  # of its light (rms), that no model of a PSF is better than
SAMPLED = 3.0  # px: the light of stars with a smaller FWHM is aliased, and leaves more
SEEN = 0.8  # of those pixels, that a star must have
NEAREST = 12  # stars whose share is that of a place, or
PART = 0.1  # of all, where that is more: a crowded core is not a part of the frame
MOST = 1000  # stars that are judged: evenly by brightness
CHANCE = 1e-3  # that so many of a part are poor where nothing is special
CHUNK = 100  # stars at once
LEAST = 25  # stars: of fewer some odd ones (blends, stars that moved far) make a large share


@dataclass(frozen=True)
class StarMisfits:
    """Shares of stars that do not subtract: of all, and of the nearest ones around the poorest place (x, y; frame px), where that
    stands out.

    NaN where the stars are too few, or too narrow for the pixels.
    """

    share: float = float("nan")
    local_share: float = float("nan")
    x: float = float("nan")
    y: float = float("nan")


def star_misfits(difference: Exposure, stars: Stars) -> StarMisfits:
    """Judge each of some bright sources by the rest of the difference there.

    The mean square of its shape coefficients, in units of the difference's variance, is compared with that of the pixels' rest
    (or with 1 where that is less) and with what `TOLERANCE` of its light makes.
    """
    psf = difference.require_psf()
    if len(stars) < LEAST:
        return StarMisfits()
    if len(stars) > MOST:
        stars = stars.take(np.argsort(-stars.snr, kind="stable")[np.linspace(0, len(stars) - 1, MOST).astype(np.int64)])
    stamps = psf_images(psf, stars.x, stars.y)
    defined = np.isfinite(stamps).all((1, 2))  # not in the gap of a coadd
    stamps, stars = stamps[defined], stars.take(np.flatnonzero(defined))
    if len(stars) < LEAST:
        return StarMisfits()
    fwhm = float(np.median(fwhm_of(psf.moments_at(stars.x, stars.y))))
    if not fwhm >= SAMPLED:
        return StarMisfits()
    image = MaskedImage.of(difference, "BAD", "SAT", "CR")
    parts = [slice(k, k + CHUNK) for k in range(0, len(stars), CHUNK)]
    each = [_poor(image, stars.take(np.arange(len(stars))[part]), stamps[part], fwhm) for part in parts]
    poor, able = (np.concatenate(v) for v in zip(*each, strict=True))
    return _shares(stars.x[able], stars.y[able], poor[able])


def _poor(image: MaskedImage, stars: Stars, stamps: F32, fwhm: float) -> tuple[Flags, Flags]:
    """Return which stars (N,) do not subtract, and which have pixels enough to say so."""
    side = 2 * int(np.ceil(RADIUS * fwhm)) + 1
    values, variance = image.stamps(nearest_pixels(stars.x), nearest_pixels(stars.y), side)
    basis = _derivatives(sided(stamps, side + 2 * ORDER).astype(np.float64))
    g = np.arange(side) - side // 2
    disc = np.hypot(g[:, None], g[None, :]) <= RADIUS * fwhm
    use = disc & np.isfinite(variance) & (variance > 0)
    weight = np.where(use, 1 / np.sqrt(np.where(use, variance, 1.0), dtype=np.float64), 0)
    data = (np.where(use, values, 0) * weight).reshape(len(stars), -1)
    basis *= weight[:, None]
    n, count = basis.shape[1], use.sum((1, 2))
    light = np.clip(stars.psfFlux, 0, None) ** 2 * (basis[:, 0] ** 2).sum((1, 2))
    shape, rest = _powers(data, basis.reshape(len(stars), n, -1), count)
    # what a model leaves that is off by `TOLERANCE` has a shape: all of it is in those coefficients
    allowed = POOR * np.maximum(rest, 1) + TOLERANCE**2 * light / (n - CHANGES)
    return shape > allowed, count >= SEEN * disc.sum()


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
    """Return the shares of the stars (N,) that are poor: of all, and of a part where chance does not make so many of the rest's share."""
    n, near = x.size, max(NEAREST, int(PART * x.size))
    if n < LEAST:
        return StarMisfits()
    places = np.column_stack([x, y])
    around = np.asarray(cKDTree(places).query(places, near)[1], np.int64)
    inside = poor[around].sum(1)
    worst = int(np.argmax(inside))
    at = (float(v[around[worst]].mean()) for v in (x, y))
    elsewhere = (poor.sum() - inside[worst] + 1) / (n - near + 2)
    chance = bdtrc(inside[worst] - 1.0, near, elsewhere) * n / near  # so many or more
    local = float(inside[worst] / near) if chance < CHANCE else float(poor.mean())
    return StarMisfits(float(poor.mean()), local, *at)
