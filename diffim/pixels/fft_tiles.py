"""Convolution by overlap-save FFT tiles with one kernel a tile (OpenCV's real transforms), in threads.

A kernel stamp lies in the corner of its window, so that a product of spectra moves the image by the kernel's half width:
a window that starts at pixel s holds after convolution with a kernel of half width h the pixel s + n - h at index n, and
is right from n = 2 h on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np

from diffim.pixels.direct_convolution import BLOCK_SHAPE, NarrowKernel
from tasks.arrays import F32, F64
from tasks.compiled import compiled

__all__ = ["Convolution", "Region", "TileBounds", "TileGrid", "TileWindow", "Transforms", "paste", "paste_sum"]


class Region(NamedTuple):
    """Pixels of an image: the first row and column, height and width."""

    y: int
    x: int
    height: int
    width: int


class TileWindow(NamedTuple):
    """A window, shape (height, width), that holds a tile, and the row and column of it at which the tile begins."""

    pixels: F32
    start: int


class TileBounds(NamedTuple):
    """Where a tile is: its number in row order, its row and column, and its pixels in the image."""

    number: int
    row: int
    column: int
    y: int
    x: int
    height: int
    width: int

    @property
    def region(self) -> Region:
        """The tile's pixels in the image."""
        return Region(*self[3:])


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `tile` px a side that cover an image (height, width), those at the far edges cut off.

    Kernels may reach `margin` px.
    """

    height: int
    width: int
    tile: int = 128
    margin: int = 32

    @classmethod
    def fitting(cls, height: int, width: int, tile: int, margin: int) -> "TileGrid":
        """Return the grid whose tiles of at least `tile` px use their transforms fully."""
        return cls(height, width, _fast_size(tile + 2 * margin) - 2 * margin, margin)

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return -(-self.height // self.tile)

    @property
    def columns(self) -> int:
        """Number of columns of tiles."""
        return -(-self.width // self.tile)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    def row(self, number: int) -> range:
        """Return the numbers of the tiles of a row."""
        return range(number * self.columns, (number + 1) * self.columns)

    def centres(self) -> tuple[F64, F64]:
        """Return the centres (x, y) of all tiles in row order, each of shape (N,), array px, clipped to the image."""
        x = np.minimum((np.arange(self.columns) + 0.5) * self.tile, self.width - 0.5) - 0.5
        y = np.minimum((np.arange(self.rows) + 0.5) * self.tile, self.height - 0.5) - 0.5
        mx, my = np.meshgrid(x, y)
        return mx.ravel(), my.ravel()

    def tiles(self, numbers: Iterable[int]) -> Iterator[tuple["Transforms", TileBounds]]:
        """Iterate over some tiles, each with transforms as large as it and its margins need."""
        transforms: dict[tuple[int, int], Transforms] = {}
        for number in numbers:
            row, column = divmod(number, self.columns)
            y, x = row * self.tile, column * self.tile
            height, width = min(self.tile, self.height - y), min(self.tile, self.width - x)
            shape = _fast_size(height + 2 * self.margin), _fast_size(width + 2 * self.margin)
            if shape not in transforms:
                transforms[shape] = Transforms(shape)
            yield transforms[shape], TileBounds(number, row, column, y, x, height, width)


def paste(window: F32, start: int, tile: TileBounds, out: F32, scale: float = 1.0, least: float = -np.inf) -> None:
    """Write a tile into an image.

    Parameters
    ----------
    window, start
        Window that holds the tile, and the row and column of it at which the tile begins.
    out
        The image, shape (height, width).
    scale, least
        Values are multiplied with `scale`; they are `least` at least.
    """
    _paste(TileWindow(window, start), out, tile.region, np.float32(scale), np.float32(least))


def paste_sum(
    first: TileWindow, second: TileWindow, tile: TileBounds, out: F32, scales: tuple[float, float], least: float
) -> None:
    """Write the sum of two windows' tiles, each times its scale, into an image (height, width); otherwise as `paste`."""
    _paste_sum(first, second, out, tile.region, (np.float32(scales[0]), np.float32(scales[1])), np.float32(least))


@cache
def _fast_size(least: int) -> int:
    """Return a good size of transforms: of small prime factors and a multiple of 32.

    OpenCV's own optimal sizes count operations only: its transforms of 250 px take half again as long per pixel as those
    of 256.
    """
    size = -(-least // 32) * 32
    while cv2.getOptimalDFTSize(size) != size:
        size += 32
    return size


class Transforms:
    """Real transforms of one even shape, in place, with their windows; for one thread.

    Spectra are packed as OpenCV packs them: element (j, 2 k - 1) and (j, 2 k) are the real and imaginary part of frequency
    (j, k); the first and the last column hold frequencies 0 and width / 2, packed in the same way along y.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        """Make transforms for windows of a shape (height, width)."""
        self.shape = shape
        self._windows: list[F32] = []
        self._corner = np.zeros(shape, np.float32)

    def windows(self, count: int) -> list[F32]:
        """Return `count` windows, the same at each call."""
        self._windows += [np.empty(self.shape, np.float32) for _ in range(count - len(self._windows))]
        return self._windows[:count]

    def forward(self, window: F32) -> F32:
        """Transform a window, shape (height, width), in place into its packed spectrum of the same shape."""
        cv2.dft(window, window)
        return window

    def back(self, spectrum: F32) -> F32:
        """Transform a packed spectrum, shape (height, width), back in place."""
        cv2.idft(spectrum, spectrum, flags=cv2.DFT_SCALE)
        return spectrum

    def kernel(self, stamp: F32, out: F32 | None = None) -> F32:
        """Transform a kernel stamp, shape (S, S) with S odd, into `out` (height, width), a new window by default."""
        side = stamp.shape[0]
        self._corner[:side, :side] = stamp
        out = np.empty(self.shape, np.float32) if out is None else out
        cv2.dft(self._corner, out)
        self._corner[:side, :side] = 0
        return out

    def convolve(self, window: F32, spectrum: F32) -> F32:
        """Convolve a window in place with the kernel of a spectrum, both of shape (height, width)."""
        return self.back(self.multiply(self.forward(window), spectrum, window))

    def multiply(self, a: F32, b: F32, out: F32) -> F32:
        """Multiply two packed spectra of shape (height, width); `out` may be one of them."""
        _multiply(a, b, out, False)
        return out

    def add_product(self, a: F32, b: F32, out: F32) -> F32:
        """Add the product of two packed spectra of shape (height, width) to a third."""
        _multiply(a, b, out, True)
        return out

    def subtract_product(self, u: F32, c: F32, kernel: F32, whitening: F32) -> F32:
        """Leave ``(u - c kernel) whitening`` in `u` and ``c kernel`` in `c`, spectra of shape (height, width); returns `u`."""
        self.multiply(c, kernel, c)
        _subtract(u, c, whitening)
        return u


class Convolution:
    """Convolution of windows with one kernel without negative values: summed directly where it is narrow enough."""

    def __init__(self, ft: Transforms, stamp: F32) -> None:
        """Take a kernel stamp of odd side, for the windows of transforms."""
        self._ft, self._stamp = ft, stamp
        self._narrow = NarrowKernel.of(stamp)
        self._spectrum: F32 | None = None

    def run(self, window: F32, first: int, tile: TileBounds, out: F32) -> TileWindow:
        """Convolve the tile that begins at row and column `first` of a window.

        `window` and `out` have the shape of the transforms. The result is in one of them; both are overwritten.
        """
        if self._narrow is not None and tile.height >= BLOCK_SHAPE[0] and tile.width >= BLOCK_SHAPE[1]:
            self._narrow.convolve(window, first, tile.height, tile.width, out)
            return TileWindow(out, 0)
        if self._spectrum is None:
            self._spectrum = self._ft.kernel(self._stamp)
        return TileWindow(self._ft.convolve(window, self._spectrum), first + self._stamp.shape[0] // 2)


@compiled
def _paste(tile: Any, out: Any, region: Any, scale: Any, least: Any) -> None:
    window, start = tile
    y, x, height, width = region
    for j in range(height):
        source, row = window[start + j, start : start + width], out[y + j, x : x + width]
        for i in range(width):
            value = scale * source[i]
            row[i] = value if value > least else least


@compiled
def _paste_sum(first: Any, second: Any, out: Any, region: Any, scales: Any, least: Any) -> None:
    (one, start), (other, other_start), (scale, other_scale) = first, second, scales
    y, x, height, width = region
    for j in range(height):
        source, row = one[start + j, start : start + width], out[y + j, x : x + width]
        addend = other[other_start + j, other_start : other_start + width]
        for i in range(width):
            value = scale * source[i] + other_scale * addend[i]
            row[i] = value if value > least else least


@compiled
def _multiply_edges(a: Any, b: Any, out: Any, add: bool) -> None:
    """Multiply the two real columns, which are complex along y."""
    n, last = a.shape
    last -= 1
    for column in (0, last):
        for j in (0, n - 1):
            value = a[j, column] * b[j, column]
            out[j, column] = out[j, column] + value if add else value
        for j in range(1, n - 1, 2):
            re = a[j, column] * b[j, column] - a[j + 1, column] * b[j + 1, column]
            im = a[j, column] * b[j + 1, column] + a[j + 1, column] * b[j, column]
            out[j, column] = out[j, column] + re if add else re
            out[j + 1, column] = out[j + 1, column] + im if add else im


@compiled
def _subtract(u: Any, c: Any, phi: Any) -> None:
    """Leave the packed spectrum (u - c) phi in u."""
    last = u.shape[1] - 1
    u[:, 0] -= c[:, 0]
    u[:, last] -= c[:, last]
    _multiply_edges(u, phi, u, False)
    for j in range(u.shape[0]):
        p, q, f = u[j, 1:last], c[j, 1:last], phi[j, 1:last]
        for k in range(last // 2):
            re, im = p[2 * k] - q[2 * k], p[2 * k + 1] - q[2 * k + 1]
            p[2 * k] = re * f[2 * k] - im * f[2 * k + 1]
            p[2 * k + 1] = re * f[2 * k + 1] + im * f[2 * k]


@compiled
def _multiply(a: Any, b: Any, out: Any, add: bool) -> None:
    """Write the product of two packed spectra to `out`, or add it to what is there."""
    n = a.shape[0]
    _multiply_edges(a, b, out, add)
    half = a.shape[1] // 2 - 1
    if add:
        for j in range(n):
            p, q, o = a[j], b[j], out[j]
            for k in range(half):
                m = 2 * k + 1
                real, imaginary = p[m] * q[m] - p[m + 1] * q[m + 1], p[m] * q[m + 1] + p[m + 1] * q[m]
                o[m], o[m + 1] = o[m] + real, o[m + 1] + imaginary
    else:
        for j in range(n):
            p, q, o = a[j], b[j], out[j]
            for k in range(half):
                m = 2 * k + 1
                o[m], o[m + 1] = p[m] * q[m] - p[m + 1] * q[m + 1], p[m] * q[m + 1] + p[m + 1] * q[m]
