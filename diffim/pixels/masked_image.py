"""An image with its variance and the rule of which pixels count; windows and stamps of it, without full-size copies."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from diffim.pixels.fft_tiles import Region, TileWindow
from exposure import Exposure
from exposure.mask import plane_bits, usable_pixels
from exposure.quantiles import ENOUGH, block_medians, median
from exposure.stamps import gather
from tasks.arrays import F32, F64, I32, I64, Box, Flags
from tasks.compiled import compiled

__all__ = ["LEAST_VARIANCE", "MaskedImage", "TileTarget"]

LEAST_VARIANCE = 1e-30  # of a difference
SAMPLE = 500_000  # pixels that suffice for the variance of the sky
_NOTHING = np.zeros((0, 0), np.float32)


class TileTarget(NamedTuple):
    """Two images, shape (height, width), and the region of them that holds a tile."""

    difference: F32
    variance: F32
    region: Region


class _Pixels(NamedTuple):
    """An image as compiled code takes it; the background is `background_rows` (height, q) x `background_columns`."""

    image: F32
    variance: F32
    mask: I32
    bits: np.int32
    background_rows: F32
    background_columns: F32


class _Filling(NamedTuple):
    """What stands in for pixels that do not count: `scale` times another image, where `used`."""

    image: F32
    mask: I32
    bits: np.int32
    scale: np.float32
    used: bool


class _Source(NamedTuple):
    """Pixels, and what stands in for those that do not count."""

    own: _Pixels
    filling: _Filling


class _Corner(NamedTuple):
    """Array position of the first pixel of a window, in an image and in the one that fills it."""

    y: int
    x: int
    filling_y: int
    filling_x: int


@dataclass(frozen=True)
class MaskedImage:
    """Image, variance and mask with the rule of which pixels count.

    Parameters
    ----------
    image, variance, mask
        Shape (height, width): counts, counts^2, bits of `exposure.mask.PLANES`.
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
    mask: I32
    bits: int
    origin: tuple[int, int]
    background: tuple[F32, F32] | None = None
    fill: "MaskedImage | None" = None
    fill_scale: float = 0.0

    @classmethod
    def of(cls, exposure: Exposure, *excluded: str) -> "MaskedImage":
        """Return the view of an exposure with the planes `excluded` (and ``NO_DATA``) not counting."""
        bits = plane_bits(["NO_DATA", *excluded])
        return cls(exposure.image, exposure.variance, exposure.mask, bits, exposure.origin)

    def without(self, rows: F32, columns: F32) -> "MaskedImage":
        """Return the same with a background (height, q) x (q, width) taken off."""
        return replace(self, background=(rows, columns))

    def filled(self, other: "MaskedImage", scale: float) -> "MaskedImage":
        """Return the same with `scale` times `other` where pixels do not count."""
        return replace(self, fill=other, fill_scale=scale)

    def good(self, rows: slice = slice(None)) -> Flags:
        """Return which pixels of some rows count."""
        return usable_pixels(self.image[rows], self.variance[rows], self.mask[rows], self.bits)

    def window(self, y: int, x: int, values: F32, variances: F32) -> None:
        """Write pixels and variances from frame position (y, x) on into two buffers (h, w); outside of the image the fill.

        Variances are zero there.
        """
        _window(self._source, self._corner(y, x), values, variances)

    def difference(
        self, y: int, x: int, matched: TileWindow, variance: TileWindow, scale: float, target: TileTarget
    ) -> None:
        """Write this image minus another, and the sum of both variances, into a tile that begins at frame position (y, x).

        Parameters
        ----------
        matched, variance
            Windows of the other image and of its variance.
        scale
            Factor on the difference; its square is that on the variance.
        target
            Where the difference and its variance go.
        """
        _difference(self._source, self._corner(y, x), matched, variance, np.float32(scale), target)

    @cached_property
    def _source(self) -> _Source:
        """The image and what stands in for pixels that do not count, as compiled code takes them."""
        rows, columns = self.background if self.background is not None else (_NOTHING, _NOTHING)
        other = self.fill or self
        return _Source(
            _Pixels(self.image, self.variance, self.mask, np.int32(self.bits), rows, columns),
            _Filling(other.image, other.mask, np.int32(other.bits), np.float32(self.fill_scale), self.fill is not None),
        )

    def _corner(self, y: int, x: int) -> _Corner:
        """Return the array positions of a frame position."""
        other = self.fill or self
        return _Corner(y - self.origin[1], x - self.origin[0], y - other.origin[1], x - other.origin[0])

    def stamps(self, x: I64, y: I64, size: int) -> tuple[F32, F32]:
        """Return (N, size, size) pixels and variances around frame pixels; 0 and infinity where a pixel does not count."""
        x, y = x - self.origin[0], y - self.origin[1]
        values = gather(self.image, x, y, size, np.nan)
        variances = gather(self.variance, x, y, size, np.nan)
        count = (gather(self.mask, x, y, size, self.bits) & np.int32(self.bits)) == 0
        count &= np.isfinite(values) & (variances > 0)
        return np.where(count, values, np.float32(0)), np.where(count, variances, np.float32(np.inf))

    def sky_levels(self, box: Box, tile: int) -> F64:
        """Return the median variance (counts^2) of the tiles of a box, shape (rows, columns); where few pixels count, of all."""
        x0, y0, width, height = box
        out = np.empty((-(-height // tile), -(-width // tile)))
        step = max(1, int(np.sqrt(width * height / SAMPLE)))
        part = (
            slice(y0 - self.origin[1], y0 - self.origin[1] + height, step),
            slice(x0 - self.origin[0], x0 - self.origin[0] + width, step),
        )
        values = self.variance[part]
        usable = usable_pixels(self.image[part], values, self.mask[part], self.bits)
        variances = values[usable]
        out[:] = median(variances[:: max(1, variances.size // 100_000)]) if variances.size else 1.0
        edges = [
            np.minimum((np.arange(n + 1) * (tile / step)).astype(int), size)
            for n, size in zip(out.shape, values.shape, strict=True)
        ]
        block_medians(values, usable, edges[0], edges[1], ENOUGH, out)
        return out


@compiled
def _window(source: Any, corner: Any, values: Any, variances: Any) -> None:
    for j in range(values.shape[0]):
        _row(source, corner, j, values[j], variances[j])


@compiled
def _difference(source: Any, corner: Any, matched: Any, matched_variance: Any, scale: Any, target: Any) -> None:
    """Write a tile of scale (image - matched) and of scale^2 times the sum of the variances."""
    (other, start), (other_variance, variance_start) = matched, matched_variance
    difference, variance, (y, x, height, width) = target
    pixels, noise = np.empty(width, np.float32), np.empty(width, np.float32)
    square, least = scale * scale, np.float32(LEAST_VARIANCE)
    for j in range(height):
        _row(source, corner, j, pixels, noise)
        subtrahend = other[start + j, start : start + width]
        other_noise = other_variance[variance_start + j, variance_start : variance_start + width]
        value, total = difference[y + j, x : x + width], variance[y + j, x : x + width]
        for i in range(width):
            value[i] = scale * (pixels[i] - subtrahend[i])
        for i in range(width):  # a loop of its own: for both together the compiler has no vectors
            sum_ = square * (noise[i] + other_noise[i])
            total[i] = sum_ if sum_ > least else least


@compiled
def _row(source: Any, corner: Any, number: int, values: Any, variances: Any) -> None:
    """Write the pixels of a row of a window, and their variances."""
    (image, variance, mask, bits, rows, columns), filling = source
    y, x0 = corner.y + number, corner.x
    height, width = image.shape
    side = values.shape[0]
    first, last = max(0, -x0), min(side, width - x0)
    largest, zero, none, one = np.float32(3.4e38), np.float32(0), np.int32(0), np.int32(1)
    if y < 0 or y >= height or last <= first:
        first, last = side, side
    variances[:first] = 0
    variances[last:] = 0
    _beyond(values[:first], filling, corner.filling_y + number, corner.filling_x)
    _beyond(values[last:], filling, corner.filling_y + number, corner.filling_x + last)
    if first == side:
        return
    inner = slice(x0 + first, x0 + last)  # slices: indices that count from 0 need no test for negative ones
    pixels, pixel_variances, flags = image[y, inner], variance[y, inner], mask[y, inner]
    value, noise = values[first:last], variances[first:last]
    value[:] = 0
    for k in range(rows.shape[1]):
        factor, column = rows[y, k], columns[k, inner]
        for i in range(column.shape[0]):
            value[i] -= factor * column[i]
    missing = none
    for i in range(value.shape[0]):  # without branches: this loop is vectorised
        p, v = pixels[i], pixel_variances[i]
        ok = ((flags[i] & bits) == 0) & (abs(p) <= largest) & (v > zero) & (v <= largest)
        value[i] = p + value[i] if ok else zero
        noise[i] = v if ok else zero
        missing = np.int32(missing + (none if ok else one))  # a wider counter takes as long as all the rest
    if missing and filling.used:
        _fill(value, noise, pixel_variances, filling, corner.filling_y + number, corner.filling_x + first)


@compiled
def _beyond(value: Any, filling: Any, y: int, x: int) -> None:
    """Put the other image, from its pixel (y, x) on, in where a row of a window is beyond the image; else zero."""
    value[:] = 0
    if not filling.used:
        return
    other, other_mask, other_bits, scale, _ = filling
    if y < 0 or y >= other.shape[0]:
        return
    for i in range(max(0, -x), min(value.shape[0], other.shape[1] - x)):
        q = other[y, x + i]
        if np.isfinite(q) and other_mask[y, x + i] & other_bits == 0:
            value[i] = scale * q


@compiled
def _fill(value: Any, noise: Any, variances: Any, filling: Any, y: int, x: int) -> None:
    """Put the other image, from its pixel (y, x) on, in where pixels of a row do not count; finite variances stay."""
    other, other_mask, other_bits, scale, _ = filling
    for i in range(value.shape[0]):
        if noise[i] != 0:
            continue
        v = variances[i]
        noise[i] = v if v > 0 and v < np.inf else np.float32(0)
        if 0 <= y < other.shape[0] and 0 <= x + i < other.shape[1]:
            q = other[y, x + i]
            if np.isfinite(q) and other_mask[y, x + i] & other_bits == 0:
                value[i] = scale * q
