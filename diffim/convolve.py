"""Convolution by overlap-save FFT tiles with one kernel a tile (OpenCV's real transforms), in threads.

A kernel stamp lies in the corner of its window, so that a product of spectra moves the image by the kernel's half width:
a window that starts at pixel s holds after convolution with a kernel of half width h the pixel s + n - h at index n, and
is right from n = 2 h on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "TileGrid", "Transforms"]

F32 = NDArray[np.float32]


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `tile` px that cover (height, width); kernels may reach `margin` px."""

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
    def size(self) -> int:
        """Side of the transforms."""
        return _fast_size(self.tile + 2 * self.margin)

    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return array positions (x, y) of the centres of all tiles in row order, clipped to the image."""
        x = np.minimum((np.arange(self.columns) + 0.5) * self.tile, self.width - 0.5) - 0.5
        y = np.minimum((np.arange(self.rows) + 0.5) * self.tile, self.height - 0.5) - 0.5
        mx, my = np.meshgrid(x, y)
        return mx.ravel(), my.ravel()

    def tiles(self, first: int, last: int) -> Iterator[tuple[int, int, int, int]]:
        """Iterate over (row, column, y, x) of the tiles of some rows; (y, x) is a tile's first pixel."""
        for row in range(first, last):
            for column in range(self.columns):
                yield row, column, row * self.tile, column * self.tile

    def paste(
        self, window: F32, start: int, y: int, x: int, out: F32, scale: float = 1.0, least: float = -np.inf
    ) -> None:
        """Write the tile at pixel (y, x), which begins at index `start` of its window, into an image.

        Values are multiplied with `scale`; they are `least` at least.
        """
        _paste(window, start, out[y : y + self.tile, x : x + self.tile], np.float32(scale), np.float32(least))

    def paste_sum(
        self, tile: F32, weight: float, window: F32, start: int, y: int, x: int, out: F32, scale: float,
        least: float = -np.inf,
    ) -> None:  # fmt: skip
        """Write a tile plus `weight` times the one in a window; otherwise as `paste`."""
        place = out[y : y + self.tile, x : x + self.tile]
        _paste_sum(tile, np.float32(weight), window, start, place, np.float32(scale), np.float32(least))


def _fast_size(least: int) -> int:
    """Return a good size of transforms: of small prime factors and a multiple of 32.

    OpenCV's own optimal sizes count operations only: its transforms of 250 px take half again as long per pixel as those
    of 256.
    """
    size = -(-least // 32) * 32
    while cv2.getOptimalDFTSize(size) != size:
        size += 32
    return size


@dataclass
class Transforms:
    """Real transforms of one even size with their scratch space; one for each thread.

    Spectra are packed as OpenCV packs them: element (j, 2 k - 1) and (j, 2 k) are the real and imaginary part of frequency
    (j, k); the first and the last column hold frequencies 0 and size / 2, packed in the same way along y.
    """

    size: int
    _corner: F32 = field(init=False)

    def __post_init__(self) -> None:
        """Make the scratch space."""
        self._corner = np.zeros((self.size, self.size), np.float32)

    def buffer(self) -> F32:
        """Return a new window."""
        return np.empty((self.size, self.size), np.float32)

    def forward(self, window: F32, out: F32) -> F32:
        """Transform a window."""
        cv2.dft(window, out)
        return out

    def kernel(self, stamp: F32, out: F32) -> F32:
        """Transform a kernel stamp of odd side."""
        side = stamp.shape[0]
        self._corner[:side, :side] = stamp
        cv2.dft(self._corner, out)
        self._corner[:side, :side] = 0
        return out

    def multiply(self, a: F32, b: F32, out: F32) -> F32:
        """Multiply two spectra; `out` may be one of them."""
        _multiply(a, b, out, False)
        return out

    def add_product(self, a: F32, b: F32, out: F32) -> F32:
        """Add the product of two spectra to a third."""
        _multiply(a, b, out, True)
        return out

    def subtract_product(self, u: F32, c: F32, kernel: F32, whitening: F32) -> F32:
        """Leave ``(u - c kernel) whitening`` in `u` and ``c kernel`` in `c`; returns `u`."""
        self.multiply(c, kernel, c)
        _subtract(u, c, whitening)
        return u

    def back(self, spectrum: F32, out: F32) -> F32:
        """Transform back."""
        cv2.idft(spectrum, out, flags=cv2.DFT_SCALE)
        return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _paste(window: Any, start: int, out: Any, scale: Any, least: Any) -> None:
    for y in range(out.shape[0]):
        source, row = window[start + y, start : start + out.shape[1]], out[y]
        for x in range(row.shape[0]):
            value = scale * source[x]
            row[x] = value if value > least else least


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _paste_sum(tile: Any, weight: Any, window: Any, start: int, out: Any, scale: Any, least: Any) -> None:
    for y in range(out.shape[0]):
        own, source, row = tile[y, : out.shape[1]], window[start + y, start : start + out.shape[1]], out[y]
        for x in range(row.shape[0]):
            value = scale * (own[x] + weight * source[x])
            row[x] = value if value > least else least


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _multiply_edges(a: Any, b: Any, out: Any, add: bool) -> None:
    """Multiply the two real columns, which are complex along y."""
    n = a.shape[0]
    for column in (0, n - 1):
        for j in (0, n - 1):
            value = a[j, column] * b[j, column]
            out[j, column] = out[j, column] + value if add else value
        for j in range(1, n - 1, 2):
            re = a[j, column] * b[j, column] - a[j + 1, column] * b[j + 1, column]
            im = a[j, column] * b[j + 1, column] + a[j + 1, column] * b[j, column]
            out[j, column] = out[j, column] + re if add else re
            out[j + 1, column] = out[j + 1, column] + im if add else im


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _subtract(u: Any, c: Any, phi: Any) -> None:
    """Leave (u - c) phi in u."""
    n = u.shape[0]
    u[:, 0] -= c[:, 0]
    u[:, n - 1] -= c[:, n - 1]
    _multiply_edges(u, phi, u, False)
    for j in range(n):
        p, q, f = u[j, 1 : n - 1], c[j, 1 : n - 1], phi[j, 1 : n - 1]
        for k in range(n // 2 - 1):
            re, im = p[2 * k] - q[2 * k], p[2 * k + 1] - q[2 * k + 1]
            p[2 * k] = re * f[2 * k] - im * f[2 * k + 1]
            p[2 * k + 1] = re * f[2 * k + 1] + im * f[2 * k]


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _multiply(a: Any, b: Any, out: Any, add: bool) -> None:
    n = a.shape[0]
    _multiply_edges(a, b, out, add)
    half = n // 2 - 1
    if add:
        for j in range(n):
            p, q, o = a[j], b[j], out[j]
            for k in range(half):
                m = 2 * k + 1
                o[m], o[m + 1] = (
                    o[m] + (p[m] * q[m] - p[m + 1] * q[m + 1]), o[m + 1] + (p[m] * q[m + 1] + p[m + 1] * q[m]),
                )  # fmt: skip
    else:
        for j in range(n):
            p, q, o = a[j], b[j], out[j]
            for k in range(half):
                m = 2 * k + 1
                o[m], o[m + 1] = p[m] * q[m] - p[m + 1] * q[m + 1], p[m] * q[m + 1] + p[m + 1] * q[m]
