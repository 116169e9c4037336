"""Convolution with a kernel that varies over the image: overlap-save FFT tiles, one kernel a tile."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from exposure.threads import thread_count

__all__ = ["Complex", "TileGrid", "convolve_varying"]

Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `tile` px that cover (height, width); kernels may reach `margin` px."""

    height: int
    width: int
    tile: int = 128
    margin: int = 32

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
        return int(fft.next_fast_len(self.tile + 2 * self.margin, real=True))

    def centres(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return array positions (x, y) of the centres of one row of tiles, clipped to the image."""
        x = np.minimum((np.arange(self.columns) + 0.5) * self.tile, self.width - 0.5) - 0.5
        y = np.full(self.columns, min((row + 0.5) * self.tile, self.height - 0.5) - 0.5)
        return x, y

    def windows(self, image: NDArray[np.float32], row: int) -> Complex:
        """Return the transforms (columns, F, F/2+1) of the windows of one row of tiles; outside counts as zero."""
        size, low = self.size, self.margin
        band = np.zeros((size, (self.columns - 1) * self.tile + size), np.float32)
        first = row * self.tile - low
        y0, y1 = max(first, 0), min(first + size, self.height)
        x1 = min(band.shape[1] - low, self.width)
        band[y0 - first : y1 - first, low : low + x1] = image[y0:y1, :x1]
        views = np.lib.stride_tricks.sliding_window_view(band, size, axis=1)[:, :: self.tile]
        return np.asarray(fft.rfft2(views.transpose(1, 0, 2), workers=thread_count()))

    def kernels(self, stamps: NDArray[np.float32]) -> Complex:
        """Return the transforms of centred stamps (columns, S, S), with their centre at the origin."""
        n, side = stamps.shape[0], stamps.shape[1]
        half = side // 2
        wide = np.zeros((n, self.size, self.size), dtype=np.float32)
        wide[:, : side - half, : side - half] = stamps[:, half:, half:]
        wide[:, : side - half, -half:] = stamps[:, half:, :half]
        wide[:, -half:, : side - half] = stamps[:, :half, half:]
        wide[:, -half:, -half:] = stamps[:, :half, :half]
        return np.asarray(fft.rfft2(wide, workers=thread_count(), overwrite_x=True))

    def back(self, transform: Complex) -> NDArray[np.float32]:
        """Return real windows (columns, F, F) of transforms, which are used up."""
        size = (self.size, self.size)
        return np.asarray(fft.irfft2(transform, size, workers=thread_count(), overwrite_x=True), dtype=np.float32)

    def put(self, out: NDArray[np.float32], row: int, transform: Complex) -> None:
        """Write the valid part of one row of tiles into the output image."""
        real = self.back(transform)
        y0 = row * self.tile
        y1 = min(y0 + self.tile, self.height)
        m = self.margin
        for c in range(self.columns):
            x0 = c * self.tile
            x1 = min(x0 + self.tile, self.width)
            out[y0:y1, x0:x1] = real[c, m : m + y1 - y0, m : m + x1 - x0]

    def row_numbers(self) -> Iterator[int]:
        """Iterate over the rows of tiles."""
        return iter(range(self.rows))


def convolve_varying(
    images: list[NDArray[np.float32]], stamps: list[NDArray[np.float32]], grid: TileGrid
) -> list[NDArray[np.float32]]:
    """Convolve images[k] with stamps[k] (rows * columns, S, S), one stamp a tile in row order."""
    out = [np.empty((grid.height, grid.width), np.float32) for _ in images]
    for row in grid.row_numbers():
        part = slice(row * grid.columns, (row + 1) * grid.columns)
        for image, stamp, result in zip(images, stamps, out, strict=True):
            grid.put(result, row, grid.windows(image, row) * grid.kernels(stamp[part]))
    return out
