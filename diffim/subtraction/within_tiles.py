"""What the kernel and the whitening change by within a tile, put right where stars are bright.

Tiles are convolved with the kernel of their middle. Where PSFs vary by a per cent over an image that leaves a thousandth of a
star at the edge of its tile: nothing on faint ones, a sigma on those of S/N 300 a pixel. With G_x and G_y how the kernel changes
per pixel, (x - x_0) G_x * C + (y - y_0) G_y * C is lacking; it is summed directly for the few pixels that are bright.
The whitening is one for a tile as well: with L = ln(phi) in the frequency domain and L_x, L_y how it changes, the difference D lacks
(x - x_0) L_x * D + (y - y_0) L_y * D. Where constant stars were subtracted that is nothing; the flux of what is new would depend on
where in a tile it is, by some thousandths.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from diffim.pixels.fft_tiles import TileBounds, TileGrid
from diffim.pixels.masked_image import MaskedImage
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, Box
from tasks.compiled import compiled

__all__ = ["Changes", "KernelSlopes", "put"]

BRIGHT = 15.0  # sigma of a pixel of the difference: what is fainter misses less than a tenth of its noise
RUN = 32  # px of a row that are looked at together
SPARSE = 8  # px between those that the least variance is taken from
SHARE = 0.5  # of it: hardly any other pixel has less
LOST = 1e-3  # of the squares of a stamp that may lie outside of its middle


class Changes(NamedTuple):
    """Pixels of a tile, rows and columns (N,) of the image, and what they lack (N,): K * C in counts of U, or D in its own."""

    rows: I32
    columns: I32
    values: F32


@dataclass(frozen=True)
class KernelSlopes:
    """How the kernel changes across the tiles of a grid.

    Parameters
    ----------
    slopes
        Shape (tiles, 2, S, S): by how much per px in x and in y, turned by 180 degrees.
    total
        Sum of the kernel, about (0 of the logarithm of a whitening).
    """

    grid: TileGrid
    slopes: F32
    total: float

    @cached_property
    def _middles(self) -> tuple[F64, F64]:
        return self.grid.centres()

    @classmethod
    def of(cls, grid: TileGrid, kernels: F32) -> "KernelSlopes":
        """Return the slopes between the kernels (tiles, S, S) of neighbouring tiles."""
        size = kernels.shape[-1]
        turned = kernels.reshape(grid.rows, grid.columns, size, size)[..., ::-1, ::-1]
        middles = [a.reshape(grid.rows, grid.columns) for a in grid.centres()]
        along = [
            np.gradient(turned, middle, axis=axis) if len(middle) > 1 else np.zeros_like(turned)
            for axis, middle in ((1, middles[0][0]), (0, middles[1][:, 0]))
        ]
        return cls(
            grid,
            inner(np.stack(along, axis=2).astype(np.float32).reshape(-1, 2, size, size)),
            float(np.median(kernels.sum((1, 2)))),
        )

    def all_changes(
        self, convolved: MaskedImage, like: MaskedImage, box: Box, noise: tuple[F32, float]
    ) -> list[Changes]:
        """Return `changes` of every tile, found in threads."""
        found: dict[int, Changes] = {}
        levels = _level(convolved), _level(like)

        def look(first: int, last: int) -> None:
            for _, tile in self.grid.tiles(range(first, last)):
                found[tile.number] = self._changes(convolved, like, box, noise, levels, tile)

        in_bands(look, self.grid.count, least=1)
        return [found[k] for k in range(self.grid.count)]

    def _changes(
        self,
        convolved: MaskedImage,
        like: MaskedImage,
        box: Box,
        noise: tuple[F32, float],
        levels: tuple[np.float32, np.float32],
        tile: TileBounds,
    ) -> Changes:
        """Return what the bright pixels of a tile lack.

        Parameters
        ----------
        convolved
            C; pixels that do not count count for nothing.
        like
            U, which K * C is like: where either of them and C is bright, K * C is. (What is new is in one image only.)
        box
            (x0, y0, width, height) in the frame: where the image of the tiles lies.
        noise
            Variance of the difference, shape (height, width), counts^2, and its counts per count of U.
        levels
            Sky of C and of U, which is not light: a level convolved with what has the sum 0 is nothing.
        """
        size = tile.height * tile.width
        rows, columns, values = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32)
        x, y = (float(a[tile.number]) for a in self._middles)
        corner, other = ((box[1] - p.origin[1], box[0] - p.origin[0]) for p in (convolved, like))
        variance, unit = noise
        n = _changes(
            (convolved.image, convolved.mask, np.int32(convolved.bits), *corner, levels[0]),
            (self.slopes[tile.number], np.float32(x), np.float32(y)),
            (like.image, *other, variance, np.float32((BRIGHT / unit) ** 2), np.float32(abs(self.total)), levels[1]),
            tile.region,
            (rows, columns, values),
        )
        return Changes(rows[:n].copy(), columns[:n].copy(), values[:n].copy())


def _level(image: MaskedImage) -> np.float32:
    """Return the median of the pixels that have a value; 0 without any."""
    values = image.image[::SPARSE, ::SPARSE]
    values = values[np.isfinite(values) & (image.mask[::SPARSE, ::SPARSE] & image.bits == 0)]
    return np.float32(np.median(values)) if values.size else np.float32(0)


@compiled(fastmath={"reassoc", "contract"})
def _any_above(light: Any, sky: Any, level: Any) -> bool:
    """Whether any of some pixels in a row is further from the sky than a level: without branches, in vectors."""
    hits = np.int32(0)
    for i in range(light.shape[0]):
        hits += np.int32(abs(light[i] - sky) > level)
    return bool(hits > 0)


@compiled(fastmath={"reassoc", "contract"})
def _change(pixels: Any, mask: Any, bits: Any, sky: Any, slope: Any, dx: Any, dy: Any) -> np.float32:
    """Return what a pixel lacks from the pixels around it, all of shape (S, S)."""
    along_x, along_y = np.float32(0), np.float32(0)
    zero, largest = np.float32(0), np.float32(3.4e38)
    for j in range(slope.shape[1]):
        line, flags, in_x, in_y = pixels[j], mask[j], slope[0, j], slope[1, j]
        for i in range(in_x.shape[0]):
            p = line[i] - sky if ((flags[i] & bits) == 0) & (abs(line[i]) <= largest) else zero
            along_x += p * in_x[i]
            along_y += p * in_y[i]
    return np.float32(dx * along_x + dy * along_y)


@compiled
def _changes(convolved: Any, slopes: Any, noise: Any, region: Any, out: Any) -> int:
    """Write rows, columns and changes of the bright pixels of a region; returns how many they are."""
    (image, mask, bits, corner_y, corner_x, sky), (slope, x0, y0) = convolved, slopes
    like, other_y, other_x, variance, limit, total, like_sky = noise
    top, left, height, width = region
    rows, columns, values = out
    half, n = slope.shape[-1] // 2, 0
    reach = np.float32(0.5 * max(height, width))
    least = np.float32(3.4e38)
    for y in range(top, top + height, SPARSE):
        for x in range(left, left + width, SPARSE):
            least = min(least, variance[y, x])
    level = np.sqrt(np.float32(SHARE) * limit * least)
    image_level = level / max(total, np.float32(1e-30))
    first, last = max(left, half - corner_x), min(left + width, image.shape[1] - half - corner_x)
    for y in range(max(top, half - corner_y), min(top + height, image.shape[0] - half - corner_y)):
        iy = y + corner_y
        for start in range(first, last, RUN):
            stop = min(start + RUN, last)
            bright = _any_above(like[y + other_y, start + other_x : stop + other_x], like_sky, level)
            if not (bright or _any_above(image[iy, start + corner_x : stop + corner_x], sky, image_level)):
                continue
            for x in range(start, stop):
                ix = x + corner_x
                dx, dy = np.float32(x) - x0, np.float32(y) - y0
                light = max(abs(like[y + other_y, x + other_x] - like_sky), total * abs(image[iy, ix] - sky))
                light *= min(max(abs(dx), abs(dy)) / reach, np.float32(1))
                if light > 0 and light * light > limit * variance[y, x]:
                    box = slice(iy - half, iy + half + 1), slice(ix - half, ix + half + 1)
                    rows[n], columns[n], values[n] = y, x, _change(image[box], mask[box], bits, sky, slope, dx, dy)
                    n += 1
    return n


def inner(stamps: F32) -> F32:
    """Return the middles of stamps (..., S, S), as narrow as hold nearly all of their squares."""
    middle = stamps.shape[-1] // 2
    power = np.square(stamps).sum(tuple(range(stamps.ndim - 2)), dtype=np.float64)
    for half in range(middle):
        part = power[middle - half : middle + half + 1, middle - half : middle + half + 1]
        if part.sum() >= (1 - LOST) * power.sum():
            cut = slice(middle - half, middle + half + 1)
            return np.ascontiguousarray(stamps[..., cut, cut])
    return stamps


def put(changes: Changes, image: F32, stamp: F32, scale: float) -> None:
    """Add changes times a scale to an image (height, width), in place, each as a stamp (S, S)."""
    _put(changes.rows, changes.columns, changes.values, image, stamp, np.float32(scale))


@compiled
def _put(rows: Any, columns: Any, values: Any, image: Any, stamp: Any, scale: Any) -> None:
    half = stamp.shape[0] // 2
    height, width = image.shape
    for n in range(rows.shape[0]):
        y, x, value = rows[n] - half, columns[n] - half, scale * values[n]
        low, high = max(0, -x), min(stamp.shape[0], width - x)
        for j in range(max(0, -y), min(stamp.shape[0], height - y)):
            line, weights = image[y + j, x + low : x + high], stamp[j, low:high]
            for i in range(line.shape[0]):
                line[i] += value * weights[i]
