"""Subtraction and decorrelation in one pass over overlap-save tiles.

With U the image that is not convolved, C the other one, K the local kernel and u, c their local sky variances,

    D = phi * (U - g - K * C),  phi(f) = sqrt((u + c k^2) / (u + c |K(f)|^2)),  k = sum(K),

where phi whitens the noise and keeps fluxes (phi(0) = 1; Kaiser, DMTN-021). The variance plane is propagated with the
squared real-space kernels: V_D = phi^2 * V_U + (phi K)^2 * V_C, which is right on sources too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from diffim.convolve import Complex, TileGrid
from diffim.kernel import SpatialKernel
from diffim.noise_power import BLOCK, noise_power, smooth_power

__all__ = ["Subtracted", "excess_power", "subtract_arrays"]

PHI_SIZE = 31
CELL = 512  # px over which the whitening is one
SAMPLE_TILES = 128  # enough to know the noise power
MAX_EXCESS = 4.0
FAINT = 1.5  # sigma: brighter light in the template leaves residuals that are no noise
MAX_GAIN = 6.0  # of the whitening at any frequency


@dataclass(frozen=True)
class Subtracted:
    """Difference, its variance, the matched image (before decorrelation) and the whitening stamps per tile."""

    difference: NDArray[np.float32]
    variance: NDArray[np.float32]
    matched: NDArray[np.float32]
    whitening: NDArray[np.float32]
    grid: TileGrid


def subtract_arrays(
    unconvolved: NDArray[np.float32], unconvolved_var: NDArray[np.float32], convolved: NDArray[np.float32],
    convolved_var: NDArray[np.float32], kernel: SpatialKernel, origin: tuple[int, int], *, decorrelate: bool = True,
    good: NDArray[np.bool_] | None = None,
    excess: NDArray[np.float64] | None = None,
    rows: Sequence[int] | None = None,
) -> Subtracted:  # fmt: skip
    """Return U - K * C, whitened, with its variance.

    Parameters
    ----------
    unconvolved, convolved
        NaN-free arrays of one shape (height, width); the background of the fit must already be taken from U.
    good
        Pixels whose variances count as sky.
    origin
        Frame position of pixel [0, 0].
    excess
        Measured noise power over what white inputs would give (`excess_power`), 1 by default.
    rows
        Rows of tiles to compute; the others are left at zero. All by default.
    """
    height, width = unconvolved.shape
    phi_reach = PHI_SIZE // 2 if decorrelate else 0
    grid = TileGrid(height, width, tile_side(height, width), kernel.size // 2 + phi_reach)
    make = np.empty if rows is None else np.zeros
    difference, variance, matched = (make((height, width), np.float32) for _ in range(3))
    levels = _sky_levels(unconvolved_var, convolved_var, grid, good)
    noise = _NoiseFilters(kernel, grid, levels, origin, excess) if decorrelate else None
    for row in grid.row_numbers() if rows is None else rows:
        x, y = grid.centres(row)
        kernels = kernel.kernels_at(x + origin[0], y + origin[1])
        f_kernel = grid.kernels(kernels)
        product = grid.windows(convolved, row)
        product *= f_kernel
        if noise is None:
            squares = grid.kernels(kernels**2)
            spread = grid.windows(convolved_var, row)
            spread *= squares
            grid.put(matched, row, product)
            part = slice(row * grid.tile, (row + 1) * grid.tile)
            np.subtract(unconvolved[part], matched[part], out=difference[part])
            grid.put(variance, row, spread)
            variance[part] += unconvolved_var[part]
            continue
        white = grid.windows(unconvolved, row)
        white -= product
        white *= noise.whitening(row)
        grid.put(matched, row, product)
        grid.put(difference, row, white)
        spread = grid.windows(unconvolved_var, row)
        spread *= noise.unconvolved_squares(row)
        other = grid.windows(convolved_var, row)
        other *= noise.convolved_squares(row)
        spread += other
        grid.put(variance, row, spread)
    stamps = noise.stamps() if noise is not None else np.ones((grid.rows * grid.columns, 1, 1), np.float32)
    return Subtracted(difference, np.maximum(variance, np.float32(1e-30), out=variance), matched, stamps, grid)


class _NoiseFilters:
    """Whitening stamps and the squared kernels of the variance, one for a cell of several tiles: they change slowly."""

    def __init__(
        self, kernel: SpatialKernel, grid: TileGrid, levels: NDArray[np.float64], origin: tuple[int, int],
        excess: NDArray[np.float64] | None,
    ) -> None:  # fmt: skip
        self._grid = grid
        step = max(1, CELL // grid.tile)
        self._row_of = np.arange(grid.rows) // step
        self._column_of = np.arange(grid.columns) // step
        rows, columns = int(self._row_of[-1]) + 1, int(self._column_of[-1]) + 1
        cy, cx = (
            np.minimum((np.arange(rows) + 0.5) * step * grid.tile, grid.height),
            np.minimum((np.arange(columns) + 0.5) * step * grid.tile, grid.width),
        )
        mx, my = (a.ravel() for a in np.meshgrid(cx, cy))
        self._kernels = kernel.kernels_at(mx + origin[0], my + origin[1]).reshape(
            rows, columns, kernel.size, kernel.size
        )
        self._phi = np.empty((rows, columns, PHI_SIZE, PHI_SIZE), np.float32)
        for r in range(rows):
            here = levels[:, self._row_of == r].mean(axis=1)
            u, c = (np.array([plane[self._column_of == k].mean() for k in range(columns)]) for plane in here)
            self._phi[r] = _whitening(self._kernels[r], u, c, excess)
        self._cached = -1
        self._transforms: tuple[Complex, Complex, Complex]

    def _at(self, row: int) -> tuple[Complex, Complex, Complex]:
        cell = int(self._row_of[row])
        if cell != self._cached:
            phi = self._phi[cell]
            f_phi = self._grid.kernels(phi)
            both = self._grid.back(f_phi * self._grid.kernels(self._kernels[cell]))
            self._transforms = (f_phi, self._grid.kernels(phi**2), np.asarray(fft.rfft2(both**2)))
            self._cached = cell
        return self._transforms

    def whitening(self, row: int) -> Complex:
        """Transforms (columns, F, F/2+1) of phi for one row of tiles."""
        return self._at(row)[0][self._column_of]

    def unconvolved_squares(self, row: int) -> Complex:
        """Transforms of phi^2."""
        return self._at(row)[1][self._column_of]

    def convolved_squares(self, row: int) -> Complex:
        """Transforms of (phi K)^2."""
        return self._at(row)[2][self._column_of]

    def stamps(self) -> NDArray[np.float32]:
        """Whitening stamps per tile, in row order."""
        return self._phi[self._row_of[:, None], self._column_of[None, :]].reshape(-1, PHI_SIZE, PHI_SIZE)


def tile_side(height: int, width: int) -> int:
    """Return the side of tiles small enough for one kernel each: a small image varies as much as a large one."""
    return int(np.clip(min(height, width) // 16 // 16 * 16, 32, 128))


def _sky_levels(
    var_u: NDArray[np.float32], var_c: NDArray[np.float32], grid: TileGrid, good: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Return (2, rows, columns): median variances of the good pixels of each tile, the global ones where few."""
    out = np.empty((2, grid.rows, grid.columns))
    step = max(1, int(np.sqrt(var_u.size / 500_000)))
    usable = (np.ones(var_u.shape, np.bool_) if good is None else good)[::step, ::step]
    for k, plane in enumerate((var_u, var_c)):
        values = plane[::step, ::step]
        known = values[usable & (values > 0)]
        level = float(np.median(known[:: max(1, known.size // 100_000)])) if known.size else 1.0
        _tile_medians(np.ascontiguousarray(values), usable, grid.tile / step, level, out[k])
    return out


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _tile_medians(plane: Any, usable: Any, tile: float, level: float, out: Any) -> None:
    """Median of the usable positive values of each tile; `level` where fewer than 32."""
    height, width = plane.shape
    values = np.empty((int(tile) + 2) * (int(tile) + 2), np.float32)
    for r in range(out.shape[0]):
        for c in range(out.shape[1]):
            n = 0
            for y in range(int(r * tile), min(int((r + 1) * tile), height)):
                for x in range(int(c * tile), min(int((c + 1) * tile), width)):
                    if usable[y, x] and plane[y, x] > 0:
                        values[n] = plane[y, x]
                        n += 1
            out[r, c] = np.median(values[:n]) if n >= 32 else level


def _noise_model(kernels: NDArray[np.float32], u: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the noise power u + c |K(f)|^2 of U - K * C for white inputs, shape (N, BLOCK, BLOCK/2+1)."""
    n, side = kernels.shape[0], kernels.shape[1]
    wide = np.zeros((n, BLOCK, BLOCK), np.float32)
    wide[:, :side, :side] = kernels
    return np.asarray(u[:, None, None] + c[:, None, None] * np.abs(fft.rfft2(wide)) ** 2)


def _whitening(
    kernels: NDArray[np.float32],
    u: NDArray[np.float64],
    c: NDArray[np.float64],
    excess: NDArray[np.float64] | None,
) -> NDArray[np.float32]:
    """Return the real-space whitening stamps of sum 1 for one row of tiles."""
    noise = _noise_model(kernels, u, c)
    if excess is not None:
        noise = noise * excess
    phi = np.minimum(np.sqrt(noise[:, :1, :1] / noise), MAX_GAIN)
    real = np.fft.fftshift(fft.irfft2(phi, (BLOCK, BLOCK)), axes=(1, 2))
    low = BLOCK // 2 - PHI_SIZE // 2
    stamp = real[:, low : low + PHI_SIZE, low : low + PHI_SIZE]
    return np.asarray(stamp / stamp.sum(axis=(1, 2), keepdims=True), dtype=np.float32)


def excess_power(
    unconvolved: NDArray[np.float32],
    unconvolved_var: NDArray[np.float32],
    convolved: NDArray[np.float32],
    convolved_var: NDArray[np.float32],
    kernel: SpatialKernel,
    origin: tuple[int, int],
    good: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return how the noise power of U - K * C differs from that of white inputs (resampled images are correlated).

    Measured on the sky of a plain subtraction of some rows of tiles: static faint sources, which would look like
    correlated noise in either input, have cancelled there.
    """
    height, width = unconvolved.shape
    grid = TileGrid(height, width, tile_side(height, width), kernel.size // 2)
    rows = list(range(grid.rows))[:: max(1, grid.rows * grid.columns // SAMPLE_TILES)]
    plain = subtract_arrays(
        unconvolved, unconvolved_var, convolved, convolved_var, kernel, origin, decorrelate=False, rows=rows
    )
    done = np.zeros(good.shape, bool)
    for row in rows:
        done[row * grid.tile : (row + 1) * grid.tile] = True
    sky = good & done & (np.abs(plain.matched) < FAINT * np.sqrt(plain.variance))
    measured = noise_power(plain.difference, plain.variance, sky)
    level = _sky_levels(unconvolved_var, convolved_var, TileGrid(height, width, max(height, width)), good)[:, 0, :1]
    model = _noise_model(kernel.kernels_at(origin[0] + width / 2, origin[1] + height / 2), level[0], level[1])[0]
    return np.clip(measured / smooth_power(model), 1 / MAX_EXCESS, MAX_EXCESS)
