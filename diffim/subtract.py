"""Subtraction and decorrelation in one pass over overlap-save tiles.

With U the image that is not convolved, C the other one, K the local kernel and u, c their local sky variances,

    D = phi * (U - g - K * C),  phi(f) = sqrt((u + c k^2) / (u + c |K(f)|^2)),  k = sum(K),

where phi whitens the noise and keeps fluxes (phi(0) = 1; Kaiser, DMTN-021). The variance plane is propagated with the
squared real-space kernels: V_D = phi^2 * V_U + (phi K)^2 * V_C, which is right on sources too.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy import fft
from numpy.typing import NDArray

from diffim.convolve import F32, TileGrid, Transforms
from diffim.kernel import Box, SpatialKernel
from diffim.noise_power import BLOCK, noise_power, smooth_power
from diffim.planes import Planes
from exposure.threads import in_bands

__all__ = ["Subtracted", "Subtraction", "excess_power"]

PHI_SIZE = 31
CELL = 3  # tiles over which the whitening is one
SAMPLE_TILES = 60  # enough to know the noise power
MAX_EXCESS = 4.0
FAINT = 1.5  # sigma: brighter light in the template leaves residuals that are no noise
MAX_GAIN = 12.0  # of the whitening at any frequency


@dataclass(frozen=True)
class Subtracted:
    """Difference, its variance and, where asked for, K * C, on the box of the subtraction."""

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
    """

    unconvolved: Planes
    convolved: Planes
    kernel: SpatialKernel
    box: Box
    decorrelate: bool = True
    excess: NDArray[np.float64] | None = None
    scale: float = 1.0

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
        phi = _whitening(kernels.reshape(-1, *kernels.shape[2:]), u, c, self.excess)
        return phi.reshape(*kernels.shape[:2], *phi.shape[1:])

    def whitening_at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> F32:
        """Return the whitening stamps (N, S, S) at frame positions."""
        if not self.decorrelate:
            return np.ones((x.size, 1, 1), np.float32)
        phi, side = self._cell_whitening, CELL * self.grid.tile
        row = np.clip((y - self.box[1]) // side, 0, phi.shape[0] - 1).astype(int)
        column = np.clip((x - self.box[0]) // side, 0, phi.shape[1] - 1).astype(int)
        return np.asarray(phi[row, column], np.float32)

    def run(self, *, want_matched: bool = True, rows: list[int] | None = None) -> Subtracted:
        """Subtract; only some rows of tiles (the rest stays zero) when asked for."""
        width, height = self.box[2:]
        make = np.empty if rows is None else np.zeros
        out = Subtracted(
            make((height, width), np.float32), make((height, width), np.float32),
            make((height, width), np.float32) if want_matched else np.zeros((0, 0), np.float32),
        )  # fmt: skip
        todo = list(range(self.grid.rows)) if rows is None else rows
        self._kernels, self._cell_kernels  # noqa: B018 (made before the threads share them)
        work = _whitened_rows if self.decorrelate else _plain_rows
        if self.decorrelate:
            self._cell_whitening  # noqa: B018
        in_bands(lambda first, last: work(self, out, todo[first:last]), len(todo), least=1)
        return out


def _plain_rows(s: Subtraction, out: Subtracted, rows: list[int]) -> None:
    grid = s.grid
    half = s.kernel.size // 2
    ft = Transforms(grid.size)
    c, vc, f_kernel, f_c, f_v = (ft.buffer() for _ in range(5))
    u, vu = (np.empty((grid.tile, grid.tile), np.float32) for _ in range(2))  # nothing is convolved: no margin
    squares: dict[int, F32] = {}
    cell_row = -1
    for row in rows:
        if row // CELL != cell_row:
            cell_row, squares = row // CELL, {}
        for r, k, y, x in grid.tiles(row, row + 1):
            stamp, cell = s._kernels[r * grid.columns + k], k // CELL
            if cell not in squares:
                squares[cell] = ft.kernel(s._cell_kernels[cell_row, cell] ** 2, ft.buffer())
            fy, fx = y + s.box[1], x + s.box[0]
            s.unconvolved.window(fy, fx, u, vu)
            s.convolved.window(fy - half, fx - half, c, vc)
            ft.multiply(ft.forward(c, f_c), ft.kernel(stamp, f_kernel), f_c)
            ft.multiply(ft.forward(vc, f_v), squares[cell], f_v)
            matched, spread = ft.back(f_c, c), ft.back(f_v, vc)
            if out.matched.size:
                grid.paste(matched, 2 * half, y, x, out.matched)
            grid.paste_sum(u, -1.0, matched, 2 * half, y, x, out.difference, s.scale)
            grid.paste_sum(vu, 1.0, spread, 2 * half, y, x, out.variance, s.scale**2, 1e-30)


def _whitened_rows(s: Subtraction, out: Subtracted, rows: list[int]) -> None:
    grid = s.grid
    half, reach = s.kernel.size // 2, grid.margin
    ft = Transforms(grid.size)
    u, vu, c, vc, f_u, f_vu, f_c, f_vc, f_kernel, real = (ft.buffer() for _ in range(10))
    filters: dict[int, tuple[F32, F32, F32]] = {}
    cell_row = -1
    for row in rows:
        if row // CELL != cell_row:
            cell_row, filters = row // CELL, {}
        for r, k, y, x in grid.tiles(row, row + 1):
            if k // CELL not in filters:
                filters[k // CELL] = _noise_filters(
                    ft, s._cell_kernels[cell_row, k // CELL], s._cell_whitening[cell_row, k // CELL]
                )
            f_phi, f_phi2, f_both2 = filters[k // CELL]
            fy, fx = y + s.box[1], x + s.box[0]
            s.unconvolved.window(fy - reach - half, fx - reach - half, u, vu)
            s.convolved.window(fy - reach, fx - reach, c, vc)
            ft.kernel(s._kernels[r * grid.columns + k], f_kernel)
            ft.subtract_product(ft.forward(u, f_u), ft.forward(c, f_c), f_kernel, f_phi)
            grid.paste(ft.back(f_u, real), 2 * reach, y, x, out.difference, s.scale)
            if out.matched.size:
                grid.paste(ft.back(f_c, real), half + reach, y, x, out.matched)
            ft.multiply(ft.forward(vu, f_vu), f_phi2, f_vu)
            ft.add_product(ft.forward(vc, f_vc), f_both2, f_vu)
            grid.paste(ft.back(f_vu, real), 2 * reach, y, x, out.variance, s.scale**2, 1e-30)


def _noise_filters(ft: Transforms, kernel: F32, phi: F32) -> tuple[F32, F32, F32]:
    """Return the spectra of phi, phi^2 and (phi K)^2."""
    f_phi, f_phi2, f_both, real = (ft.buffer() for _ in range(4))
    ft.kernel(phi, f_phi)
    ft.kernel(phi**2, f_phi2)
    ft.multiply(f_phi, ft.kernel(kernel, f_both), f_both)
    both = ft.back(f_both, real)
    return f_phi, f_phi2, ft.forward(both * both, f_both)


def tile_side(height: int, width: int) -> int:
    """Return the side of tiles small enough for one kernel each: a small image varies as much as a large one."""
    return int(np.clip(min(height, width) // 16 // 16 * 16, 32, 192))


def _noise_model(kernels: F32, u: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the noise power u + c |K(f)|^2 of U - K * C for white inputs, shape (N, BLOCK, BLOCK/2+1)."""
    n, side = kernels.shape[0], kernels.shape[1]
    wide = np.zeros((n, BLOCK, BLOCK))
    wide[:, :side, :side] = kernels
    return np.asarray(u[:, None, None] + c[:, None, None] * np.abs(fft.rfft2(wide)) ** 2)


def _whitening(kernels: F32, u: NDArray[np.float64], c: NDArray[np.float64], excess: NDArray[np.float64] | None) -> F32:
    """Return the real-space whitening stamps of sum 1."""
    noise = _noise_model(kernels, u, c)
    if excess is not None:
        noise = noise * excess
    phi = np.minimum(np.sqrt(noise[:, :1, :1] / noise), MAX_GAIN)
    real = fft.fftshift(fft.irfft2(phi, (BLOCK, BLOCK)), axes=(1, 2))
    low = BLOCK // 2 - PHI_SIZE // 2
    stamp = real[:, low : low + PHI_SIZE, low : low + PHI_SIZE]
    return np.asarray(stamp / stamp.sum(axis=(1, 2), keepdims=True), dtype=np.float32)


def excess_power(unconvolved: Planes, convolved: Planes, kernel: SpatialKernel, box: Box) -> NDArray[np.float64]:
    """Return how the noise power of U - K * C differs from that of white inputs (resampled images are correlated).

    Measured on the sky of a plain subtraction of some rows of tiles: static faint sources, which would look like
    correlated noise in either input, have cancelled there.
    """
    x0, y0, width, height = box
    plain = Subtraction(unconvolved, convolved, kernel, box, decorrelate=False)
    grid = plain.grid
    rows = list(range(grid.rows))[:: max(1, grid.rows * grid.columns // SAMPLE_TILES)]
    done = plain.run(rows=rows)
    good = np.zeros((height, width), bool)
    for row in rows:
        low, high = row * grid.tile, min((row + 1) * grid.tile, height)
        part = slice(low, high)
        good[part] = np.abs(done.matched[part]) < FAINT * np.sqrt(done.variance[part])
        for p in (unconvolved, convolved):
            ox, oy = x0 - p.origin[0], y0 - p.origin[1]
            good[part] &= p.good(slice(oy + low, oy + high))[:, ox : ox + width]
    measured = noise_power(done.difference, done.variance, good)
    side = max(height, width)
    level = [p.sky_levels(box, side)[0] for p in (unconvolved, convolved)]
    model = _noise_model(kernel.kernels_at(x0 + width / 2, y0 + height / 2), level[0], level[1])[0]
    return np.clip(measured / smooth_power(model), 1 / MAX_EXCESS, MAX_EXCESS)
