"""One spatial kernel from the equations of many stars, held by a ridge where they do not determine it.

Three things are added to or taken from the normal matrix M of the stars:

- The noise of the convolved image is noise in a regressor and pulls coefficients to zero (the kernel sum comes out low).
  Its expectation, sum_p w_p V_p (B_k . B_l) for each star, is taken off; in directions that it dominates only
  `MAX_NOISE` of the matrix is, so that they do not run free.
- The pixels of the convolved image are known to a fraction of themselves and no better: `PIXEL_ERROR` where a sharp image
  is broadened, `PIXEL_ERROR_DECONVOLUTION` where a broad one is sharpened. What that would add to M is added as a ridge,
  so that kernels which such errors could make are small.
- Eigenvalues of the scaled matrix (unit diagonal) below 1 / `MAX_CONDITION` of the largest are raised to that. Sums in
  double precision over some 1e5 pixels leave 1e-14 of it undetermined: at the limit an eigenvalue is known to a hundredth.
"""

import numpy as np

from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.kernel_stamps import CORE_SIGMA, StarEquations
from diffim.matching.spatial_kernel import SpatialKernel
from exposure.field import chebyshev_terms
from tasks.arrays import F64, Box, Flags

__all__ = ["MAX_CONDITION", "solve_kernel"]

MAX_NOISE = 0.6
MAX_CONDITION = 1e12
PIXEL_ERROR = 1e-6  # single precision after a resampling or two
PIXEL_ERROR_DECONVOLUTION = CORE_SIGMA  # both images are trusted alike


def solve_kernel(
    s: StarEquations, use: Flags, basis: AlardLuptonBasis, box: Box, orders: tuple[int, int], white_noise: bool = True
) -> SpatialKernel:
    """Solve for the spatial coefficients [a_0 | a_ij | c_k] with the stars in `use`.

    Parameters
    ----------
    use
        Which stars take part, shape (N,).
    orders
        Of the polynomials of kernel and background.
    white_noise
        Whether the noise of the convolved image is white: then its expectation is known and taken off.

    Raises
    ------
    InsufficientKernelSources
        The stars have no usable light: the solution is not finite.
    """
    k, (kernel_order, background_order) = len(basis.terms), orders
    p = chebyshev_terms(max(kernel_order, background_order), box, s.x[use], s.y[use])
    n_p, n_q = (kernel_order + 1) * (kernel_order + 2) // 2, (background_order + 1) * (background_order + 2) // 2
    top = p.shape[1]
    pairs = (p[:, :, None] * p[:, None, :]).reshape(len(p), -1)
    function = np.concatenate([[0], np.repeat(np.arange(1, k), n_p), np.full(n_q, k)])
    term = np.concatenate([[0], np.tile(np.arange(n_p), k - 1), np.arange(n_q)])
    blocks = (pairs.T @ s.normal[use].reshape(len(p), -1)).reshape(top, top, k + 1, k + 1)
    matrix = blocks[term[:, None], term[None, :], function[:, None], function[None, :]]
    functions = basis.functions.reshape(k, -1)
    gram = np.zeros((k + 1, k + 1))
    gram[:-1, :-1] = functions @ functions.T

    def of_pixels(variance: F64) -> F64:
        """Return what independent errors of the convolved pixels, given as sums of w V, add to the matrix."""
        summed = (pairs.T @ variance).reshape(top, top)
        return np.asarray(summed[term[:, None], term[None, :]] * gram[function[:, None], function[None, :]])

    error = PIXEL_ERROR_DECONVOLUTION if basis.mode == "deconvolution" else PIXEL_ERROR
    expected = of_pixels(s.noise[use]) if white_noise else np.zeros_like(matrix)
    vector = (p.T @ s.right[use])[term, function]
    ridge = error**2 * of_pixels(s.square[use])
    solution, condition, rank = _solution(matrix, ridge, expected, vector, function == k)
    if not np.isfinite(solution).all():
        raise InsufficientKernelSources("the kernel solution is not finite")
    coefficients = np.zeros((k, n_p))
    coefficients[0, 0] = solution[0]
    coefficients[1:] = solution[1 : 1 + (k - 1) * n_p].reshape(k - 1, n_p)
    return SpatialKernel(
        basis, coefficients, solution[1 + (k - 1) * n_p :], kernel_order, background_order, box, condition, rank
    )


def _solution(matrix: F64, ridge: F64, expected: F64, vector: F64, sky: Flags) -> tuple[F64, float, int]:
    """Solve (matrix + ridge - expected) a = vector with `expected` limited to `MAX_NOISE` of the matrix in any direction.

    `sky` says which parameters are the background's: counts, where the others are numbers. So each kind has a scale of its
    own, and the solution does not depend on the unit of the images.
    Returns the solution, the condition number before anything is raised, and the number of directions that the data
    determine.
    """
    if not all(np.isfinite(a).all() for a in (matrix, ridge, expected, vector)):
        raise InsufficientKernelSources("the stamps of the kernel stars hold values that are not finite")
    if not matrix[0, 0] > 0:
        raise InsufficientKernelSources("no light is left in the stamps of the kernel stars")
    matrix = matrix + ridge
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
