"""The matching kernel as a function of position, and the background that goes with it."""

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike

from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.psf_kernel import KernelGrid
from exposure.field import chebyshev_orders, chebyshev_terms
from tasks.arrays import F32, F64, Box
from tasks.reprs import short_repr

__all__ = ["SpatialKernel"]


@dataclass(frozen=True)
class SpatialKernel:
    """K(x, y) = a_0 B_0 + sum_i sum_j a_ij p_j(x, y) B_i, and the background g(x, y) = sum_k c_k q_k(x, y).

    With a kernel `base` that the PSF models tell, K_0(x, y), it is a_0 K_0 + sum_i sum_j a_ij p_j B_i, and the last of the
    functions is B_0 - K_0: what the stars say may take its place.

    Parameters
    ----------
    coefficients
        Shape (K, n_p), with a base (K + 1, n_p): a_ij; row 0 has only its first column (the kernel sum is one number).
    background
        Shape (n_q,): c_k.
    condition, rank
        Condition number of the fit's scaled matrix, and how many directions the stars determine.
    """

    basis: AlardLuptonBasis
    coefficients: F64
    background: F64
    kernel_order: int
    background_order: int
    box: Box
    condition: float = float("nan")
    rank: int = 0
    base: KernelGrid | None = None

    __repr__ = short_repr

    @property
    def kernel_sum(self) -> float:
        """Flux ratio: counts of the target per count of the convolved image."""
        return float(self.coefficients[0, 0])

    @property
    def size(self) -> int:
        """Side of the kernel stamps."""
        return self.basis.size

    @property
    def noise_gain(self) -> float:
        """Noise of a pixel after the convolution over that before, per unit of flux, for white noise; above 1 it grows."""
        x0, y0, width, height = self.box
        stamp = self.kernels_at(x0 + width / 2, y0 + height / 2)[0].astype(np.float64)
        return float(np.sqrt((stamp**2).sum()) / max(abs(stamp.sum()), 1e-30))

    def kernels_at(self, x: ArrayLike, y: ArrayLike) -> F32:
        """Return the kernels (N, size, size) at frame positions (N,), px."""
        terms = chebyshev_terms(self.kernel_order, self.box, x, y)
        local = terms @ self.coefficients.T
        if self.base is None:
            return np.asarray(np.tensordot(local, self.basis.functions, axes=1), dtype=np.float32)
        of_stars = np.column_stack([local[:, -1], local[:, 1:-1]])
        kernels = np.tensordot(of_stars, self.basis.functions, axes=1)
        share = (local[:, 0] - local[:, -1])[:, None, None]
        return np.asarray(kernels + share * self.base.at(np.atleast_1d(x), np.atleast_1d(y)), dtype=np.float32)

    def background_factors(self, box: Box) -> tuple[F32, F32]:
        """Return g (counts) on the pixels of a box as the product of (height, q) and (q, width) factors."""
        x0, y0, width, height = box
        bx, by, bw, bh = self.box
        u = 2 * (x0 + np.arange(width) - bx) / max(bw - 1, 1) - 1
        v = 2 * (y0 + np.arange(height) - by) / max(bh - 1, 1) - 1
        matrix = np.zeros((self.background_order + 1, self.background_order + 1))
        for c, (i, j) in zip(self.background, chebyshev_orders(self.background_order), strict=True):
            matrix[j, i] = c
        rows, columns = chebyshev.chebvander(v, self.background_order), chebyshev.chebvander(u, self.background_order)
        return (rows @ matrix).astype(np.float32), np.ascontiguousarray(columns.T, np.float32)
