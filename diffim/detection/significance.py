"""The significance of a point source at each pixel of a difference: a matched filter with the local PSF."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

from diffim.detection.star_residuals import StarResiduals
from diffim.pixels.fft_tiles import TileGrid
from exposure import Exposure
from exposure.psf import fwhm_of
from exposure.quantiles import SIGMA_PER_MAD, block_medians, scatter
from exposure.threads import in_bands
from tasks.arrays import F32, F64, Flags
from tasks.compiled import compiled

__all__ = ["Significance", "significance"]

MIN_WEIGHT = 0.3  # of the PSF's weight that must fall on good pixels
SCALE_CELL = 192  # px, about: cells whose scatter S is divided by
LEAST_SAMPLE = 400  # pixels of a cell that tell its scatter
TILE = 216  # with the PSF, transforms of 256


@dataclass(frozen=True)
class Significance:
    """The matched-filter image S = (D * P) / sqrt(V * P^2).

    Parameters
    ----------
    image
        S, shape (height, width), in units of its own local scatter (sigma of a point source).
    scale
        What S was divided by (median over the image): its scatter where that is more than 1.
    fwhm
        Median FWHM of the PSF, px.
    local
        The factors of the cells of the image, shape (N,).
    weight
        How much of the good pixels each cell has, shape (N,); none: as much as the others.
    """

    image: F32
    scale: float
    fwhm: float
    local: F64 = field(default_factory=lambda: np.ones(1))
    weight: F64 = field(default_factory=lambda: np.ones(1))

    @property
    def largest_scale(self) -> float:
        """The largest of the factors over the image."""
        return float(self.local.max())

    @property
    def mean_scale(self) -> float:
        """What the factors cost in depth: their geometric mean over the good pixels, that is the mean of the magnitudes."""
        return float(np.exp((self.weight * np.log(self.local)).sum() / self.weight.sum()))

    def raised_share(self, least: float) -> float:
        """Return which share of the good pixels lies where the factor is more than `least`."""
        return float(self.weight[self.local > least].sum() / self.weight.sum())


class _Images(NamedTuple):
    """What is filtered, all of shape (height, width); the model is of shape (0, 0) where it is not counted."""

    difference: F32
    variance: F32
    good: Flags
    model: F32


class _Windows(NamedTuple):
    """The same in the window of a tile; `good` is 1 for good pixels."""

    difference: F32
    variance: F32
    model: F32
    good: F32


class _ModelErrors(NamedTuple):
    """How well the model is known: square of the relative flux error, and of the shift over the step of a gradient."""

    flux: np.float32
    slope: np.float32


def significance(
    difference: Exposure,
    good: Flags,
    model: F32 | None = None,
    residuals: StarResiduals | None = None,
    gaussian: bool = False,
) -> Significance:
    """Return the significance image.

    Parameters
    ----------
    difference
        The image with its variance and PSF.
    good
        Pixels that count, shape (height, width).
    model, residuals
        The matched template (height, width), and how well it is known, as measured on the stars of this image. Residuals of
        that size are not counted as significant.
    gaussian
        Smooth with round Gaussians of the PSF's size in place of the PSF.

    Notes
    -----
    The matched filter is the optimal one for a point source in white noise (for instance Zackay & Ofek 2017, ApJ 836, 187).
    """
    psf = difference.require_psf()
    height, width = difference.image.shape
    grid = TileGrid.fitting(height, width, int(np.clip(min(height, width) // 4, 64, TILE)), psf.size // 2)
    x, y = (a + o for a, o in zip(grid.centres(), difference.origin, strict=True))
    stamps = np.ascontiguousarray(psf.kernel_at(x, y)[:, ::-1, ::-1])
    if gaussian:
        stamps = _gaussians(psf.moments_at(x, y), stamps.shape[-1])
    if model is None or residuals is None or not (residuals.flux_error > 0 or residuals.position_error > 0):
        model, errors = np.zeros((0, 0), np.float32), _ModelErrors(np.float32(0), np.float32(0))
    else:
        errors = _ModelErrors(np.float32(residuals.flux_error**2), np.float32(residuals.position_error**2 / 4))
    s = np.empty((height, width), np.float32)
    images = _Images(difference.image, difference.variance, good, model)
    in_bands(lambda low, high: _filter_tiles(images, stamps, grid, range(low, high), errors, s), grid.count, least=1)
    fwhm = float(np.median(fwhm_of(psf.moments_at(x, y))))
    scale, local, weight = _divide_by_scatter(s, good, fwhm)
    return Significance(s, scale, fwhm, local, weight)


def _divide_by_scatter(s: F32, good: Flags, fwhm: float) -> tuple[float, F64, F64]:
    """Divide S in place by its local scatter, where that is more than 1; returns the median of the factors, those of the cells
    (N,), and how many of the good pixels they have, (N,).

    Where all cells scatter as the whole image does, within the errors of their scatter, the factor is that of the image.
    """
    step = max(1, int(np.sqrt(s.size / 400_000)))
    sample, usable = s[::step, ::step], good[::step, ::step] & (s[::step, ::step] != 0)
    scale = scatter(sample[usable]) if np.count_nonzero(usable) > 100 else 1.0
    scale = max(scale, 1.0)
    edges = [np.linspace(0, n, max(n * step // SCALE_CELL, 1) + 1).astype(np.int64) for n in sample.shape]
    local = np.full((edges[0].size - 1, edges[1].size - 1), scale)
    everywhere = scale, np.full(1, scale), np.ones(1)
    if local.size == 1:
        s /= np.float32(scale)
        return everywhere
    block_medians(np.abs(sample), usable, edges[0], edges[1], LEAST_SAMPLE, local)
    measured = local != scale
    local[measured] *= SIGMA_PER_MAD
    # neighbours within the PSF are not independent of each other
    independent = [np.diff(e) * step / max(step, 1.5 * fwhm) for e in edges]
    error = 1.2 / np.sqrt(np.maximum(np.outer(*independent), 1))
    if (np.abs(local - scale) <= 4 * error * scale).all():
        s /= np.float32(scale)
        return everywhere
    local = np.maximum(local, 1.0)
    factors = cv2.resize(local.astype(np.float32), s.shape[::-1], interpolation=cv2.INTER_LINEAR)
    np.divide(s, factors, out=s)
    rows, columns = (e[:-1] for e in edges)
    count = np.add.reduceat(np.add.reduceat(usable, rows, axis=0, dtype=np.int64), columns, axis=1)
    return float(np.median(local)), local.ravel(), np.maximum(count.ravel(), 1.0)


def _gaussians(moments: F64, side: int) -> F32:
    """Round Gaussians of the determinant radius of the PSF."""
    radius = np.sqrt(np.maximum(moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2, 1e-6)) ** 0.5
    g = np.arange(side) - side // 2
    square = (g[:, None] ** 2 + g[None, :] ** 2)[None] / radius[:, None, None] ** 2
    stamps = np.exp(-0.5 * square)
    return np.asarray(stamps / stamps.sum(axis=(1, 2), keepdims=True), np.float32)


def _filter_tiles(images: _Images, stamps: F32, grid: TileGrid, numbers: range, errors: _ModelErrors, out: F32) -> None:
    """Matched filter of some tiles."""
    half = stamps.shape[-1] // 2
    for ft, tile in grid.tiles(numbers):
        stamp = stamps[tile.number]
        *buffers, spectrum = ft.windows(5)
        windows = _Windows(*buffers)
        _load(images, tile.y - half, tile.x - half, windows)
        noise = ft.convolve(windows.variance, ft.kernel(stamp**2, spectrum))
        filtered = ft.convolve(windows.difference, ft.kernel(stamp, spectrum))
        if images.model.size:
            ft.convolve(windows.model, spectrum)
        good_fraction = np.asarray(cv2.blur(windows.good, (5, 5)), np.float32)
        _score(_Windows(filtered, noise, windows.model, good_fraction), half, errors, out, tile.region)


@compiled
def _score(windows: Any, half: int, errors: Any, out: Any, region: Any) -> None:
    """Write filtered / sqrt(noise + residuals of the model); the window of the fraction of good pixels is not moved."""
    filtered, noise, model, good_fraction = windows
    y0, x0, height, width = region
    least, low = np.float32(MIN_WEIGHT), 2 * half
    last = model.shape[1] - 1
    for j in range(height):
        y = low + j
        value, variance, good = filtered[y, low:], noise[y, low:], good_fraction[y - half, half:]
        light, left, below = model[y, low:], model[y, low - 1 :], model[y - 1, low:]
        above, right = model[min(y + 1, model.shape[0] - 1), low:], model[y, min(low + 1, last) :]
        row = out[y0 + j, x0 : x0 + width]
        for i in range(width):
            gx, gy = right[min(i, right.shape[0] - 1)] - left[i], above[i] - below[i]
            total = (
                max(variance[i], np.float32(0)) + errors.flux * light[i] * light[i] + errors.slope * (gx * gx + gy * gy)
            )
            row[i] = value[i] / np.sqrt(total) if (total > 0) & (good[i] > least) else np.float32(0)


@compiled
def _load(images: Any, y0: int, x0: int, windows: Any) -> None:
    """Copy the window from (y0, x0) on; what is no good or outside counts as zero."""
    difference, variance, good, model = images
    height, width = difference.shape
    for j in range(windows.good.shape[0]):
        for i in range(windows.good.shape[1]):
            y, x = y0 + j, x0 + i
            inside = 0 <= y < height and 0 <= x < width
            ok = inside and good[y, x]
            windows.difference[j, i] = difference[y, x] if ok else 0
            windows.variance[j, i] = variance[y, x] if ok else 0
            windows.good[j, i] = 1 if ok else 0
            windows.model[j, i] = 0
            if model.shape[0] > 0:
                if inside and np.isfinite(model[y, x]):
                    windows.model[j, i] = model[y, x]
