"""One of the two images as the matcher sees it: pixels that count, windows of tiles, stamps; no full-size copies."""

from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from exposure import Exposure
from exposure.mask import plane_bits, usable_pixels
from exposure.stamps import gather

__all__ = ["Planes", "block_medians"]

F32 = NDArray[np.float32]
ENOUGH = 32  # pixels that make a median
SAMPLE = 500_000  # pixels that suffice for the variance of the sky
_NOTHING = np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class Planes:
    """Image, variance and mask with the rule of which pixels count.

    Parameters
    ----------
    bits
        Mask bits of pixels that do not count; nor do those without finite value or positive variance.
    origin
        Frame position of pixel [0, 0].
    background
        Separable background, shapes (height, q) and (q, width), taken off pixels that count.
    fill, fill_scale
        What stands in for pixels that do not count: another image, times a number; zero where that has no value.
    """

    image: F32
    variance: F32
    mask: NDArray[np.int32]
    bits: int
    origin: tuple[int, int]
    background: tuple[F32, F32] | None = None
    fill: "Planes | None" = None
    fill_scale: float = 0.0

    @classmethod
    def of(cls, exposure: Exposure, *excluded: str) -> "Planes":
        """Return the view of an exposure with the planes `excluded` (and ``NO_DATA``) not counting."""
        bits = plane_bits(["NO_DATA", *excluded])
        return cls(exposure.image, exposure.variance, exposure.mask, bits, exposure.origin)

    def without(self, rows: F32, columns: F32) -> "Planes":
        """Return the same with a background (height, q) x (q, width) taken off."""
        return replace(self, background=(rows, columns))

    def filled(self, other: "Planes", scale: float) -> "Planes":
        """Return the same with `scale` times `other` where pixels do not count."""
        return replace(self, fill=other, fill_scale=scale)

    def good(self, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """Return which pixels of some rows count."""
        return usable_pixels(self.image[rows], self.variance[rows], self.mask[rows], self.bits)

    def window(self, y: int, x: int, values: F32, variances: F32) -> None:
        """Write the pixels from frame position (y, x) on into two buffers; zero outside of the image."""
        rows, columns = self.background if self.background is not None else (_NOTHING, _NOTHING)
        other = self.fill or self
        oy, ox = y - other.origin[1], x - other.origin[0]
        _window(
            self.image, self.variance, self.mask, np.int32(self.bits), y - self.origin[1], x - self.origin[0], rows, columns,
            other.image, other.mask, np.int32(other.bits), oy, ox, np.float32(self.fill_scale), self.fill is not None, values,
            variances,
        )  # fmt: skip

    def stamps(self, x: NDArray[np.int64], y: NDArray[np.int64], size: int) -> tuple[F32, F32]:
        """Return (N, size, size) pixels and variances around frame pixels; 0 and infinity where a pixel does not count."""
        x, y = x - self.origin[0], y - self.origin[1]
        values = gather(self.image, x, y, size, np.nan)
        variances = gather(self.variance, x, y, size, np.nan)
        count = (gather(self.mask, x, y, size, self.bits) & np.int32(self.bits)) == 0
        count &= np.isfinite(values) & (variances > 0)
        return np.where(count, values, np.float32(0)), np.where(count, variances, np.float32(np.inf))

    def sky_levels(self, box: tuple[int, int, int, int], tile: int) -> NDArray[np.float64]:
        """Return the median variance of the tiles of a box, the global median where few pixels count."""
        x0, y0, width, height = box
        out = np.empty((-(-height // tile), -(-width // tile)))
        step = max(1, int(np.sqrt(width * height / SAMPLE)))
        part = (
            slice(y0 - self.origin[1], y0 - self.origin[1] + height, step),
            slice(x0 - self.origin[0], x0 - self.origin[0] + width, step),
        )
        values = self.variance[part]
        usable = usable_pixels(self.image[part], values, self.mask[part], self.bits)
        known = values[usable]
        level = float(np.median(known[:: max(1, known.size // 100_000)])) if known.size else 1.0
        out[:] = level
        edges = [
            np.minimum((np.arange(n + 1) * (tile / step)).astype(int), size)
            for n, size in zip(out.shape, values.shape, strict=True)
        ]
        block_medians(values, usable, *edges, ENOUGH, out)
        return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _window(
    image: Any, variance: Any, mask: Any, bits: int, y0: int, x0: int, rows: Any, columns: Any, other: Any,
    other_mask: Any, other_bits: int, oy: int, ox: int, scale: Any, filled: bool, values: Any, variances: Any,
) -> None:  # fmt: skip
    height, width = image.shape
    side = values.shape[1]
    first, last = max(0, -x0), min(side, width - x0)
    largest, zero, none, one = np.float32(3.4e38), np.float32(0), np.int32(0), np.int32(1)
    level = np.zeros(side, np.float32)
    for j in range(values.shape[0]):
        y = y0 + j
        if y < 0 or y >= height or last <= first:
            values[j] = 0
            variances[j] = 0
            continue
        values[j, :first] = 0
        values[j, last:] = 0
        variances[j, :first] = 0
        variances[j, last:] = 0
        inner = slice(x0 + first, x0 + last)  # slices: indices that count from 0 need no test for negative ones
        pixels, spread, flags = image[y, inner], variance[y, inner], mask[y, inner]
        value, noise = values[j, first:last], variances[j, first:last]
        level[:] = 0
        for k in range(rows.shape[1]):
            factor, column = rows[y, k], columns[k, inner]
            for i in range(column.shape[0]):
                level[i] += factor * column[i]
        missing = none
        for i in range(value.shape[0]):  # without branches: this loop is vectorised
            p, v = pixels[i], spread[i]
            ok = ((flags[i] & bits) == 0) & (abs(p) <= largest) & (v > zero) & (v <= largest)
            value[i] = p - level[i] if ok else zero
            noise[i] = v if ok else zero
            missing = np.int32(missing + (none if ok else one))  # a wider counter takes as long as all the rest
        if missing and filled:
            _fill(value, noise, spread, other, other_mask, other_bits, oy + j, ox + first, scale)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _fill(
    value: Any, noise: Any, spread: Any, other: Any, other_mask: Any, other_bits: int, oy: int, ox: int, scale: Any
) -> None:
    """Put the other image in where a row has pixels that do not count (without noise); their variances, where known, stay."""
    for i in range(value.shape[0]):
        if noise[i] != 0:
            continue
        v = spread[i]
        noise[i] = v if v > 0 and v < np.inf else np.float32(0)
        if 0 <= oy < other.shape[0] and 0 <= ox + i < other.shape[1]:
            q = other[oy, ox + i]
            if np.isfinite(q) and other_mask[oy, ox + i] & other_bits == 0:
                value[i] = scale * q


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def block_medians(plane: Any, usable: Any, rows: Any, columns: Any, least: int, out: Any) -> None:
    """Median of the usable values of each block between `rows` and `columns`; blocks with fewer stay as they are."""
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            values = np.empty((rows[r + 1] - rows[r]) * (columns[c + 1] - columns[c]), np.float32)
            n = 0
            for y in range(rows[r], rows[r + 1]):
                for x in range(columns[c], columns[c + 1]):
                    if usable[y, x]:
                        values[n] = plane[y, x]
                        n += 1
            if n >= least:
                out[r, c] = np.median(values[:n])
