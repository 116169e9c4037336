"""Passes over pixels that a visit summary needs."""

from typing import NamedTuple

import numpy as np

from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32
from tasks.compiled import compiled

__all__ = ["clipped", "farthest_from_any"]

_SAMPLE = 50_000


class Bounds(NamedTuple):
    """Lowest and highest value that counts, and the middle that sums are about, in the unit of the pixels."""

    low: np.float32
    high: np.float32
    middle: np.float32


# sums may be taken in any order (and so in vectors), but NaN must stay NaN: not all of "fastmath"
@compiled(fastmath={"reassoc", "contract"})
def _moments(pixels: F32, mask: I32, bits: np.int32, bounds: Bounds, out: F64, first: int, last: int) -> None:
    """Write per row (height, 3): how many pixels count, and the sum and sum of squares of their distance from the
    middle.
    """
    zero, low, high, middle = np.float32(0.0), bounds.low, bounds.high, bounds.middle
    for y in range(first, last):
        n = 0
        total = np.float32(0.0)
        square = np.float32(0.0)
        for x in range(pixels.shape[1]):
            value = pixels[y, x]
            good = (value >= low) & (value <= high) & ((mask[y, x] & bits) == 0)
            off = (value - middle) if good else zero
            n += good
            total += off
            square += off * off
        out[y, 0], out[y, 1], out[y, 2] = n, total, square


def _sums(pixels: F32, mask: I32, bits: int, low: float, high: float, middle: float) -> tuple[float, float, float]:
    """Return number, sum and sum of squares about the middle of the pixels between two values."""
    rows = np.empty((pixels.shape[0], 3))
    bounds = Bounds(np.float32(low), np.float32(high), np.float32(middle))
    in_bands(lambda first, last: _moments(pixels, mask, np.int32(bits), bounds, rows, first, last), pixels.shape[0])
    n, total, square = rows.sum(0)
    return float(n), float(total), float(square)


def clipped(pixels: F32, mask: I32, bits: int) -> tuple[float, float]:
    """Return mean and standard deviation after two rounds of 3 sigma clipping; NaN without pixels.

    The first bounds come from median and quartiles of a regular sample; the rounds see every pixel (float32 sums per
    row about the middle: exact to 1e-6). Pixels with any of the mask's `bits`, and NaN, do not count.
    """
    step = max(1, int(np.sqrt(pixels.size / _SAMPLE)))
    part = pixels[::step, ::step][(mask[::step, ::step] & np.int32(bits)) == 0]
    part = part[np.isfinite(part)]
    if not part.size and step > 1:
        part = pixels[((mask & np.int32(bits)) == 0) & np.isfinite(pixels)]
    if not part.size:
        return float("nan"), float("nan")
    low, middle, high = (float(v) for v in np.percentile(part, [25, 50, 75]))
    sigma = 0.7413 * (high - low)
    mean = middle
    for _ in range(2):
        reach = 3.0 * sigma if sigma > 0 else np.inf
        n, total, square = _sums(pixels, mask, bits, middle - reach, middle + reach, middle)
        if n == 0:
            break
        mean = middle + total / n
        sigma = float(np.sqrt(max(square / n - (total / n) ** 2, 0.0)))
        middle = mean
    return mean, sigma


@compiled
def _farthest(gx: F64, gy: F64, x: F64, y: F64) -> float:
    """Return what `farthest_from_any` does, for stars at finite positions."""
    worst = 0.0
    for i in range(gx.size):
        best = np.inf
        for j in range(x.size):
            d = (gx[i] - x[j]) ** 2 + (gy[i] - y[j]) ** 2
            if d < best:
                best = d
                if best <= worst:
                    break
        if best > worst:
            worst = best
    return float(np.sqrt(worst))


def farthest_from_any(gx: F64, gy: F64, x: F64, y: F64) -> float:
    """Return the largest distance (px) of grid points gx, gy (N,) from the nearest of some stars x, y (M,).

    NaN without any.
    """
    good = np.isfinite(x) & np.isfinite(y)
    return float(_farthest(gx, gy, x[good], y[good])) if good.any() else float("nan")
