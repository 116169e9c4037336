"""Stars of a frame with bad pixels on them, made whole: what the PSF says stands in.

Where a frame lacks a pixel of a star, a coadd would be the mean of the other frames there, whose PSF is another: a bright star
that one column of one frame is missing from is 10 sigma off. The PSF model is fitted to the pixels that are left, flux, place and
level, and known to a few per cent of the star's light, which a mean over frames divides by their number.
"""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from scipy.ndimage import uniform_filter

from exposure import Exposure, PsfUndefined
from exposure.mask import plane_bits
from exposure.psf_width import psf_fwhm
from exposure.stamps import gather, shift_stamps, sided
from tasks.arrays import F32, F64, I64, Flags, nearest_pixels

__all__ = ["with_whole_stars"]

LEAST_SNR = 20.0
REACH = 2.0  # FWHM of a star: beyond it another PSF makes no difference that is seen
CORE = 0.03  # of the peak: pixels that a star is fitted on
LEAST_SEEN = 0.5  # of the light of those
MODEL_ERROR = 0.02  # of the light of a pixel, that a PSF model misses
MOST_CHI2 = 3.0  # per pixel: what fits no better is no star, or two
STEPS = 6  # of the fit
STEP, FARTHEST = 0.4, 0.95  # px: of one of them, and of all
BATCH = 1000  # stars whose stamps are held


def with_whole_stars(exposures: Sequence[Exposure]) -> list[Exposure]:
    """Return frames whose ``BAD`` and ``CR`` pixels on stars hold what the PSF says: they are ``INTRP`` then.

    Pixels elsewhere, and on what the PSF does not fit, stay as they are; so do the frames themselves. Where the stars are tell
    the sources of all frames: that of a star with a column missing may lie beside it.
    """
    sources = [e.sources for e in exposures if e.sources is not None]
    if not sources:
        return list(exposures)
    ra, dec, snr = (np.concatenate([s[c].to_numpy(np.float64) for s in sources]) for c in ("ra", "dec", "snr"))
    bright = (snr > LEAST_SNR) & np.isfinite(ra + dec)
    return [_with_whole_stars(e, ra[bright], dec[bright]) for e in exposures]


def _with_whole_stars(exposure: Exposure, ra: F64, dec: F64) -> Exposure:
    """Do it for a frame and the stars at some positions (N,), degrees."""
    missing = exposure.flagged("BAD", "CR") & ~exposure.flagged("SAT")
    x, y = exposure.require_wcs().sky_to_pixel(ra, dec)
    inside = exposure.contains(x, y)
    if not (missing.any() and inside.any()):
        return exposure
    x, y = x[inside], y[inside]
    reach = int(np.ceil(REACH * psf_fwhm(exposure.require_psf(), exposure.bbox)))
    cx, cy = nearest_pixels(x) - exposure.origin[0], nearest_pixels(y) - exposure.origin[1]
    near = cv2.dilate(missing.view(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0
    rows = np.unique(cy * exposure.width + cx, return_index=True)[1]  # most frames know of the same stars
    rows = rows[near[cy[rows], cx[rows]]]
    planes = [
        np.where(exposure.good("BAD", "CR", "SAT"), p, np.float32(np.nan)) for p in (exposure.image, exposure.variance)
    ]
    try:
        parts = [
            _filled(exposure, missing, planes, (x[part], y[part]), (cx[part], cy[part]), reach)
            for part in (rows[first : first + BATCH] for first in range(0, rows.size, BATCH))
        ]
    except PsfUndefined:
        return exposure
    if not parts:
        return exposure
    filled = np.concatenate(parts, axis=1)
    filled = filled[:, np.argsort(filled[0], kind="stable")]  # of two stars the brighter one has a pixel
    at = filled[1].astype(np.int64), filled[2].astype(np.int64)
    out = replace(exposure, image=exposure.image.copy(), variance=exposure.variance.copy(), mask=exposure.mask.copy())
    out.image[at], out.variance[at] = filled[3:]
    out.mask[at] &= np.int32(~plane_bits(["BAD", "CR", "NO_DATA"]))
    out.mask[at] |= np.int32(plane_bits(["INTRP"]))
    return out


def _filled(
    exposure: Exposure, missing: Flags, planes: list[F32], place: tuple[F64, F64], centre: tuple[I64, I64], reach: int
) -> F64:
    """Return the light of a star, row and column (array px), value and variance, shape (5, M), of the missing pixels that stars have.

    Parameters
    ----------
    planes
        Image and variance, NaN where nothing is known.
    place, centre
        x and y of stars (N,): frame px, about, and the array pixels that they are on.
    reach
        How far from those pixels are filled, px.
    """
    pixels, variance = (gather(plane, *centre, 2 * reach + 1, np.nan) for plane in planes)
    light, level, star = _fitted(exposure, *place, pixels, variance)
    noise = _noise(light, variance)
    with np.errstate(invalid="ignore"):
        lit = gather(missing, *centre, 2 * reach + 1, False) & star[:, None, None] & (light > np.sqrt(noise))
    n, j, i = np.nonzero(lit)
    value = (light + level + _around(pixels - light - level))[lit]
    return np.stack(
        [
            light[lit],
            centre[1][n] + j - reach,
            centre[0][n] + i - reach,
            value,
            noise[lit] + (MODEL_ERROR * light[lit]) ** 2,
        ]
    )


def _fitted(exposure: Exposure, x: F64, y: F64, pixels: F32, variance: F32) -> tuple[F64, F64, Flags]:
    """Return the light (N, S, S) of sources, the level (N, 1, 1) beneath each, and which of them (N,) are as the PSF is.

    `pixels` and `variance` (N, S, S) are NaN where nothing is known; x and y (N,) frame px, about.
    """
    kernels = exposure.require_psf().kernel_at(x, y)
    dx, dy = x - nearest_pixels(x), y - nearest_pixels(y)
    data, seen = np.nan_to_num(pixels).astype(np.float64), np.isfinite(pixels) & (variance > 0)
    moved, n = np.empty(kernels.shape, np.float32), len(x)
    for step in range(STEPS):
        shift_stamps(kernels, dx, dy, moved)
        profile = sided(moved, pixels.shape[-1]).astype(np.float64)
        used = (profile > CORE * profile.max(axis=(1, 2), keepdims=True)) & seen
        gy, gx = np.gradient(profile, axis=(1, 2))
        basis = np.stack([profile, np.ones_like(profile), -gx, -gy], axis=1).reshape(n, 4, -1)
        weighted = basis * used.reshape(n, 1, -1)
        normal = weighted @ basis.transpose(0, 2, 1)
        normal += (1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-30) * np.eye(4)
        right = (weighted * data.reshape(n, 1, -1)).sum(2)
        flux, level, *move = np.linalg.solve(normal, right[..., None])[..., 0].T
        if step < STEPS - 1:
            with np.errstate(invalid="ignore", divide="ignore"):
                by_x, by_y = (np.nan_to_num(np.clip(m / flux, -STEP, STEP)) for m in move)
            dx, dy = np.clip(dx + by_x, -FARTHEST, FARTHEST), np.clip(dy + by_y, -FARTHEST, FARTHEST)
    light, level = flux[:, None, None] * profile, level[:, None, None]
    error = np.nan_to_num(variance, nan=1.0) + (MODEL_ERROR * light) ** 2
    chi2 = ((data - light - level) ** 2 / np.maximum(error, 1e-30) * used).sum((1, 2))
    core = profile * (profile > CORE * profile.max(axis=(1, 2), keepdims=True))
    share = (core * seen).sum((1, 2)) / np.maximum(core.sum((1, 2)), 1e-30)
    like_psf = chi2 < MOST_CHI2 * np.maximum(used.sum((1, 2)) - 4, 1)
    return light, level, np.asarray((flux > 0) & like_psf & (share > LEAST_SEEN))


def _around(left: F64) -> F64:
    """Return the mean (N, S, S) of what is known around each pixel of stamps, NaN where unknown; 0 where nothing is."""
    known = np.isfinite(left)
    total: F64 = uniform_filter(np.where(known, left, 0.0), (1, 3, 3), mode="constant")
    count: F64 = uniform_filter(known.astype(np.float64), (1, 3, 3), mode="constant")
    return np.asarray(np.where(count > 0.05, total / np.maximum(count, 0.05), 0.0))


def _noise(light: F64, variance: F32) -> F64:
    """Return the variance (N, S, S) that pixels of stars have by their light, as those have whose variance is known."""
    known = np.isfinite(variance)
    n = np.maximum(known.sum((1, 2)), 1)
    v, p = np.where(known, variance, 0).astype(np.float64), np.where(known, light, 0)
    mean_v, mean_p = v.sum((1, 2)) / n, p.sum((1, 2)) / n
    rise = ((p * v).sum((1, 2)) / n - mean_p * mean_v) / np.maximum((p * p).sum((1, 2)) / n - mean_p**2, 1e-30)
    rise = np.maximum(rise, 0)
    least = v.min(where=known, initial=np.inf, axis=(1, 2))
    noise = (mean_v - rise * mean_p)[:, None, None] + rise[:, None, None] * light
    return np.asarray(np.maximum(noise, least[:, None, None]))
