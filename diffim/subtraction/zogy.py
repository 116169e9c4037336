"""Proper subtraction (Zackay, Ofek and Gal-Yam 2016) with the PSFs of each tile.

With N the new image (variance s_n^2 per pixel, PSF P_n, flux scale 1) and R the reference (s_r^2, P_r, F_r),

    D = k_n * N - k_r * R,   k_n = F_r P_r / (F_D sqrt(den)),   k_r = P_n / (F_D sqrt(den)),
    den = s_n^2 F_r^2 |P_r|^2 + s_r^2 |P_n|^2,   F_D = F_r / sqrt(s_n^2 F_r^2 + s_r^2)

(products of spectra), so that D is on the flux scale of the new image and its noise is white, of variance
s_n^2 + s_r^2 / F_r^2. Where the noise of an image is correlated (it was resampled, or drizzled) that of D is measured, and both
filters are divided by the root of its power, and its part of the variance is larger or smaller by what the filter lets through of
noise so correlated (`correlated_gain`). No kernel is fitted: what is wrong with the PSF models stays in the difference.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy import fft
from numpy.typing import NDArray

from diffim.errors import DifferencingError
from diffim.pixels.fft_tiles import TileGrid, paste
from diffim.pixels.masked_image import LEAST_VARIANCE, MaskedImage
from diffim.subtraction.alard_lupton import MAX_EXCESS, Subtracted, sky_power, tile_side
from diffim.subtraction.noise_power import BLOCK as POWER_SIDE
from diffim.subtraction.noise_power import correlated_gain
from exposure import Psf
from exposure.threads import in_bands
from tasks.arrays import F32, F64, Box

__all__ = ["ProperSubtraction", "check_centred", "proper_filters"]

FILTER_SIZE = 41
SPECTRUM = 128  # side of the transforms of PSF stamps
BLOCK = 64  # tiles at a time
FLOOR = 1e-4  # added to the PSFs' spectra: where both are less, nothing is known and both filters go to 1 smoothly


def proper_filters(
    new: F32,
    reference: F32,
    new_variance: F64,
    reference_variance: F64,
    reference_flux: float = 1.0,
    size: int = FILTER_SIZE,
    excess: F64 | None = None,
) -> tuple[F32, F32]:
    """Return the stamps (N, size, size) of k_n (sum 1) and k_r (sum 1 / F_r).

    Parameters
    ----------
    new, reference
        PSF stamps (N, S, S), centred.
    new_variance, reference_variance
        Variance per pixel (N,) of the sky of the two images, each in its own units.
    reference_flux
        F_r: counts of the reference per count of the new image.
    excess
        Power of the noise of D over that of white images, shape (BLOCK, BLOCK / 2 + 1); 1 by default.
    """
    p_n, p_r = (_spectra(a / a.sum((1, 2), keepdims=True)) + FLOOR for a in (new, reference))
    v_n, v_r = new_variance[:, None, None] * reference_flux**2, reference_variance[:, None, None]
    den = v_n * np.abs(p_r) ** 2 + v_r * np.abs(p_n) ** 2
    total = v_n + v_r
    unit = np.sqrt(total / den)  # 1 / (F_D sqrt(den)) in units of 1 / F_r
    if excess is not None:
        unit = unit / np.sqrt(_on_spectrum(excess))
    return _stamps(p_r * unit, size), _stamps(p_n * unit, size) / np.float32(reference_flux)


def _spectra(stamps: NDArray[np.floating]) -> NDArray[np.complex128]:
    """Transform stamps with their middle at the origin."""
    side = stamps.shape[-1]
    if side > SPECTRUM // 2:
        low = (side - SPECTRUM // 2 + 1) // 2
        stamps = stamps[:, low : side - low, low : side - low]
        side = stamps.shape[-1]
    wide = np.zeros((len(stamps), SPECTRUM, SPECTRUM))
    wide[:, :side, :side] = stamps
    return np.asarray(fft.rfft2(np.roll(wide, (-(side // 2), -(side // 2)), axis=(1, 2))))


def _on_spectrum(power: F64) -> F64:
    """Return a smooth power spectrum at the frequencies of the transforms of PSF stamps."""
    correlation = np.roll(fft.irfft2(power, (POWER_SIDE, POWER_SIDE)), (POWER_SIDE // 2,) * 2, axis=(0, 1))
    wide = np.pad(correlation, (SPECTRUM - POWER_SIDE) // 2)
    return np.maximum(fft.rfft2(np.roll(wide, (-(SPECTRUM // 2),) * 2, axis=(0, 1))).real, 1 / MAX_EXCESS)


def _stamps(spectra: NDArray[np.complex128], size: int) -> F32:
    """Transform back to stamps of sum 1."""
    wide = np.roll(fft.irfft2(spectra, (SPECTRUM, SPECTRUM)), (size // 2, size // 2), axis=(1, 2))
    stamps = wide[:, :size, :size]
    return np.asarray(stamps / stamps.sum((1, 2), keepdims=True), np.float32)


def check_centred(new: Psf, reference: Psf, box: Box, limit: float = 0.2) -> float:
    """Return by how many px the centroids of the two PSFs differ in the middle of the box.

    Raises
    ------
    DifferencingError
        More than `limit`: the models do not belong to one registration.
    """
    x, y = np.array([box[0] + box[2] / 2]), np.array([box[1] + box[3] / 2])
    middle = []
    for psf in (new, reference):
        stamp = psf.kernel_at(x, y)[0].astype(np.float64)
        g = np.arange(stamp.shape[0]) - stamp.shape[0] // 2
        middle.append(np.array([(stamp.sum(0) * g).sum(), (stamp.sum(1) * g).sum()]) / stamp.sum())
    apart = float(np.hypot(*(middle[0] - middle[1])))
    if apart > limit:
        raise DifferencingError(f"the PSFs' centroids are {apart:.2f} px apart, more than {limit}")
    return apart


@dataclass(frozen=True)
class ProperSubtraction:
    """The subtraction of two images on a box.

    Parameters
    ----------
    new, reference
        The two images, backgrounds taken off.
    new_psf, reference_psf
        Their PSFs.
    reference_flux
        F_r: counts of the reference per count of the new image.
    box
        (x0, y0, width, height) in the frame.
    excess
        Power of the noise of the difference over that of white images (`measured_excess`), 1 by default.
    correlations
        How the noise of the two is correlated (`diffim.subtraction.noise_power.noise_autocorrelation`); None: it is white.
    """

    new: MaskedImage
    reference: MaskedImage
    new_psf: Psf
    reference_psf: Psf
    reference_flux: float
    box: Box
    excess: F64 | None = None
    correlations: tuple[F64 | None, F64 | None] = (None, None)

    @cached_property
    def grid(self) -> TileGrid:
        """The tiles; each has its own PSFs and variances."""
        width, height = self.box[2:]
        return TileGrid.fitting(height, width, tile_side(height, width), FILTER_SIZE // 2)

    @cached_property
    def _filters(self) -> tuple[F32, F32]:
        x, y = self.grid.centres()
        return self.filters_at(x + self.box[0], y + self.box[1])

    @cached_property
    def _gains(self) -> tuple[F32, F32]:
        """By what the variances (N,) that the filters leave are more than those of white noise."""
        new, old = (
            np.array([correlated_gain(k, c) for k in stamps]) if c is not None else np.ones(len(stamps), np.float32)
            for stamps, c in zip(self._filters, self.correlations, strict=True)
        )
        return new, old

    def filters_at(self, x: F64, y: F64) -> tuple[F32, F32]:
        """Return k_n and k_r, each (N, S, S), at frame positions (N,), px."""
        grid = self.grid
        v_n, v_r = (p.sky_levels(self.box, grid.tile) for p in (self.new, self.reference))
        row = np.clip((y - self.box[1]) // grid.tile, 0, grid.rows - 1).astype(int)
        column = np.clip((x - self.box[0]) // grid.tile, 0, grid.columns - 1).astype(int)
        parts = []
        for low in range(0, x.size, BLOCK):
            k = slice(low, low + BLOCK)
            levels = [v[row[k], column[k]] for v in (v_n, v_r)]
            stamps = [psf.kernel_at(x[k], y[k]) for psf in (self.new_psf, self.reference_psf)]
            parts.append(
                proper_filters(stamps[0], stamps[1], levels[0], levels[1], self.reference_flux, excess=self.excess)
            )
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])

    def whitening_at(self, x: F64, y: F64) -> F32:
        """Return what the PSF of the new image is convolved with, shape (N, S, S), at frame positions (N,), px."""
        return self.filters_at(x, y)[0]

    def measured_excess(self) -> F64:
        """Return the noise power of the difference, shape (BLOCK, BLOCK / 2 + 1), measured on the sky; 1 where it is white."""
        power = sky_power(self.run, self.grid, (self.new, self.reference), self.box)
        return np.clip(power, 1 / MAX_EXCESS, MAX_EXCESS)

    def run(self, rows: list[int] | None = None) -> Subtracted:
        """Return the difference, only some rows of tiles when asked for; its ``matched`` is the filtered reference."""
        width, height = self.box[2:]
        make = np.empty if rows is None else np.zeros
        out = Subtracted(*(make((height, width), np.float32) for _ in range(3)))
        self._gains  # noqa: B018 (made before the threads share it)
        numbers = [k for row in (range(self.grid.rows) if rows is None else rows) for k in self.grid.row(row)]
        in_bands(lambda first, last: _tiles(self, out, numbers[first:last]), len(numbers), least=1)
        return out


def _tiles(s: ProperSubtraction, out: Subtracted, numbers: list[int]) -> None:
    """Subtract some tiles."""
    reach = s.grid.margin
    for ft, tile in s.grid.tiles(numbers):
        k_n, k_r = (k[tile.number] for k in s._filters)
        more_n, more_r = (g[tile.number] for g in s._gains)
        n, v_n, r, v_r, kernel = ft.windows(5)
        fy, fx = tile.y + s.box[1] - reach, tile.x + s.box[0] - reach
        s.new.window(fy, fx, n, v_n)
        s.reference.window(fy, fx, r, v_r)
        ft.multiply(ft.forward(v_n), ft.kernel(more_n * k_n**2, kernel), v_n)
        ft.add_product(ft.forward(v_r), ft.kernel(more_r * k_r**2, kernel), v_n)
        paste(ft.back(v_n), 2 * reach, tile, out.variance, least=LEAST_VARIANCE)
        ft.multiply(ft.forward(r), ft.kernel(k_r, kernel), r)
        ft.multiply(ft.forward(n), ft.kernel(k_n, kernel), n)
        np.subtract(n, r, out=n)
        paste(ft.back(n), 2 * reach, tile, out.difference)
        paste(ft.back(r), 2 * reach, tile, out.matched)
