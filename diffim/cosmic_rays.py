"""Cosmic rays on a difference image: pixels sharper than the PSF allows."""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["find_cosmic_rays"]

MIN_SIGMA = 6.0
NEIGHBOUR_SIGMA = 2.0
SHARPNESS = 0.6  # of what the PSF would give to the neighbours
ITERATIONS = 4


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _search(image: Any, sigma: Any, out: Any, ratio_side: float, ratio_diagonal: float, least: float) -> int:
    """Mark pixels for which a pair of opposite neighbours is too faint for a PSF; marked neighbours count as zero."""
    height, width = image.shape
    found = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            s = sigma[y, x]
            p = image[y, x]
            if out[y, x] or not p > least * s:
                continue
            near = False
            for j in range(-1, 2):
                for i in range(-1, 2):
                    if out[y + j, x + i]:
                        near = True
            if not near and not p > MIN_SIGMA * s:
                continue
            sharp = (p - 1.0 * s) * SHARPNESS
            for k in range(4):
                dy, dx = (0, 1) if k == 0 else (1, 0) if k == 1 else (1, 1) if k == 2 else (1, -1)
                ratio = ratio_side if k < 2 else ratio_diagonal
                a = 0.0 if out[y + dy, x + dx] else image[y + dy, x + dx]
                b = 0.0 if out[y - dy, x - dx] else image[y - dy, x - dx]
                noise = 0.5 * math.sqrt(sigma[y + dy, x + dx] ** 2 + sigma[y - dy, x - dx] ** 2)
                if 0.5 * (a + b) + NEIGHBOUR_SIGMA * noise < ratio * sharp:
                    out[y, x] = True
                    found += 1
                    break
    return found


def find_cosmic_rays(
    image: NDArray[np.float32], variance: NDArray[np.float32], good: NDArray[np.bool_], sigma_px: float
) -> NDArray[np.bool_]:
    """Return where cosmic rays are.

    Parameters
    ----------
    image, variance
        A difference image and its variance.
    good
        Pixels that may be tested.
    sigma_px
        Gaussian width of the PSF of the image, px.
    """
    sigma = np.sqrt(np.where(good, variance, np.float32(1))).astype(np.float32)
    data = np.where(good, image, 0).astype(np.float32)
    out = np.zeros(image.shape, dtype=np.bool_)
    side, diagonal = math.exp(-0.5 / sigma_px**2), math.exp(-1.0 / sigma_px**2)
    for step in range(ITERATIONS):
        if not _search(data, sigma, out, side, diagonal, MIN_SIGMA if step == 0 else 3.0):
            break
    return out
