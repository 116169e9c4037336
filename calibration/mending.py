"""Values for lone bad pixels: what the light around them says, with the error of saying so.

A bad pixel would cost every kernel that touches it. Star light is a stationary process whose autocovariance is that of
the PSF, averaged over the places of stars inside their pixels; the best linear guess of a missing pixel from its
neighbours follows (Wiener; Rasmussen & Williams 2006, eq. 2.25), and so does the error of the guess.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.stars import bright_stars
from exposure import Exposure, Instrument
from exposure.mask import plane_bits
from exposure.stamps import gather

__all__ = ["mend_bad_pixels"]

REACH = 2  # px: neighbours that a guess is made from
LEAST_KNOWN = 4  # of the eight pixels around: a guess from fewer is none
LEAST_NOISE = 1e-3  # of the power of the light around: keeps the equations well posed
STARS = 200
CHUNK = 4096
USUAL_FWHM = 2.5  # px, where no star tells
F64 = NDArray[np.float64]


def mend_bad_pixels(exposure: Exposure, rules: Instrument) -> int:
    """Guess the pixels that the instrument file calls bad, in place, where their neighbours allow it; returns how many.

    They are INTRP instead of BAD then, and the error of the guess is added to their variance. The sky must be taken off.
    """
    if not rules.bad_pixels:
        return 0
    bad = exposure.flagged("BAD") & ~exposure.flagged("NO_DATA")
    usable = exposure.good("BAD", "SAT", "CR")
    around = cv2.boxFilter(usable.astype(np.float32), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    y, x = np.nonzero(bad & (around > LEAST_KNOWN - 0.5))
    if y.size == 0:
        return 0
    covariance = _autocovariance(exposure)
    image = np.where(usable, exposure.image, 0).astype(np.float32)
    noise = _sky_variance(exposure, usable, x, y)
    light = np.square(gather(image, x, y, 3, 0.0), dtype=np.float64).max(axis=(1, 2))
    light = np.maximum(light, noise)
    value, error = np.zeros(y.size), np.ones(y.size)
    for low in range(0, y.size, CHUNK):
        part = slice(low, low + CHUNK)
        value[part], error[part] = _guess(image, usable, x[part], y[part], covariance, (noise / light)[part])
    exposure.image[y, x] = value
    exposure.variance[y, x] = noise + light * error**2
    exposure.mask[y, x] &= np.int32(~plane_bits(["BAD", "SAT"]))
    exposure.mask[y, x] |= np.int32(plane_bits(["INTRP"]))
    return int(y.size)


def _sky_variance(exposure: Exposure, usable: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64]) -> F64:
    """Return the median variance of usable pixels around each: that of a bad pixel holds its own light's noise."""
    near = gather(np.where(usable, exposure.variance, np.float32(np.nan)), x, y, 2 * REACH + 1, np.nan)
    return np.asarray(np.nanmedian(near, axis=(1, 2)), np.float64)


def _autocovariance(exposure: Exposure) -> F64:
    """Return the autocovariance of star light at lags up to 2 REACH, 1 in the middle, shape (4 REACH + 1,) * 2."""
    lag = 2 * REACH
    side = 2 * (lag + 5) + 1
    stars = bright_stars(exposure)
    ix = np.floor(stars.x[:STARS] + 0.5).astype(np.int64) - exposure.origin[0]
    iy = np.floor(stars.y[:STARS] + 0.5).astype(np.int64) - exposure.origin[1]
    light = gather(exposure.image, ix, iy, side, np.nan).astype(np.float64)
    spoilt = (gather(exposure.mask, ix, iy, side, -1) & plane_bits(["BAD", "SAT", "NO_DATA", "CR"])) != 0
    clean = ~spoilt[:, lag + 3 : -lag - 3, lag + 3 : -lag - 3].any(axis=(1, 2)) & np.isfinite(light).all(axis=(1, 2))
    light = np.where(spoilt, 0, light)[clean]
    if len(light) < 5:
        g = np.arange(-lag, lag + 1)
        return np.asarray(np.exp(-(g[:, None] ** 2 + g[None, :] ** 2) / (4 * (USUAL_FWHM / 2.3548) ** 2)))
    core = slice(lag, side - lag)
    light /= light[:, core, core].sum(axis=(1, 2))[:, None, None]
    out = np.empty((2 * lag + 1, 2 * lag + 1))
    for j in range(-lag, lag + 1):  # 81 lags
        for i in range(-lag, lag + 1):
            moved = light[:, lag + j : side - lag + j, lag + i : side - lag + i]
            out[lag + j, lag + i] = np.median((light[:, core, core] * moved).sum(axis=(1, 2)))
    out = 0.5 * (out + out[::-1, ::-1])
    return np.asarray(out / out[lag, lag])


def _guess(
    image: NDArray[np.float32], usable: NDArray[np.bool_], x: NDArray[np.int64], y: NDArray[np.int64], covariance: F64,
    noise: F64,
) -> tuple[F64, F64]:  # fmt: skip
    """Return guesses of pixels from their neighbours, and their errors as a fraction of the light around.

    `noise` is the variance of a pixel over the power of that light.
    """
    side, lag = 2 * REACH + 1, 2 * REACH
    g = np.arange(side) - REACH
    dy, dx = (a.ravel() for a in np.meshgrid(g, g, indexing="ij"))
    others = (dy != 0) | (dx != 0)
    dy, dx = dy[others], dx[others]
    between = covariance[dy[:, None] - dy[None, :] + lag, dx[:, None] - dx[None, :] + lag]
    to_middle = covariance[dy + lag, dx + lag]
    known = gather(usable.astype(np.uint8), x, y, side, 0).reshape(len(x), -1)[:, others] > 0
    light = gather(image, x, y, side, 0.0).reshape(len(x), -1)[:, others].astype(np.float64)
    system = (
        between * (known[:, :, None] & known[:, None, :])
        + np.eye(dy.size) * np.where(known, (noise + LEAST_NOISE)[:, None], 1.0)[:, None, :]
    )
    right = to_middle * known
    weight = np.linalg.solve(system, right[..., None])[..., 0]
    error = np.sqrt(np.clip(1 - (weight * right).sum(1), 0, 1))
    return (weight * light).sum(1), error
