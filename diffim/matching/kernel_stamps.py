"""Star stamps convolved with the functions of the kernel basis, and the normal equations of each star.

All of it is in double precision: stars are smooth, the functions of the basis nearly alike on them, and what tells them
apart is as small as the rounding of single precision. Convolution here and in `diffim.pixels.fft_tiles` is true convolution, so
that the kernel fitted is the kernel applied.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import fft

from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.psf_kernel import KernelGrid
from diffim.pixels.masked_image import MaskedImage
from exposure.stamps import shift_stamps
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I64, nearest_pixels

__all__ = ["CORE_SIGMA", "StarEquations", "StarPositions", "convolve_each", "star_equations"]

CORE_SIGMA = 0.005  # a star's own light is trusted to 0.5 % of itself: stars of all fluxes share in the fit
BLOCK = 8  # stars at a time: their products fit into the cache


@dataclass(frozen=True)
class StarPositions:
    """Frame positions of stars, shape (N,), px.

    Parameters
    ----------
    motions
        Shape (N, 2): by how much (px, less than 1) each star lies elsewhere in the target than in the convolved image.
    """

    x: F64
    y: F64
    motions: F64 | None = None


@dataclass(frozen=True)
class StarEquations:
    """Of each star: M = C^T W C and b = C^T W I with C = [B_k * T, 1], weights W, target I; and some sums.

    With a base K_0 the functions are K_0, B_1, ..., B_K-1, B_0 - K_0, one more than without.

    Parameters
    ----------
    x, y
        Frame positions, shape (N,), px.
    normal, right
        M, shape (N, K + 1, K + 1), and b, shape (N, K + 1).
    power
        I^T W I, shape (N,).
    noise
        Sum of w V with the variance V of the convolved image, shape (N,): what its noise adds to M for a kernel of unit norm.
    square
        Sum of w T^2: the same for errors as large as the pixels.
    gram
        Scalar products of the functions at the star, shape (N, K + 1, K + 1); zero for the background.
    noise_gram
        The same for what the functions make of the noise of the convolved image: other than `gram` where that is correlated.
    convolved_flux, target_flux
        Sums of B_0 * T and of I over the pixels that count, counts, shape (N,).
    target_flux_error
        The noise of the latter, shape (N,).
    pixels
        Number of pixels that count, shape (N,).
    """

    x: F64
    y: F64
    normal: F64
    right: F64
    power: F64
    noise: F64
    square: F64
    gram: F64
    noise_gram: F64
    convolved_flux: F64
    target_flux: F64
    target_flux_error: F64
    pixels: I64

    def dimmed(self, factor: F64) -> "StarEquations":
        """Return the equations with the light of the convolved image times a factor for each star, shape (N,)."""
        columns = np.ones(self.right.shape)
        columns[:, :-1] = factor[:, None]
        return replace(
            self,
            normal=self.normal * columns[:, :, None] * columns[:, None, :],
            right=self.right * columns,
            noise=self.noise * factor**2,
            square=self.square * factor**2,
            convolved_flux=self.convolved_flux * factor,
        )


def star_equations(
    convolved: MaskedImage,
    target: MaskedImage,
    stars: StarPositions,
    basis: AlardLuptonBasis,
    flux_ratio: float,
    base: KernelGrid | None = None,
    correlation: F64 | None = None,
) -> StarEquations:
    """Cut the stamps of stars out of both images and return their equations.

    Parameters
    ----------
    flux_ratio
        Rough kernel sum, for the weights.
    base
        Kernels that the PSF models tell; None: B_0 has their part.
    correlation
        Correlation coefficients of the noise of the convolved image, shape (L, L), 1 in the middle; None: it is white.
    """
    x, y, motions = stars.x, stars.y, stars.motions
    cx, cy = nearest_pixels(x), nearest_pixels(y)
    outer, inner = 2 * basis.size + 1, basis.size + 2
    n, low = x.size, (outer - inner) // 2
    terms = len(basis.terms)
    k = terms + (base is not None)
    stamps, wide_var = convolved.stamps(cx, cy, outer)
    if motions is not None and motions.any():
        rows = np.flatnonzero(motions.any(1))
        moved = np.empty_like(stamps[rows])
        shift_stamps(stamps[rows], motions[rows, 0], motions[rows, 1], moved)
        stamps[rows] = moved
    middle = slice(low, low + inner)
    own, own_var = (a[:, middle, middle].reshape(n, -1).astype(np.float64) for a in (stamps, wide_var))
    target_pixels, var = (a.reshape(n, -1).astype(np.float64) for a in target.stamps(cx, cy, inner))
    var += own_var * flux_ratio**2
    good = np.isfinite(var)
    weight = np.where(good, 1.0 / np.maximum(var + (CORE_SIGMA * target_pixels) ** 2, 1e-30), 0.0)
    products, convolved_flux = np.empty((n, k + 2, k + 2)), np.empty(n)
    toeplitz = _toeplitz(basis, outer, inner)

    def block(first: int, last: int) -> None:
        rows = np.empty((BLOCK, k + 2, inner * inner))  # the functions, the background and the target
        for start in range(first, last, BLOCK):
            part = slice(start, min(start + BLOCK, last))
            design = rows[: part.stop - part.start]
            _convolve_basis(stamps[part], basis, toeplitz, design[:, :terms])
            if base is not None:
                design[:, terms] = design[:, 0]
                design[:, 0] = convolve_each(stamps[part], base.at(x[part], y[part]), inner)
                design[:, terms] -= design[:, 0]
            design[:, k], design[:, k + 1] = 1, target_pixels[part]
            convolved_flux[part] = (design[:, 0] * good[part]).sum(1)
            design *= np.sqrt(weight[part])[:, None]
            np.matmul(design, design.transpose(0, 2, 1), out=products[part])

    in_bands(block, n, least=4 * BLOCK)
    return StarEquations(
        x,
        y,
        products[:, :-1, :-1],
        products[:, :-1, -1],
        products[:, -1, -1],
        (weight * np.where(good, own_var, 0)).sum(1),
        (weight * own**2).sum(1),
        *_both_grams(basis, base, stars, correlation),
        convolved_flux,
        (target_pixels * good).sum(1),
        np.sqrt(np.where(good, var + (CORE_SIGMA * target_pixels) ** 2, 0).sum(1)),
        good.sum(1),
    )


def _both_grams(
    basis: AlardLuptonBasis, base: KernelGrid | None, stars: StarPositions, correlation: F64 | None
) -> tuple[F64, F64]:
    """Return the scalar products of the functions, and those of what they make of noise with a correlation."""
    gram = _grams(basis, base, stars)
    return gram, gram if correlation is None else _grams(basis, base, stars, correlation)


def _grams(
    basis: AlardLuptonBasis, base: KernelGrid | None, stars: StarPositions, correlation: F64 | None = None
) -> F64:
    """Return the scalar products (N, K + 1, K + 1) of the functions at the stars, one of each pair times the correlation."""
    n, flat = stars.x.size, basis.functions.reshape(len(basis.terms), -1)
    k = len(flat)
    other = _smoothed(basis.functions, correlation).reshape(k, -1)
    inner = flat @ other.T
    if base is None:
        one = np.zeros((k + 1, k + 1))
        one[:k, :k] = inner
        return np.broadcast_to(one, (n, k + 1, k + 1))
    kernels = base.at(stars.x, stars.y).reshape(n, -1)
    smooth = kernels
    if correlation is not None:
        smooth = replace(base, stamps=_smoothed(base.stamps, correlation)).at(stars.x, stars.y).reshape(n, -1)
    onto, own = kernels @ other.T, np.einsum("ni,ni->n", kernels, smooth)
    out = np.zeros((n, k + 2, k + 2))
    out[:, 1:k, 1:k] = inner[1:, 1:]
    out[:, 0, 1:k] = out[:, 1:k, 0] = onto[:, 1:]
    out[:, k, 1:k] = out[:, 1:k, k] = inner[0, 1:] - onto[:, 1:]
    out[:, 0, 0], out[:, k, k] = own, inner[0, 0] - 2 * onto[:, 0] + own
    out[:, 0, k] = out[:, k, 0] = onto[:, 0] - own
    return out


def _smoothed(stamps: F64, correlation: F64 | None) -> F64:
    """Return stamps (N, S, S) convolved with a correlation, on their own pixels; as they are without one."""
    if correlation is None:
        return stamps
    size, reach = stamps.shape[-1], correlation.shape[-1] // 2
    shape = (fft.next_fast_len(size + 2 * reach, real=True),) * 2
    whole = fft.irfft2(fft.rfft2(stamps, shape) * fft.rfft2(correlation, shape), shape)
    return np.asarray(whole[:, reach : reach + size, reach : reach + size])


def _toeplitz(basis: AlardLuptonBasis, outer: int, inner: int) -> F64:
    """Return the one-dimensional convolutions with the factors of the basis as matrices (F, outer, inner)."""
    filters = [f for group in basis.factors for f in group]
    out = np.zeros((len(filters), outer, inner))
    for k, f in enumerate(filters):
        for i in range(inner):
            out[k, i : i + basis.size, i] = np.where(np.abs(f) > 1e-25, f, 0)[::-1]
    return out


def convolve_each(stamps: F32, kernels: F64, inner: int) -> F64:
    """Convolve each stamp (N, S, S) with its own kernel (N, s, s); returns the middles (N, inner * inner)."""
    outer, size = stamps.shape[-1], kernels.shape[-1]
    side = fft.next_fast_len(outer, real=True)  # what wraps around falls on pixels that are not asked for
    spectra = fft.rfft2(stamps.astype(np.float64), (side, side)) * fft.rfft2(kernels, (side, side))
    low = (outer - inner) // 2 + size // 2
    whole = fft.irfft2(spectra, (side, side))
    return np.asarray(whole[:, low : low + inner, low : low + inner]).reshape(len(stamps), -1)


def _convolve_basis(stamps: F32, basis: AlardLuptonBasis, toeplitz: F64, out: F64) -> None:
    """Convolve each stamp (N, S, S) with each function: the raw ones are separable, so two matrix products do it."""
    n, outer = stamps.shape[0], stamps.shape[1]
    inner, terms = toeplitz.shape[2], len(basis.terms)
    start = np.cumsum([0, *(top + 1 for top in basis.degrees)])
    rows = stamps.transpose(1, 0, 2).astype(np.float64).reshape(outer * n, outer)
    along = (rows @ toeplitz.transpose(1, 0, 2).reshape(outer, -1)).reshape(outer, n, len(toeplitz), inner)
    raw = np.empty((terms, inner, n, inner))
    for g, top in enumerate(basis.degrees):
        for py in range(top + 1):  # all powers of x that go with this power of y at once
            used = [(t, px) for t, (h, px, q) in enumerate(basis.terms) if (h, q) == (g, py)]
            part = along[:, :, start[g] + np.array([px for _, px in used])].transpose(0, 2, 1, 3).reshape(outer, -1)
            convolved = (toeplitz[start[g] + py].T @ part).reshape(inner, len(used), n, inner)
            for m, (t, _) in enumerate(used):
                raw[t] = convolved[:, m]
    mixed = basis.mixing @ raw.reshape(terms, -1)
    out.reshape(n, terms, inner, inner)[:] = mixed.reshape(raw.shape).transpose(2, 0, 1, 3)
