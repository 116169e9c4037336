"""How the noise of an image is correlated: measured on blank sky, as resampling and convolution leave it."""

import cv2
import numpy as np
from numpy import fft

from exposure.quantiles import median, scatter
from tasks.arrays import F32, F64, Flags

__all__ = ["BLOCK", "MAX_LAG", "near_sources", "sky_autocorrelation"]

BLOCK = 64
MAX_LAG = 5
APART = (
    16  # rows that count may be looked at without those that lie this far from all of them: nothing reaches that far
)


def sky_autocorrelation(image: F32, variance: F32, good: Flags, max_blocks: int = 150) -> F64 | None:
    """Return the mean of z z' of pixels z = image/sigma on blank sky, for lags -MAX_LAG..MAX_LAG in y and x.

    Averaged over blocks of `BLOCK` px that are mostly sky; None where there are fewer than four such blocks. The middle
    is the variance in units of the variance plane, 1 where that is right.
    """
    height, width = image.shape
    counted = np.asarray(good.any(axis=1, keepdims=True), np.uint8)
    rows = np.flatnonzero(cv2.dilate(counted, np.ones((2 * APART + 1, 1), np.uint8)))
    if not rows.size:
        return None
    part = rows if rows.size < height else slice(None)  # all of an image is looked at as it is
    z, sky = _sky_in_sigma(image[part], variance[part], good[part], image.size)
    row_of = np.full(height, -1)  # of rows where nothing counts: the last one, which is empty
    row_of[rows] = np.arange(rows.size)
    starts = [(y, x) for y in range(0, height - BLOCK + 1, BLOCK) for x in range(0, width - BLOCK + 1, BLOCK)]
    blocks, masks = [], []
    for y, x in starts[:: max(1, len(starts) // max_blocks)]:
        clear = sky[row_of[y : y + BLOCK], x : x + BLOCK]
        if clear.mean() > 0.5:
            values = z[row_of[y : y + BLOCK], x : x + BLOCK]
            blocks.append(np.where(clear, values - median(values[clear]), 0))
            masks.append(clear)
    if len(blocks) < 4:
        return None
    size = 2 * BLOCK
    power = (np.abs(fft.rfft2(np.stack(blocks), (size, size))) ** 2).mean(0)
    weight = (np.abs(fft.rfft2(np.stack(masks).astype(np.float32), (size, size))) ** 2).mean(0)
    auto, overlap = fft.irfft2(power, (size, size)), fft.irfft2(weight, (size, size))
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    return np.asarray((auto / np.maximum(overlap, 1))[np.ix_(lags, lags)], np.float64)


def _sky_in_sigma(image: F32, variance: F32, good: Flags, size: int) -> tuple[F32, Flags]:
    """Return image/sigma, 0 where a pixel does not count, and which pixels are blank sky; both with an empty row below.

    `size` is the number of pixels of the whole image.
    """
    height, width = image.shape
    z, sky = np.zeros((height + 1, width), np.float32), np.zeros((height + 1, width), np.bool_)
    ok = np.logical_and(good, variance > 0, out=sky[:-1])
    np.sqrt(variance, out=z[:-1], where=ok)
    np.divide(image, z[:-1], out=z[:-1], where=ok)
    ok &= ~near_sources(z[:-1], ok, size)
    return z, sky


def near_sources(z: F32, ok: Flags, size: int = 0) -> Flags:
    """Return pixels within 8 px of anything that stands out of the smoothed image: its wings would look correlated.

    `size` is the number of pixels of the image that `z` is a part of.
    """
    smooth = cv2.GaussianBlur(z, (0, 0), 1.5)
    values = smooth[ok][:: max(1, max(size, z.size) // 400_000)]
    sigma = scatter(values) if values.size else 1.0
    high = np.abs(smooth, out=smooth) > 4 * sigma
    high |= np.abs(z, out=smooth) > 4.5
    return np.asarray(cv2.dilate(high.view(np.uint8), np.ones((17, 17), np.uint8)) > 0)
