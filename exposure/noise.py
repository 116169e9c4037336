"""How the noise of an image is correlated: measured on blank sky, as resampling and convolution leave it."""

import cv2
import numpy as np
from numpy import fft
from numpy.typing import NDArray

from exposure.quantiles import median, scatter

__all__ = ["BLOCK", "MAX_LAG", "near_sources", "sky_autocorrelation"]

BLOCK = 64
MAX_LAG = 5


def sky_autocorrelation(
    image: NDArray[np.float32], variance: NDArray[np.float32], good: NDArray[np.bool_], max_blocks: int = 150
) -> NDArray[np.float64] | None:
    """Return the mean of z z' of pixels z = image/sigma on blank sky, for lags -MAX_LAG..MAX_LAG in y and x.

    Averaged over blocks of `BLOCK` px that are mostly sky; None where there are fewer than four such blocks. The middle
    is the variance in units of the variance plane, 1 where that is right.
    """
    height, width = image.shape
    ok = good & (variance > 0)
    z = np.where(ok, image / np.sqrt(np.where(ok, variance, 1)), 0).astype(np.float32)
    sky = ok & ~near_sources(z, ok)
    starts = [(y, x) for y in range(0, height - BLOCK + 1, BLOCK) for x in range(0, width - BLOCK + 1, BLOCK)]
    blocks, masks = [], []
    for y, x in starts[:: max(1, len(starts) // max_blocks)]:
        part = sky[y : y + BLOCK, x : x + BLOCK]
        if part.mean() > 0.5:
            values = z[y : y + BLOCK, x : x + BLOCK]
            blocks.append(np.where(part, values - median(values[part]), 0))
            masks.append(part)
    if len(blocks) < 4:
        return None
    size = 2 * BLOCK
    power = (np.abs(fft.rfft2(np.stack(blocks), (size, size))) ** 2).mean(0)
    weight = (np.abs(fft.rfft2(np.stack(masks).astype(np.float32), (size, size))) ** 2).mean(0)
    auto, overlap = fft.irfft2(power, (size, size)), fft.irfft2(weight, (size, size))
    lags = np.arange(-MAX_LAG, MAX_LAG + 1)
    return np.asarray((auto / np.maximum(overlap, 1))[np.ix_(lags, lags)], np.float64)


def near_sources(z: NDArray[np.float32], ok: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return pixels within 8 px of anything that stands out of the smoothed image: its wings would look correlated."""
    smooth = cv2.GaussianBlur(z, (0, 0), 1.5)
    values = smooth[ok][:: max(1, z.size // 400_000)]
    spread = scatter(values) if values.size else 1.0
    high = (np.abs(smooth) > 4 * spread) | (np.abs(z) > 4.5)
    return np.asarray(cv2.dilate(high.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0)
