"""Compiled rendering of sources into pixels."""

import math
from typing import NamedTuple

import numba
import numpy as np
from scipy import fft

from exposure.psf import MoffatPsf
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["add_galaxies", "add_points"]


class PointSources(NamedTuple):
    """Moffat sources, all of shape (N,).

    Parameters
    ----------
    x, y
        Array px.
    flux
        Total, in the unit of the image.
    alpha, e1, e2
        Scale (px) and ellipticity of each Moffat.
    half
        Half side of each stamp, px.
    """

    x: F64
    y: F64
    flux: F64
    alpha: F64
    e1: F64
    e2: F64
    half: I64


@compiled(parallel=True)
def _moffats(image: F64, sources: PointSources, beta: float) -> None:
    """Each thread owns a band of rows, so that no two write the same pixel and the sum order is fixed."""
    height, width = image.shape
    bands = 64
    x, y, flux, half = sources.x, sources.y, sources.flux, sources.half
    alpha, e1, e2 = sources.alpha, sources.e1, sources.e2
    for b in numba.prange(bands):
        lo, hi = b * height // bands, (b + 1) * height // bands
        for n in range(x.shape[0]):
            h = half[n]
            cx, cy = int(math.floor(x[n] + 0.5)), int(math.floor(y[n] + 0.5))  # noqa: RUF046 (numba's floor gives a float)
            y0, y1 = max(cy - h, lo), min(cy + h + 1, hi)
            x0, x1 = max(cx - h, 0), min(cx + h + 1, width)
            if y0 >= y1 or x0 >= x1:
                continue
            det = math.sqrt(1 - e1[n] * e1[n] - e2[n] * e2[n])
            scale = 1.0 / (det * alpha[n] * alpha[n])
            norm = flux[n] * (beta - 1) / (math.pi * alpha[n] * alpha[n])
            for j in range(y0, y1):
                v = j - y[n]
                for i in range(x0, x1):
                    u = i - x[n]
                    r2 = ((1 - e1[n]) * u * u - 2 * e2[n] * u * v + (1 + e1[n]) * v * v) * scale
                    image[j, i] += norm * (1 + r2) ** (-beta)


def add_points(image: F64, psf: MoffatPsf, x: F64, y: F64, flux: F64) -> None:
    """Add point sources of total `flux` (N,) at array positions x, y (N,), in place; bright ones get larger stamps."""
    if x.size == 0:
        return
    alpha, e1, e2 = psf.parameters(x, y)
    half = np.select([np.abs(flux) < 3e3, np.abs(flux) < 3e4, np.abs(flux) < 3e5], [16, 24, 40], 72)
    _moffats(image, PointSources(x, y, np.asarray(flux, np.float64), alpha, e1, e2, half), psf.beta)


def _sersic(re: float, q: float, angle: float, index: float, fx: float, fy: float, half: int) -> F64:
    """Return a Sersic profile of sum 1 (2 half + 1, 2 half + 1), its middle off by (fx, fy) px.

    B_n = 2 n - 1/3 (Ciotti & Bertin 1999).
    """
    over = 3
    n = 2 * half + 1
    grid = (np.arange(n * over) - (n * over - 1) / 2) / over
    gx, gy = grid[None, :] - fx, grid[:, None] - fy
    c, s = math.cos(angle), math.sin(angle)
    r2 = (gx * c + gy * s) ** 2 + ((gy * c - gx * s) / q) ** 2
    profile = np.exp(-(2 * index - 1 / 3) * (np.sqrt(r2 + 0.05) / re) ** (1 / index))
    binned = profile.reshape(n, over, n, over).mean((1, 3))
    return np.asarray(binned / binned.sum())


def add_galaxies(image: F64, psf: MoffatPsf, table: dict[str, F64]) -> None:
    """Add Sersic galaxies convolved with the local PSF. `table`: x, y (px), flux, re (px), q, angle, index."""
    height, width = image.shape
    for k in range(table["x"].size):  # each galaxy has its own shape and stamp size
        x, y = table["x"][k], table["y"][k]
        half = int(min(max(20, 5 * table["re"][k]), 60))
        cx, cy = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
        x0, x1, y0, y1 = max(cx - half, 0), min(cx + half + 1, width), max(cy - half, 0), min(cy + half + 1, height)
        if x0 >= x1 or y0 >= y1:
            continue
        profile = _sersic(table["re"][k], table["q"][k], table["angle"][k], table["index"][k], x - cx, y - cy, half)
        kernel = psf.kernel_at([x], [y])[0].astype(np.float64)
        full = profile.shape[0] + kernel.shape[0] - 1
        size = fft.next_fast_len(full, real=True)
        wide = fft.irfft2(fft.rfft2(profile, (size, size)) * fft.rfft2(kernel, (size, size)), (size, size))
        edge = kernel.shape[0] // 2
        stamp = wide[edge : edge + 2 * half + 1, edge : edge + 2 * half + 1]
        image[y0:y1, x0:x1] += (
            table["flux"][k] * stamp[y0 - cy + half : y1 - cy + half, x0 - cx + half : x1 - cx + half]
        )
