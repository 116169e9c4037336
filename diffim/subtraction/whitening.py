"""Filters that whiten the noise of a difference, and how they change over it.

With U the image that is not convolved, C the other one, K the local kernel and u, c their local sky variances,
phi(f) = sqrt((u + c k^2) / (u + c |K(f)|^2)), k = sum(K) (Kaiser, DMTN-021). They are made at the centres of cells of several tiles
and are linear between them: a step from cell to cell would be one in the fluxes of what is new, by up to a per cent.
"""

from typing import Any

import numpy as np
from numpy import fft

from diffim.pixels.fft_tiles import TileBounds, Transforms
from diffim.pixels.stamp_convolution import centred_spectra
from diffim.subtraction.noise_power import BLOCK
from tasks.arrays import F32, F64, I64
from tasks.compiled import compiled

__all__ = ["PHI_SIZE", "WhiteningSpectra", "logarithms", "noise_gains", "noise_model", "whitening_stamps"]

PHI_SIZE = 31
MAX_GAIN = 12.0  # of the whitening at any frequency
LEAST = 1e-2  # of the transform of a stamp, which is positive but for what was cut off


def noise_model(kernels: F32, u: F64, c: F64) -> F64:
    """Return the noise power u + c |K(f)|^2 of U - K * C for white inputs, shape (N, BLOCK, BLOCK/2+1)."""
    return np.asarray(u[:, None, None] + c[:, None, None] * _power(kernels))


def noise_gains(phi: F32, kernels: F32) -> F64:
    """Return by how much phi and phi K multiply the variance of white noise, shape (N, 2)."""
    passed = _power(phi)
    twice = np.full(BLOCK // 2 + 1, 2.0)  # frequencies that a real transform leaves out
    twice[[0, -1]] = 1.0
    return np.stack([(p * twice).sum((1, 2)) for p in (passed, passed * _power(kernels))], axis=1) / BLOCK**2


def _power(stamps: F32) -> F64:
    """Return |K(f)|^2 of stamps (N, S, S), shape (N, BLOCK, BLOCK/2+1)."""
    n, side = stamps.shape[0], stamps.shape[1]
    cut = max(0, side - BLOCK + 1) // 2  # what lies further out is too smooth to matter to the whitening
    side -= 2 * cut
    wide = np.zeros((n, BLOCK, BLOCK))
    wide[:, :side, :side] = stamps[:, cut : cut + side, cut : cut + side]
    return np.asarray(np.abs(fft.rfft2(wide)) ** 2)


def whitening_stamps(kernels: F32, u: F64, c: F64, excess: F64 | None) -> F32:
    """Return the real-space whitening stamps of sum 1."""
    noise = noise_model(kernels, u, c)
    if excess is not None:
        noise = noise * excess
    phi = np.minimum(np.sqrt(noise[:, :1, :1] / noise), MAX_GAIN)
    real = fft.fftshift(fft.irfft2(phi, (BLOCK, BLOCK)), axes=(1, 2))
    low = BLOCK // 2 - PHI_SIZE // 2
    stamp = real[:, low : low + PHI_SIZE, low : low + PHI_SIZE]
    return np.asarray(stamp / stamp.sum(axis=(1, 2), keepdims=True), dtype=np.float32)


def logarithms(stamps: F32) -> F32:
    """Return the stamps (N, S, S) whose transforms are the logarithms of those of centred stamps with positive real transforms."""
    real = fft.irfft2(np.log(np.maximum(centred_spectra(stamps, BLOCK).real, LEAST)), (BLOCK, BLOCK))
    g = (np.arange(stamps.shape[-1]) - stamps.shape[-1] // 2) % BLOCK
    return np.ascontiguousarray(real[:, g[:, None], g[None, :]], np.float32)


class WhiteningSpectra:
    """Spectra of the whitening at tiles, between those of the cells: as right as transforming each anew, and a fourth of the time."""

    def __init__(self, stamps: F32, cells: I64, weights: F32) -> None:
        """Take the stamps (cells, S, S), and of the tiles the cells around and their weights, both (tiles, 4)."""
        self._stamps, self._cells, self._weights = stamps, cells, weights
        self._of_cells: dict[tuple[int, ...], F32] = {}
        self._of_row: dict[tuple[int, ...], F32] = {}
        self._row = -1

    def of(self, ft: Transforms, tile: TileBounds, out: F32) -> F32:
        """Write the spectrum at a tile into a window."""
        if tile.row != self._row:
            self._row, self._of_row = tile.row, {}
        (a, b, c, d), (_, q, _, s) = self._cells[tile.number].tolist(), self._weights[tile.number].tolist()
        # of the two cells further on in y, as the first tile of the row has it: the same in whatever order tiles are made
        low = np.float32(self._weights[tile.number - tile.column, 2:].sum())
        left, right = self._between(ft, a, c, low), self._between(ft, b, d, low)
        _mixed(left, right, np.float32(q + s), out)
        return out

    def _between(self, ft: Transforms, near: int, far: int, weight: np.float32) -> F32:
        key = near, *ft.shape
        if key not in self._of_row:
            self._of_row[key] = np.empty(ft.shape, np.float32)
            _mixed(self._cell(ft, near), self._cell(ft, far), weight, self._of_row[key])
        return self._of_row[key]

    def _cell(self, ft: Transforms, cell: int) -> F32:
        key = cell, *ft.shape
        if key not in self._of_cells:
            self._of_cells[key] = ft.kernel(self._stamps[cell])
        return self._of_cells[key]


@compiled
def _mixed(first: Any, other: Any, weight: Any, out: Any) -> None:
    """Write (1 - w) first + w other, all of shape (height, width)."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[j, i] = first[j, i] + weight * (other[j, i] - first[j, i])
