"""Cosmic rays on a difference image: pixels sharper than the PSF allows."""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from exposure import Psf

__all__ = ["find_cosmic_rays", "neighbour_ratios"]

MIN_SIGMA = 6.0
NEIGHBOUR_SIGMA = 2.0
SHARPNESS = 0.6  # of what the PSF would give to the neighbours
ITERATIONS = 4


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _search(image: Any, sigma: Any, allowed: Any, out: Any, ratios: Any, least: float) -> int:
    """Mark pixels for which a pair of opposite neighbours is too faint for a PSF; marked neighbours count as zero."""
    height, width = image.shape
    found = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            s = sigma[y, x]
            p = image[y, x]
            if out[y, x] or not allowed[y, x] or not p > least * s:
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
                a = 0.0 if out[y + dy, x + dx] else image[y + dy, x + dx]
                b = 0.0 if out[y - dy, x - dx] else image[y - dy, x - dx]
                noise = 0.5 * math.sqrt(sigma[y + dy, x + dx] ** 2 + sigma[y - dy, x - dx] ** 2)
                if 0.5 * (a + b) + NEIGHBOUR_SIGMA * noise < ratios[k] * sharp:
                    out[y, x] = True
                    found += 1
                    break
    return found


def neighbour_ratios(psf: Psf) -> NDArray[np.float64]:
    """Return the least ratio of the mean of two opposite neighbours to the peak pixel, for any sub-pixel position.

    Four directions: horizontal, vertical, the two diagonals.
    """
    x0, y0 = psf.average_position()
    phase = np.linspace(-0.45, 0.45, 5)
    fx, fy = (a.ravel() for a in np.meshgrid(phase, phase))
    stamps = psf.image_at(np.floor(x0) + fx, np.floor(y0) + fy).astype(np.float64)
    c = stamps.shape[-1] // 2
    peak = stamps[:, c, c]
    pairs = [stamps[:, c + dy, c + dx] + stamps[:, c - dy, c - dx] for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))]
    return np.array([np.clip((0.5 * pair / peak).min(), 0.05, 1.0) for pair in pairs])


def find_cosmic_rays(
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    good: NDArray[np.bool_],
    psf: Psf,
    known_light: NDArray[np.float32] | None = None,
) -> NDArray[np.bool_]:
    """Return where cosmic rays (and hot pixels) are.

    Parameters
    ----------
    image, variance
        An image without background and its variance.
    good
        Pixels that may be tested.
    psf
        Its PSF: what is sharper is no source.
    known_light
        What a template has there, in the image's units: a pixel must be twice as bright to be a cosmic ray (the cores
        of undersampled stars are sharp too).
    """
    sigma = np.sqrt(np.where(good, variance, np.float32(1))).astype(np.float32)
    data = np.where(good, image, 0).astype(np.float32)
    out = np.zeros(image.shape, dtype=np.bool_)
    ratios = neighbour_ratios(psf)
    allowed = good if known_light is None else good & (data > 2 * known_light)
    for step in range(ITERATIONS):
        if not _search(data, sigma, allowed, out, ratios, MIN_SIGMA if step == 0 else 3.0):
            break
    return out
