"""How a PSF varies over an image: mostly by its size and its two ellipticities, three numbers that each star tells well.

A pixel of a star is noisy, and of fifty stars a polynomial in each pixel costs more than it brings. The derivatives of the
mean profile by size and shape are hardly noisy: their amplitudes are measured star by star and fitted over the image. What
varies otherwise stays to the pixels. Both are held back as far as the stars ask (`calibration.psf.shrinkage`).
"""

import numpy as np
from scipy import fft

from calibration.psf.shrinkage import shrunken, shrunken_pixels
from tasks.arrays import F32, F64, I64, Flags

__all__ = ["shape_modes", "varying_basis"]

SHAPED, PIXELWISE = 1.5, 2.0  # FWHM: within it stars tell shapes, and pixels vary by themselves
LEAST_ERROR = 0.003  # of an amplitude: a bright star is no surer
LEAST_SEEN = 0.7  # of the core of a star whose shape is measured
LEAST_STARS = 4
OUTLYING = 2.5  # sigma


def varying_basis(stamps: F32, weight: F64, terms: F64, degrees: I64, radius: F64) -> F64:
    """Return the basis (terms, S, S): the mean of stamps (N, S, S), and how they vary in shape and in each pixel.

    `radius` (S, S) is the distance of pixels from the middle, in FWHM.
    """
    mean, weight = _mean_pixels(stamps, weight)
    basis = np.zeros((terms.shape[1], *mean.shape))
    basis[0] = mean
    if len(basis) > 1:
        shape = _varying_shape(stamps, weight, mean, radius < SHAPED, terms, degrees)
        basis += np.tensordot(shape, shape_modes(mean), axes=1)
        near = radius < PIXELWISE
        left = stamps[:, near] - np.tensordot(terms, basis[:, near], axes=1)
        basis[:, near] += _varying_pixels(left, weight[:, near], mean[near], terms, degrees)
    return basis


def _mean_pixels(stamps: F32, weight: F64) -> tuple[F64, F64]:
    """Return the weighted mean (S, S) of stamps (N, S, S), and their weights without outliers, such as neighbours' light."""
    known = np.isfinite(stamps)
    data = np.where(known, stamps, 0).astype(np.float64)
    weight = weight * known
    w = weight
    for _ in range(3):
        mean = (w * data).sum(0) / np.maximum(w.sum(0), 1e-30)
        residual = np.abs(data - mean) * np.sqrt(weight)
        scale = 1.4826 * np.median(residual, axis=0) + 1e-12
        w = weight / np.maximum(1.0, residual / (2.5 * scale)) ** 2
    return mean, w


def shape_modes(profile: F64) -> F64:
    """Return the changes (3, S, S) of a profile (S, S) of sum 1 by the logarithm of its size, and along x and the diagonal.

    They are its derivatives by the coordinates (exact for a profile that is sampled well), times these.
    """
    gx, gy, x, y = *_slopes(profile), *_offsets(len(profile))
    return np.stack([-(2 * profile + x * gx + y * gy), -(x * gx - y * gy), -(x * gy + y * gx)])


def _varying_shape(stamps: F32, weight: F64, profile: F64, core: Flags, terms: F64, degrees: I64) -> F64:
    """Return by how much of each mode the profile changes with each term, (terms, 3).

    Parameters
    ----------
    stamps, weight
        (N, S, S): stars of flux 1 in the middle of their stamps, NaN where unknown; inverse variances.
    profile
        (S, S): of most stars.
    core
        (S, S): the pixels that are looked at.
    terms, degrees
        (N, terms) polynomials at the stars, the constant one first, and their degrees (terms,).
    """
    amplitude, variance = _amplitudes(stamps[:, core], weight[:, core], profile, core)
    told = np.isfinite(variance[:, 0])
    out = np.zeros((terms.shape[1], 3))
    if told.sum() < LEAST_STARS:
        return out
    usual = 1.4826 * np.sqrt(told.sum() / max(int(told.sum()) - terms.shape[1], 1))  # the fit goes nearer to few
    for mode in range(3):
        value, sure = amplitude[told, mode], 1 / (variance[told, mode] + LEAST_ERROR**2)
        kept = sure
        for _ in range(3):
            out[:, mode] = shrunken(terms[told], degrees, value, kept)
            miss = np.abs(value - terms[told] @ out[:, mode]) * np.sqrt(sure)
            kept = sure / np.maximum(1, miss / (OUTLYING * usual * np.median(miss) + 1e-12)) ** 2
    return out


def _varying_pixels(left: F64, weight: F64, profile: F64, terms: F64, degrees: I64) -> F64:
    """Return the coefficients (terms, P) of what is left (N, P; NaN where unknown) of stars in each pixel.

    What is likely for a pixel goes with its light in the `profile` (P,).
    """
    known = np.isfinite(left)
    size = np.maximum(np.abs(profile), 1e-3 * profile.max())
    return shrunken_pixels(terms, degrees, np.where(known, left, 0), np.where(known, weight, 0), size)


def _amplitudes(pixels: F32, weight: F64, profile: F64, core: Flags) -> tuple[F64, F64]:
    """Return how much of each mode stars have, and the variance of that, (N, 3); NaN where too little is seen.

    Flux and place of each star are free.
    """
    modes = [*shape_modes(profile), profile, *_slopes(profile)]
    basis = np.stack([mode[core] for mode in modes])
    known = np.isfinite(pixels) & (weight > 0)
    w = np.where(known, weight, 0)
    left = np.where(known, pixels - profile[core], 0)
    k = len(basis)
    normal = (w @ (basis[:, None] * basis).reshape(k * k, -1).T).reshape(-1, k, k)
    right = (w * left) @ basis.T
    amplitude, variance = np.full((2, len(pixels), 3), np.nan)
    able = (known.mean(1) > LEAST_SEEN) & (w.sum(1) > 0)
    if able.any():
        inverse = np.linalg.inv(normal[able])
        amplitude[able] = np.einsum("nkl,nl->nk", inverse, right[able])[:, :3]
        variance[able] = np.einsum("nkk->nk", inverse)[:, :3]
    return amplitude, variance


def _slopes(profile: F64) -> tuple[F64, F64]:
    """Return the derivatives (S, S) of a profile along x and y."""
    f = 2j * np.pi * fft.fftfreq(len(profile))
    spectrum = fft.fft2(profile)
    return fft.ifft2(f[None, :] * spectrum).real, fft.ifft2(f[:, None] * spectrum).real


def _offsets(side: int) -> tuple[F64, F64]:
    g = np.arange(side, dtype=np.float64) - side // 2
    return g[None, :], g[:, None]
