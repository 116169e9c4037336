"""The power spectrum of an image's noise: resampled images have correlated noise, and whitening must know it."""

import cv2
import numpy as np
from numpy import fft

from diffim.pixels.masked_image import MaskedImage
from exposure.noise import BLOCK, MAX_LAG, near_sources, sky_autocorrelation
from tasks.arrays import F32, F64, Flags

__all__ = [
    "BLOCK",
    "correlated_gain",
    "measured_autocorrelation",
    "noise_autocorrelation",
    "noise_power",
    "sky_correlation",
    "smooth_power",
]

BLOCKS, BANDS = 50, 2  # of sky, that tell how noise is correlated; bands of rows at least
FLOOR = 0.08  # of white noise: frequencies that resampling removed are not blown up


def noise_power(image: F32, variance: F32, good: Flags, max_blocks: int = 150) -> F64:
    """Return the power (BLOCK, BLOCK/2+1) of image/sigma on blank sky, mean 1 over frequencies.

    The autocorrelation up to `MAX_LAG` px is averaged over blocks that are mostly sky; ones where there are fewer than
    four such blocks (white noise).
    """
    correlation = sky_autocorrelation(image, variance, good, max_blocks)
    return np.ones((BLOCK, BLOCK // 2 + 1)) if correlation is None else _tapered(correlation)


def noise_autocorrelation(planes: MaskedImage) -> F64 | None:
    """Return the correlation coefficients of an image's noise at lags -MAX_LAG..MAX_LAG in y and x; None without sky.

    Measured on bands of rows that hold some `BLOCKS` blocks: how a resampled image is correlated varies with the phase of its pixels.
    """
    correlation = measured_autocorrelation(planes)
    if correlation is None:
        return None
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    near = fft.irfft2(_tapered(correlation), (BLOCK, BLOCK))[np.ix_(lags, lags)]
    return np.asarray(near / near[MAX_LAG, MAX_LAG])


def measured_autocorrelation(planes: MaskedImage) -> F64 | None:
    """Return the correlation coefficients as they are measured, which need not be those of any power that is positive everywhere."""
    height, width = planes.image.shape
    number = int(np.clip(np.ceil(BLOCKS * BLOCK / width), BANDS, max(height // BLOCK, BANDS)))
    bands = [slice(low, low + BLOCK) for low in np.linspace(0, max(height - BLOCK, 0), number + 2).astype(int)[1:-1]]
    image, variance = (np.concatenate([plane[b] for b in bands]) for plane in (planes.image, planes.variance))
    correlation = sky_autocorrelation(image, variance, np.concatenate([planes.good(b) for b in bands]), BLOCKS)
    if correlation is None or not correlation[MAX_LAG, MAX_LAG] > 0:
        return None
    return np.asarray(correlation / correlation[MAX_LAG, MAX_LAG])


def correlated_gain(stamp: F32, correlation: F64 | None) -> np.float32:
    """Return the variance that a filter (S, S) leaves of noise with a correlation over what it leaves of white noise."""
    if correlation is None:
        return np.float32(1)
    side = stamp.shape[-1] + correlation.shape[-1]  # lags do not wrap around
    near = fft.irfft2(np.abs(fft.rfft2(stamp.astype(np.float64), (side, side))) ** 2, (side, side))
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    return np.float32((near[np.ix_(lags, lags)] * correlation).sum() / near[0, 0])


def sky_correlation(planes: MaskedImage, rows: int = 128) -> float:
    """Return the correlation coefficient of horizontal neighbour pixels on blank sky of the middle `rows`.

    0 is white noise, NaN: no sky to measure it on.
    """
    low = max((planes.image.shape[0] - rows) // 2, 0)
    part = slice(low, low + rows)
    image, variance, ok = planes.image[part], planes.variance[part], planes.good(part)
    z = np.where(ok, image / np.sqrt(np.where(ok, variance, 1)), 0).astype(np.float32)
    sky = ok & ~near_sources(z - cv2.blur(z, (65, 65)), ok)
    # faint wings and backgrounds are no noise: take out what is smooth over 9 px, and what that takes from white noise
    z = np.where(sky, z, 0)
    share = np.maximum(cv2.blur(sky.astype(np.float32), (9, 9)), 1e-6)
    z -= cv2.blur(z, (9, 9)) / share
    z *= sky
    pairs = np.count_nonzero(sky[:, 1:] & sky[:, :-1])
    if pairs < 2000:
        return float("nan")
    together = np.sum(z[:, 1:] * z[:, :-1], dtype=np.float64) / pairs
    return float(together * np.count_nonzero(sky) / np.sum(z * z, dtype=np.float64)) + 1 / 81


def smooth_power(power: F64) -> F64:
    """Return a power spectrum (BLOCK, BLOCK/2+1), of shape and truncation as those of `noise_power`, mean 1."""
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    return _tapered(fft.irfft2(power, (BLOCK, BLOCK))[np.ix_(lags, lags)])


def _tapered(correlation: F64) -> F64:
    """Power of an autocorrelation known at lags -MAX_LAG..MAX_LAG, tapered, floored."""
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    taper = np.clip(1 - np.maximum.outer(np.abs(lags), np.abs(lags)) / (MAX_LAG + 1), 0, 1)
    wide = np.zeros((BLOCK, BLOCK))
    wide[np.ix_(lags, lags)] = correlation / correlation[MAX_LAG, MAX_LAG] * np.sqrt(taper)
    return np.maximum(fft.rfft2(wide).real, FLOOR)
