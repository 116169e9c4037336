"""Subtraction and decorrelation in one pass over overlap-save tiles.

With U the image that is not convolved, C the other one, K the local kernel and u, c their local sky variances,

    D = phi * (U - g - K * C),  phi(f) = sqrt((u + c k^2) / (u + c |K(f)|^2)),  k = sum(K),

where phi whitens the noise and keeps fluxes (phi(0) = 1; Kaiser, DMTN-021). The variance plane is propagated with the
squared real-space kernels: V_D = phi^2 * V_U + (phi K)^2 * V_C, which is right on sources too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from diffim.convolve import TileGrid
from diffim.kernel import SpatialKernel
from diffim.noise_power import BLOCK, noise_power, smooth_power

__all__ = ["Subtracted", "excess_power", "subtract_arrays"]

PHI_SIZE = 31
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
    reach = (kernel.size + PHI_SIZE) // 2 if decorrelate else kernel.size // 2
    grid = TileGrid(height, width, tile_side(height, width), reach)
    planes = [grid.pad(p) for p in (unconvolved, unconvolved_var, convolved, convolved_var)]
    out = [np.zeros((height, width), np.float32) for _ in range(3)]
    whitening = []
    levels = _sky_levels(unconvolved_var, convolved_var, grid, good)
    for row in grid.row_numbers() if rows is None else rows:
        x, y = grid.centres(row)
        kernels = kernel.kernels_at(x + origin[0], y + origin[1])
        f_kernel = grid.kernels(kernels)
        f_u, f_vu, f_c, f_vc = (grid.windows(p, row) for p in planes)
        matched = f_c * f_kernel
        grid.put(out[2], row, matched)
        if decorrelate:
            phi = _whitening(kernels, levels[0, row], levels[1, row], excess)
            whitening.append(phi)
            f_phi = grid.kernels(phi)
            grid.put(out[0], row, (f_u - matched) * f_phi)
            both = grid.back(f_phi * f_kernel)
            f_both = np.asarray(fft.rfft2(both**2))
            grid.put(out[1], row, f_vu * grid.kernels(phi**2) + f_vc * f_both)
        else:
            grid.put(out[0], row, f_u - matched)
            grid.put(out[1], row, f_vu + f_vc * grid.kernels(kernels**2))
    if not decorrelate:
        out[1] = np.maximum(out[1], 0)
    stamps = np.concatenate(whitening) if whitening else np.ones((grid.rows * grid.columns, 1, 1), np.float32)
    return Subtracted(out[0], np.maximum(out[1], np.float32(1e-30)), out[2], stamps, grid)


def tile_side(height: int, width: int) -> int:
    """Return the side of tiles small enough for one kernel each: a small image varies as much as a large one."""
    return int(np.clip(min(height, width) // 16 // 16 * 16, 32, 128))


def _sky_levels(
    var_u: NDArray[np.float32], var_c: NDArray[np.float32], grid: TileGrid, good: NDArray[np.bool_] | None
) -> NDArray[np.float64]:
    """Return (2, rows, columns): median variances of the good pixels of each tile, the global ones where few."""
    out = np.empty((2, grid.rows, grid.columns))
    for k, plane in enumerate((var_u, var_c)):
        usable = (plane > 0) & (True if good is None else good)
        everywhere = plane[usable][:: max(1, int(usable.sum()) // 100_000)]
        level = float(np.median(everywhere)) if everywhere.size else 1.0
        for row in range(grid.rows):
            for col in range(grid.columns):
                part = (
                    slice(row * grid.tile, (row + 1) * grid.tile, 4), slice(col * grid.tile, (col + 1) * grid.tile, 4)
                )  # fmt: skip
                values = plane[part][usable[part]]
                out[k, row, col] = np.median(values) if values.size > 64 else level
    return out


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
