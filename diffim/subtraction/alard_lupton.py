"""Subtraction and decorrelation in one pass over overlap-save tiles.

With U the image that is not convolved, C the other one, K the local kernel and u, c their local sky variances,

    D = phi * (U - g - K * C),  phi(f) = sqrt((u + c k^2) / (u + c |K(f)|^2)),  k = sum(K),

where phi whitens the noise and keeps fluxes (phi(0) = 1; Kaiser, DMTN-021). The variance plane is propagated with the
squared real-space kernels: V_D = phi^2 * V_U + (phi K)^2 * V_C, which is right on sources too. Where the noise of an image is
correlated its filter lets more or less of it through than of white noise (`correlated_gain`): its part is larger by that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy import fft

from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.fft_tiles import Convolution, TileBounds, TileGrid, TileWindow, Transforms, paste, paste_sum
from diffim.pixels.masked_image import LEAST_VARIANCE, MaskedImage, TileTarget
from diffim.subtraction.noise_power import BLOCK, correlated_gain, noise_power, smooth_power
from diffim.subtraction.whitening import (
    PHI_SIZE,
    WhiteningSpectra,
    logarithms,
    noise_gains,
    noise_model,
    whitening_stamps,
)
from diffim.subtraction.within_tiles import KernelSlopes, inner, put
from exposure.field import neighbours_2d
from exposure.stamps import blend
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I64, Box

__all__ = ["MAX_EXCESS", "Subtracted", "Subtraction", "excess_power", "sky_power"]

CELL = 3  # tiles: side of the cells that have a whitening, and one shape of filter for variances, each
SAMPLE_TILES = 60  # enough to know the noise power
MAX_EXCESS = 4.0
FAINT = 1.5  # sigma: brighter light in the template leaves residuals that are no noise


@dataclass(frozen=True)
class Subtracted:
    """Difference, its variance and, where asked for, K * C, on the box of the subtraction.

    All have the shape (height, width); counts of the difference, and their square.
    """

    difference: F32
    variance: F32
    matched: F32


@dataclass(frozen=True)
class Subtraction:
    """U - K * C on a box, whitened.

    Parameters
    ----------
    unconvolved, convolved
        The two images; the background of the fit is taken off U already.
    box
        (x0, y0, width, height) in the frame: where to subtract.
    decorrelate
        Whiten the noise?
    excess
        Measured noise power over what white inputs would give (`excess_power`), 1 by default.
    scale
        Factor on the difference, and its square on the variance.
    correlations
        How the noise of U and of C is correlated (`diffim.subtraction.noise_power.noise_autocorrelation`); None: it is white.
    """

    unconvolved: MaskedImage
    convolved: MaskedImage
    kernel: SpatialKernel
    box: Box
    decorrelate: bool = True
    excess: F64 | None = None
    scale: float = 1.0
    correlations: tuple[F64 | None, F64 | None] = (None, None)

    @cached_property
    def grid(self) -> TileGrid:
        """The tiles."""
        width, height = self.box[2:]
        reach = self.kernel.size // 2 + (PHI_SIZE // 2 if self.decorrelate else 0)
        return TileGrid.fitting(height, width, tile_side(height, width), reach)

    @cached_property
    def _kernels(self) -> F32:
        x, y = self.grid.centres()
        return self.kernel.kernels_at(x + self.box[0], y + self.box[1])

    @cached_property
    def _cell_kernels(self) -> F32:
        """Kernels (rows, columns, S, S) of cells of several tiles, for what needs none finer."""
        grid = self.grid
        side = CELL * grid.tile
        rows, columns = -(-grid.height // side), -(-grid.width // side)
        cy = np.minimum((np.arange(rows) + 0.5) * side, grid.height)
        cx = np.minimum((np.arange(columns) + 0.5) * side, grid.width)
        mx, my = (a.ravel() for a in np.meshgrid(cx, cy))
        kernels = self.kernel.kernels_at(mx + self.box[0], my + self.box[1])
        return kernels.reshape(rows, columns, *kernels.shape[1:])

    @cached_property
    def _cell_whitening(self) -> F32:
        """Whitening stamps (rows, columns, S, S) of the cells: they change slowly."""
        kernels, side = self._cell_kernels, CELL * self.grid.tile
        u, c = (p.sky_levels(self.box, side).ravel() for p in (self.unconvolved, self.convolved))
        phi = whitening_stamps(kernels.reshape(-1, *kernels.shape[2:]), u, c, self.excess)
        return phi.reshape(*kernels.shape[:2], *phi.shape[1:])

    def _cells_around(self, x: F64, y: F64) -> tuple[I64, F32]:
        """Return the numbers of the cells (N, 4) around frame positions (N,), px, and their weights (N, 4).

        The whitening is interpolated between cells: the light of a source does not depend on which of them it is in.
        """
        (rows, columns), side = self._cell_whitening.shape[:2], CELL * self.grid.tile
        index, weight = neighbours_2d(x, y, (*self.box[:2], columns * side, rows * side), columns, rows)
        return np.asarray(index, np.int64), weight.astype(np.float32)

    @cached_property
    def _cells_of_tiles(self) -> tuple[I64, F32]:
        x, y = self.grid.centres()
        return self._cells_around(x + self.box[0], y + self.box[1])

    @cached_property
    def _gains_of_tiles(self) -> F64:
        """By how much more noise (tiles, 2) of U and of C a tile's filters let through than those of its cell: variances."""
        phi, kernels = (a.reshape(-1, *a.shape[2:]) for a in (self._cell_whitening, self._cell_kernels))
        gains = noise_gains(phi, kernels)
        cells, weights = self._cells_of_tiles
        row, column = np.divmod(np.arange(self.grid.count), self.grid.columns)
        own = row // CELL * self._cell_whitening.shape[1] + column // CELL
        return np.asarray(np.einsum("nc,nck->nk", weights, gains[cells]) / gains[own])

    @property
    def largest_gain(self) -> float:
        """The largest factor that the whitening multiplies a spatial frequency by, at any pixel; 1 without whitening."""
        return float(np.abs(fft.rfft2(self._cell_whitening, (BLOCK, BLOCK))).max()) if self.decorrelate else 1.0

    def whitening_at(self, x: F64, y: F64) -> F32:
        """Return the whitening stamps, shape (N, S, S), at frame positions (N,), px."""
        if not self.decorrelate:
            return np.ones((x.size, 1, 1), np.float32)
        return _blended(self._cell_whitening, *self._cells_around(x, y))

    def run(self, *, want_matched: bool = True, rows: list[int] | None = None) -> Subtracted:
        """Return the difference; only some rows of tiles (the rest stays zero) when asked for."""
        width, height = self.box[2:]
        make = np.empty if rows is None else np.zeros
        out = Subtracted(
            make((height, width), np.float32),
            make((height, width), np.float32),
            make((height, width), np.float32) if want_matched else np.zeros((0, 0), np.float32),
        )
        grid = self.grid
        numbers = [k for row in (range(grid.rows) if rows is None else rows) for k in grid.row(row)]
        self._kernels, self._cell_kernels  # noqa: B018 (made before the threads share them)
        subtract = _whitened_tiles if self.decorrelate else _plain_tiles
        if self.decorrelate:
            self._gains_of_tiles  # noqa: B018
        in_bands(lambda first, last: subtract(self, out, numbers[first:last]), len(numbers), least=1)
        if rows is None and grid.count > 1:
            self._follow_kernel(out)
            if self.decorrelate:
                self._follow_whitening(out)
        return out

    def _follow_kernel(self, out: Subtracted) -> None:
        """Put right, in place, what bright pixels lack as the kernel was one for each tile."""
        slopes = KernelSlopes.of(self.grid, self._kernels)
        changed = slopes.all_changes(self.convolved, self.unconvolved, self.box, (out.variance, abs(self.scale)))
        x, y = self.grid.centres()
        stamps = inner(self.whitening_at(x + self.box[0], y + self.box[1]))
        for changes, stamp in zip(changed, stamps, strict=True):
            if not changes.rows.size:
                continue
            put(changes, out.difference, stamp, -self.scale)
            if out.matched.size:
                out.matched[changes.rows, changes.columns] += changes.values

    def _follow_whitening(self, out: Subtracted) -> None:
        """Put right, in place, what bright pixels of the difference lack as the whitening was one for each tile."""
        cells = logarithms(self._cell_whitening.reshape(-1, PHI_SIZE, PHI_SIZE))
        slopes = KernelSlopes.of(self.grid, _blended(cells, *self._cells_of_tiles))
        origin, mask = self.box[:2], np.zeros(out.difference.shape, np.int32)
        image = MaskedImage(out.difference, out.variance, mask, 0, origin)
        for changes in slopes.all_changes(image, image, self.box, (out.variance, 1.0)):
            out.difference[changes.rows, changes.columns] += changes.values


_Filter = TypeVar("_Filter")


class _Filters(Generic[_Filter]):
    """Filters that are made once for the tiles of a cell, forgotten when the next row of cells begins."""

    def __init__(self, make: Callable[[Transforms, tuple[int, int]], _Filter]) -> None:
        self._make, self._row = make, -1
        self._filters: dict[tuple[int, ...], _Filter] = {}

    def of(self, ft: Transforms, tile: TileBounds) -> _Filter:
        """Return the filters of the cell of a tile, for windows of a shape."""
        cell = tile.row // CELL, tile.column // CELL
        if cell[0] != self._row:
            self._row, self._filters = cell[0], {}
        key = *cell, *ft.shape
        if key not in self._filters:
            self._filters[key] = self._make(ft, cell)
        return self._filters[key]


def _blended(stamps: F32, cells: I64, weights: F32) -> F32:
    """Return the sums (N, S, S) of four cells' stamps each, times their weights, both of shape (N, 4)."""
    return np.asarray(blend(stamps.reshape(-1, *stamps.shape[-2:]), cells, weights))


def _plain_tiles(s: Subtraction, out: Subtracted, numbers: list[int]) -> None:
    """Subtract some tiles without whitening."""
    half = s.kernel.size // 2
    squares = _Filters(lambda ft, cell: Convolution(ft, s._cell_kernels[cell] ** 2))
    for ft, tile in s.grid.tiles(numbers):
        c, v, work = ft.windows(3)
        fy, fx = tile.y + s.box[1], tile.x + s.box[0]
        s.convolved.window(fy - half, fx - half, c, v)
        matched = ft.convolve(c, ft.kernel(s._kernels[tile.number], work))
        variance = squares.of(ft, tile).run(v, half, tile, work)
        if out.matched.size:
            paste(matched, 2 * half, tile, out.matched)
        target = TileTarget(out.difference, out.variance, tile.region)
        s.unconvolved.difference(fy, fx, TileWindow(matched, 2 * half), variance, s.scale, target)


def _whitened_tiles(s: Subtraction, out: Subtracted, numbers: list[int]) -> None:
    """Subtract and whiten some tiles."""
    half, reach = s.kernel.size // 2, s.grid.margin
    filters = _Filters(
        lambda ft, cell: _noise_filters(ft, s._cell_kernels[cell], s._cell_whitening[cell], s.correlations)
    )
    spectra = WhiteningSpectra(s._cell_whitening.reshape(-1, PHI_SIZE, PHI_SIZE), *s._cells_of_tiles)
    for ft, tile in s.grid.tiles(numbers):
        squares = filters.of(ft, tile)
        u, vu, c, vc, work, more = ft.windows(6)
        fy, fx = tile.y + s.box[1], tile.x + s.box[0]
        s.unconvolved.window(fy - reach - half, fx - reach - half, u, vu)
        s.convolved.window(fy - reach, fx - reach, c, vc)
        variances = squares[0].run(vu, reach + half, tile, work), squares[1].run(vc, reach, tile, more)
        u_gain, c_gain = s._gains_of_tiles[tile.number].tolist()
        paste_sum(*variances, tile, out.variance, (u_gain * s.scale**2, c_gain * s.scale**2), LEAST_VARIANCE)
        phi = spectra.of(ft, tile, more)
        ft.subtract_product(ft.forward(u), ft.forward(c), ft.kernel(s._kernels[tile.number], work), phi)
        paste(ft.back(u), 2 * reach, tile, out.difference, s.scale)
        if out.matched.size:
            paste(ft.back(c), half + reach, tile, out.matched)


def _noise_filters(
    ft: Transforms, kernel: F32, phi: F32, correlations: tuple[F64 | None, F64 | None]
) -> tuple[Convolution, Convolution]:
    """Return the convolutions with phi^2 and (phi K)^2, times the gains of correlated noise."""
    side = kernel.shape[0] + phi.shape[0] - 1
    both = ft.kernel(kernel)
    ft.back(ft.multiply(both, ft.kernel(phi), both))
    gains = correlated_gain(phi, correlations[0]), correlated_gain(both[:side, :side], correlations[1])
    return Convolution(ft, gains[0] * phi**2), Convolution(ft, gains[1] * both[:side, :side] ** 2)


def tile_side(height: int, width: int) -> int:
    """Return the side of tiles small enough for one kernel each: a small image varies as much as a large one."""
    return int(np.clip(min(height, width) // 16 // 16 * 16, 32, 192))


def excess_power(unconvolved: MaskedImage, convolved: MaskedImage, kernel: SpatialKernel, box: Box) -> F64:
    """Return the noise power of U - K * C over that of white inputs, shape (BLOCK, BLOCK / 2 + 1).

    Resampled images have correlated noise.

    Measured on the sky of a plain subtraction of some rows of tiles: static faint sources, which would look like
    correlated noise in either input, have cancelled there.
    """
    x0, y0, width, height = box
    plain = Subtraction(unconvolved, convolved, kernel, box, decorrelate=False)
    measured = sky_power(lambda rows: plain.run(rows=rows), plain.grid, (unconvolved, convolved), box)
    side = max(height, width)
    level = [p.sky_levels(box, side)[0] for p in (unconvolved, convolved)]
    model = noise_model(kernel.kernels_at(x0 + width / 2, y0 + height / 2), level[0], level[1])[0]
    return np.clip(measured / smooth_power(model), 1 / MAX_EXCESS, MAX_EXCESS)


def sky_power(
    run: Callable[[list[int]], Subtracted], grid: TileGrid, images: tuple[MaskedImage, MaskedImage], box: Box
) -> F64:
    """Return the noise power (BLOCK, BLOCK / 2 + 1), mean 1, of a difference on the sky of some rows of its tiles.

    Parameters
    ----------
    run
        Subtracts those rows of tiles.
    images
        The two images behind it.
    """
    x0, y0, width, height = box
    rows = list(range(grid.rows))[:: max(1, grid.rows * grid.columns // SAMPLE_TILES)]
    subtracted = run(rows)
    good = np.zeros((height, width), bool)
    for row in rows:
        low, high = row * grid.tile, min((row + 1) * grid.tile, height)
        part = slice(low, high)
        good[part] = np.abs(subtracted.matched[part]) < FAINT * np.sqrt(subtracted.variance[part])
        for p in images:
            ox, oy = x0 - p.origin[0], y0 - p.origin[1]
            good[part] &= p.good(slice(oy + low, oy + high))[:, ox : ox + width]
    return noise_power(subtracted.difference, subtracted.variance, good)
