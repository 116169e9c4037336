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
def _value(image: Any, good: Any, out: Any, y: int, x: int) -> float:
    return float(image[y, x]) if good[y, x] and not out[y, x] else 0.0


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _outshines(image: Any, known: Any, y: int, x: int) -> bool:
    """Whether the pixel is twice as bright as the brightest known one of the 3x3."""
    most = 0.0
    for j in range(-1, 2):
        for i in range(-1, 2):
            k = float(known[y + j, x + i])
            most = k if k > most else most  # NaN is never larger
    return bool(float(image[y, x]) > 2 * most)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _search(image: Any, variance: Any, good: Any, known: Any, out: Any, ratios: Any, least: float) -> int:
    """Mark pixels for which a pair of opposite neighbours is too faint for a PSF; marked neighbours count as zero."""
    height, width = image.shape
    found = 0
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            p, v = float(image[y, x]), float(variance[y, x])
            if not (p > 0 and p * p > least * least * v) or out[y, x] or not good[y, x]:
                continue
            near = False
            for j in range(-1, 2):
                for i in range(-1, 2):
                    if out[y + j, x + i]:
                        near = True
            if not near and not p * p > MIN_SIGMA * MIN_SIGMA * v:
                continue
            sharp = (p - 1.0 * math.sqrt(v)) * SHARPNESS
            for k in range(4):
                dy, dx = (0, 1) if k == 0 else (1, 0) if k == 1 else (1, 1) if k == 2 else (1, -1)
                a, b = _value(image, good, out, y + dy, x + dx), _value(image, good, out, y - dy, x - dx)
                va = float(variance[y + dy, x + dx]) if good[y + dy, x + dx] else v
                vb = float(variance[y - dy, x - dx]) if good[y - dy, x - dx] else v
                if 0.5 * (a + b) + NEIGHBOUR_SIGMA * 0.5 * math.sqrt(va + vb) < ratios[k] * sharp:
                    if known.shape[0] == 0 or _outshines(image, known, y, x):
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
        What a template has there, in the image's units: a pixel must be twice as bright as the brightest of the 3x3 to
        be a cosmic ray (the cores of undersampled stars are sharp too).
    """
    out = np.zeros(image.shape, dtype=np.bool_)
    ratios = neighbour_ratios(psf)
    known = np.zeros((0, 0), np.float32) if known_light is None else known_light
    for step in range(ITERATIONS):
        if not _search(image, variance, good, known, out, ratios, MIN_SIGMA if step == 0 else 3.0):
            break
    return out
