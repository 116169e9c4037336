"""One spatial kernel from the equations of many stars, held by a prior where they do not determine it.

Four things are added to or taken from the normal matrix M of the stars:

- What the kernel adds to its base is small, by as much as `Prior` says: it leaves residuals on a star of `error` of its light
  where it is the same all over the image, of `spatial` where it varies. The scale of the coefficients is that of what they
  do to the stars (the g prior of Zellner 1986), so it does not depend on the choice of the basis.
- The noise of the convolved image is noise in a regressor and pulls coefficients to zero (the kernel sum comes out low).
  Its expectation, sum_p w_p V_p (B_k . R B_l) for each star with the correlation R of the noise, is taken off; in directions
  that it dominates only `MAX_NOISE` of the matrix is, so that they do not run free.
- The pixels of the convolved image are known to a fraction of themselves and no better: `PIXEL_ERROR` where a sharp image
  is broadened, `PIXEL_ERROR_DECONVOLUTION` where a broad one is sharpened. What that would add to M is added as a ridge,
  so that kernels which such errors could make are small.
- Eigenvalues of the scaled matrix (unit diagonal) below 1 / `MAX_CONDITION` of the largest are raised to that. Sums in
  double precision over some 1e5 pixels leave 1e-14 of it undetermined: at the limit an eigenvalue is known to a hundredth.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.kernel_stamps import CORE_SIGMA, StarEquations
from diffim.matching.psf_kernel import KernelGrid
from diffim.matching.spatial_kernel import SpatialKernel
from exposure.field import chebyshev_orders, chebyshev_terms
from tasks.arrays import F64, I64, Box, Flags

__all__ = ["MAX_CONDITION", "KernelModel", "Prior", "SpatialEquations"]

MAX_NOISE = 0.6
MAX_CONDITION = 1e12
PIXEL_ERROR = 1e-6  # single precision after a resampling or two
PIXEL_ERROR_DECONVOLUTION = CORE_SIGMA  # both images are trusted alike
LEAST_METRIC = 1e-8  # what no star tells apart is small too


@dataclass(frozen=True)
class Prior:
    """How much a kernel may differ from its base.

    Parameters
    ----------
    error
        Residual that the constant part of the difference may leave on a star, as a fraction of its light, for each function.
    spatial
        The same for each term of the part that varies over the image, those of its slopes: what varies is smooth, and terms of
        degree n are smaller by 1 / n, so that they do not run away between the last stars and the rim.
    shift
        The same for the terms that move stars, by degree as those: PSF models do not tell where the stars lie.
    """

    error: float
    spatial: float
    shift: float


@dataclass(frozen=True)
class KernelModel:
    """What the spatial solution has for parameters: [a_0 | a_ij | c_k].

    Parameters
    ----------
    box
        Region over which the polynomials run: x0, y0, width, height, px.
    kernel_order, background_order
        Orders of the polynomials of kernel and background.
    noise_known
        Whether it is known how the noise of the convolved image is correlated: then its expectation is taken off.
    base
        Kernels that the PSF models tell, or None.
    """

    basis: AlardLuptonBasis
    box: Box
    kernel_order: int
    background_order: int
    noise_known: bool = True
    base: KernelGrid | None = None

    @property
    def functions(self) -> int:
        """Number of functions, the background not counted."""
        return len(self.basis.terms) + (self.base is not None)

    @cached_property
    def layout(self) -> tuple[I64, I64]:
        """Function and polynomial term of each parameter, two arrays (n,); the background is the function after the last."""
        k = self.functions
        n_p, n_q = (len(chebyshev_orders(order)) for order in (self.kernel_order, self.background_order))
        function = np.concatenate([[0], np.repeat(np.arange(1, k), n_p), np.full(n_q, k)])
        return function, np.concatenate([[0], np.tile(np.arange(n_p), k - 1), np.arange(n_q)])

    def polynomials(self, x: F64, y: F64) -> F64:
        """Return the Chebyshev terms, shape (N, n), at frame positions (N,), px."""
        return chebyshev_terms(max(self.kernel_order, self.background_order), self.box, x, y)

    @property
    def degrees(self) -> I64:
        """Total degrees of the polynomial terms."""
        return np.asarray(chebyshev_orders(max(self.kernel_order, self.background_order)).sum(1))

    @cached_property
    def shifts(self) -> Flags:
        """Which functions (K + 1,) move a star: the dipoles of the first Gaussian."""
        out = np.zeros(self.functions + 1, bool)
        out[: len(self.basis.terms)] = [g == 0 and px + py == 1 for g, px, py in self.basis.terms]
        return out

    def kernel(self, solution: F64, condition: float, rank: int) -> SpatialKernel:
        """Return the kernel of a solution (n,) with the condition number and the rank of its equations."""
        k, n_p = self.functions, len(chebyshev_orders(self.kernel_order))
        last = 1 + (k - 1) * n_p
        coefficients = np.zeros((k, n_p))
        coefficients[0, 0], coefficients[1:] = solution[0], solution[1:last].reshape(k - 1, n_p)
        return SpatialKernel(
            self.basis,
            coefficients,
            solution[last:],
            self.kernel_order,
            self.background_order,
            self.box,
            condition,
            rank,
            self.base,
        )


@dataclass(frozen=True)
class SpatialEquations:
    """The equations of some stars for the parameters of a model: matrix, vector and what is added to or taken from the matrix."""

    model: KernelModel
    matrix: F64
    expected: F64
    vector: F64
    metric: F64

    @classmethod
    def of(cls, s: StarEquations, use: Flags, model: KernelModel) -> "SpatialEquations":
        """Sum the equations of the stars in `use`, shape (N,)."""
        function, term = model.layout
        k = model.functions
        p = model.polynomials(s.x[use], s.y[use])
        top = p.shape[1]
        pairs = (p[:, :, None] * p[:, None, :]).reshape(len(p), -1)
        rows, columns = term[:, None], term[None, :]
        blocks = (pairs.T @ s.normal[use].reshape(len(p), -1)).reshape(top, top, k + 1, k + 1)
        parameters = rows, columns, function[:, None], function[None, :]

        def of_pixels(variance: F64, gram: F64) -> F64:
            """Return what errors of the convolved pixels, given as sums of w V (N,), with products `gram`, add to the matrix."""
            added = (pairs.T @ variance).reshape(top, top, 1, 1) * gram[0]
            if model.base is not None:  # the first and the last function differ from star to star
                edges = [0, k - 1]
                varying = variance[:, None, None] * gram[use][:, edges]
                varying = (pairs.T @ varying.reshape(len(p), -1)).reshape(top, top, 2, k + 1)
                added[:, :, edges, :] = varying
                added[:, :, :, edges] = varying.swapaxes(2, 3)
            return np.asarray(added[parameters])

        error = PIXEL_ERROR_DECONVOLUTION if model.basis.mode == "deconvolution" else PIXEL_ERROR
        matrix = blocks[parameters] + error**2 * of_pixels(s.square[use], s.gram)
        expected = of_pixels(s.noise[use], s.noise_gram) if model.noise_known else np.zeros_like(matrix)
        metric = blocks[0, 0] / max(float(s.power[use].sum()), 1e-300)
        return cls(model, matrix, expected, (p.T @ s.right[use])[term, function], metric)

    def precision(self, prior: Prior) -> F64:
        """Return the matrix of the prior, shape (n, n), one row a parameter."""
        model = self.model
        function, term = model.layout
        error = np.where(term > 0, prior.spatial, prior.error)
        error = np.where(model.shifts[function], np.maximum(error, prior.shift), error)
        error = error / np.maximum(model.degrees[term], 1)
        weight = np.where((function > 0) & (function < model.functions), 1 / error, 0)
        metric = self.metric + LEAST_METRIC * np.diag(np.diag(self.metric))
        metric = metric[function[:, None], function[None, :]] * (term[:, None] == term[None, :])
        return np.asarray(metric * weight[:, None] * weight[None, :])

    def quick(self, prior: Prior) -> SpatialKernel:
        """Solve without condition and rank, with no more than `MAX_NOISE` of the noise taken off: in a tenth of the time."""
        matrix = self.matrix + self.precision(prior) - MAX_NOISE * self.expected
        power = np.diag(matrix)
        if np.isfinite(matrix).all() and (power > 0).all():
            scale = 1 / np.sqrt(power)
            try:
                factor = linalg.cho_factor(matrix * scale[:, None] * scale[None, :], check_finite=False)
            except linalg.LinAlgError:  # as good as singular: by its eigenvalues
                return self.solve(prior)
            solution = scale * linalg.cho_solve(factor, scale * self.vector, check_finite=False)
            return self.model.kernel(solution, float("nan"), 0)
        return self.solve(prior)

    def solve(self, prior: Prior) -> SpatialKernel:
        """Solve for the parameters.

        Raises
        ------
        InsufficientKernelSources
            The stars have no usable light: the solution is not finite.
        """
        matrix = self.matrix + self.precision(prior)
        sky = self.model.layout[0] == self.model.functions
        solution, condition, rank = _solution(matrix, self.expected, self.vector, sky)
        if not np.isfinite(solution).all():
            raise InsufficientKernelSources("the kernel solution is not finite")
        return self.model.kernel(solution, condition, rank)


def _solution(matrix: F64, expected: F64, vector: F64, sky: Flags) -> tuple[F64, float, int]:
    """Solve (matrix - expected) a = vector with `expected` limited to `MAX_NOISE` of the matrix in any direction.

    `sky` says which parameters are the background's: counts, where the others are numbers. So each kind has a scale of its
    own, and the solution does not depend on the unit of the images.
    Returns the solution, the condition number before anything is raised, and the number of directions that the data
    determine.
    """
    if not all(np.isfinite(a).all() for a in (matrix, expected, vector)):
        raise InsufficientKernelSources("the stamps of the kernel stars hold values that are not finite")
    if not matrix[0, 0] > 0:
        raise InsufficientKernelSources("no light is left in the stamps of the kernel stars")
    power = np.diag(matrix)
    most = np.where(sky, power.max(where=sky, initial=0.0), power.max(where=~sky, initial=0.0))
    scale = 1.0 / np.sqrt(np.maximum(power, 1e-12 * most + 1e-300))
    outer = scale[:, None] * scale[None, :]
    values, vectors = np.linalg.eigh(matrix * outer)
    largest = max(float(values[-1]), 1e-300)
    condition = largest / max(float(values[0]), np.finfo(np.float64).eps * largest)  # what is below is rounding
    raised = values < largest / MAX_CONDITION
    root = vectors / np.sqrt(np.where(raised, largest / MAX_CONDITION, values))
    share, directions = np.linalg.eigh(root.T @ (expected * outer) @ root)
    onto = directions.T @ (root.T @ (scale * vector))
    solution = scale * (root @ (directions @ (onto / (1 - np.clip(share, 0, MAX_NOISE)))))
    return solution, condition, int(np.count_nonzero(share < MAX_NOISE)) - int(np.count_nonzero(raised))
