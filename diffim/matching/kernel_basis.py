"""The basis of Alard & Lupton (1998, ApJ 503, 325): Gaussians times polynomials, normalised so that only B_0 has a sum.

Widths follow the seeing of the two images: s = sqrt(|sigma_big^2 - sigma_small^2|), at least a minimum, the first width
s/2 and each next twice the one before. On a stamp of a given size they are held inside it: a Gaussian that is flat over
its stamp is the background, and one as wide as the next is the same function.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from exposure.psf import FWHM_PER_SIGMA
from tasks.arrays import F64

__all__ = ["DEGREES", "EQUAL_WIDTHS", "WING_DEGREES", "AlardLuptonBasis", "kernel_sizes", "make_basis"]

DEGREES = (4, 2, 2)
WING_DEGREES = (3, 2, 2, 0)  # the fourth Gaussian carries the far wings: without it bright stars keep rings
MIN_SIGMA, MIN_SIGMA_DECONVOLUTION = 0.7, 0.4
FALLBACK_SIGMAS = (0.7, 1.5, 3.0)
EQUAL_WIDTHS = 1e-3  # widths this alike are equal: nothing may hang on how the last digit of a width is rounded
MIN_SIZE, MAX_SIZE, SIZE_PER_SIGMA = 21, 35, 6
WIDEST = 0.55  # of the half side of a stamp: no width is larger
WING_REACH, CORE_REACH = (
    2.5,
    1.5,
)  # FWHM of the broader image to which a kernel must reach, with and without the far wings
WING_HALVES, CORE_HALVES = (15, 35), (10, 22)  # least and largest half sides, px


@dataclass(frozen=True)
class AlardLuptonBasis:
    """Kernel stamps of odd side `size`: ``functions`` has shape (K, size, size), B_0 of sum 1, the rest of sum 0."""

    sigmas: tuple[float, ...]
    degrees: tuple[int, ...]
    size: int
    mode: str

    @cached_property
    def terms(self) -> list[tuple[int, int, int]]:
        """(Gaussian, px, py) of each function; inside a degree px descends."""
        return [
            (g, degree - py, py)
            for g, top in enumerate(self.degrees)
            for degree in range(top + 1)
            for py in range(degree + 1)
        ]

    @cached_property
    def factors(self) -> list[list[F64]]:
        """One-dimensional factors [Gaussian][power], shape (size,) px; coordinates run from -1 to 1 edge to edge."""
        half = self.size // 2
        x = np.arange(-half, half + 1, dtype=np.float64)
        out = []
        for sigma, top in zip(self.sigmas, self.degrees, strict=True):
            gauss = np.exp(-0.5 * (x / sigma) ** 2)
            gauss /= gauss.sum()
            out.append([gauss * (x / half) ** p for p in range(top + 1)])
        return out

    @cached_property
    def mixing(self) -> F64:
        """Matrix, shape (K, K), from raw products of factors to the normalised functions."""
        raw = self._raw()
        k = len(raw)
        sums = raw.sum(axis=(1, 2))
        matrix = np.eye(k)
        matrix[0] /= sums[0]
        first = raw[0] / sums[0]
        for i in range(1, k):
            function = raw[i].copy()
            if abs(sums[i]) > 1.19e-7:
                matrix[i] /= sums[i]
                function = function / sums[i] - first
                matrix[i] -= matrix[0]
            norm = np.sqrt((function**2).sum())
            matrix[i] /= norm
        return matrix

    def _raw(self) -> F64:
        return np.stack([np.outer(self.factors[g][py], self.factors[g][px]) for g, px, py in self.terms])

    @cached_property
    def functions(self) -> F64:
        """The normalised stamps, shape (K, size, size)."""
        return np.tensordot(self.mixing, self._raw(), axes=1)


def kernel_sizes(fwhm: float) -> tuple[int, int]:
    """Return the sides of kernels (px, odd) that reach the far wings and the core of stars of `fwhm` px.

    Stars differ out to where the light of the broader ones is below the noise, however alike the two images are.
    """
    wings, core = (
        2 * int(np.clip(np.ceil(reach * fwhm), *halves)) + 1
        for reach, halves in ((WING_REACH, WING_HALVES), (CORE_REACH, CORE_HALVES))
    )
    return wings, core


def make_basis(
    fwhm_convolved: float | None,
    fwhm_target: float | None,
    size: int = 0,
    degrees: tuple[int, ...] = DEGREES,
) -> AlardLuptonBasis:
    """Return the basis for an image of `fwhm_convolved` px that shall match one of `fwhm_target` px.

    Parameters
    ----------
    size
        Kernel side, to which the widths are held; 0 takes 6 times the largest width, odd, within 21..35.

    Raises
    ------
    ValueError
        An even size.
    """
    if size and size % 2 == 0:
        raise ValueError(f"the kernel size must be odd, got {size}")
    mode = "config"
    sigmas = tuple(FALLBACK_SIGMAS[0] * 2.0**k if k > 2 else FALLBACK_SIGMAS[k] for k in range(len(degrees)))
    if fwhm_convolved and fwhm_target and abs(fwhm_convolved / fwhm_target - 1) > EQUAL_WIDTHS:
        a, b = fwhm_convolved / FWHM_PER_SIGMA, fwhm_target / FWHM_PER_SIGMA
        mode = "deconvolution" if a > b else "convolution"
        least = MIN_SIGMA_DECONVOLUTION if a > b else MIN_SIGMA
        first = max(least, 0.5 * float(np.sqrt(abs(b * b - a * a))))
        sigmas = tuple(first * 2.0**k for k in range(len(degrees)))
    if size:
        sigmas = _inside(sigmas, WIDEST * (size // 2))
    else:
        wanted = int(SIZE_PER_SIGMA * sigmas[min(2, len(sigmas) - 1)])
        size = int(np.clip(wanted + (wanted + 1) % 2, MIN_SIZE, MAX_SIZE))
    return AlardLuptonBasis(tuple(sigmas), tuple(degrees), size, mode)


def _inside(sigmas: tuple[float, ...], most: float) -> tuple[float, ...]:
    """Return widths that grow by one factor from the first to `most` where the largest is wider than that."""
    if sigmas[-1] <= most:
        return sigmas
    first = min(sigmas[0], most / 2)
    factor = (most / first) ** (1 / max(len(sigmas) - 1, 1))
    return tuple(first * factor**k for k in range(len(sigmas)))
