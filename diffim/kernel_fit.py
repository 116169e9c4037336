"""Fit of the matching kernel on star stamps: normal equations per star, one spatial solution, rejection of stars.

Convolution here and in `diffim.convolve` is true convolution, so that the kernel fitted is the kernel applied.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffim.basis import AlardLuptonBasis
from diffim.errors import InsufficientKernelSources
from diffim.kernel import Box, SpatialKernel, chebyshev_terms
from exposure.stamps import gather

__all__ = ["KernelFit", "fit_kernel"]

CORE_SIGMA = 0.01  # a star's own light is trusted to 1 % of itself: stars of all fluxes share in the fit


@dataclass(frozen=True)
class KernelFit:
    """The solution and what happened to the candidates.

    ``residual_rms`` is the median over held-out stars (all stars where none could be spared) of the rms of
    residual / sigma on their stamps; 1 is photon noise.
    """

    kernel: SpatialKernel
    n_candidates: int
    n_used: int
    n_rejected: int
    n_held_out: int
    residual_rms: float
    used: NDArray[np.bool_]


@dataclass(frozen=True)
class _Stamps:
    """Per star: design (N, P, K), target (N, P), weights (N, P) and positions."""

    design: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def fit_kernel(
    convolved: NDArray[np.float32], target: NDArray[np.float32], variance: NDArray[np.float32],
    x: NDArray[np.float64], y: NDArray[np.float64], basis: AlardLuptonBasis, box: Box, origin: tuple[int, int], *,
    kernel_order: int = 1, background_order: int = 2, min_stars: int = 3, iterations: int = 3,
) -> KernelFit:  # fmt: skip
    """Find the kernel that turns `convolved` into `target`.

    Parameters
    ----------
    convolved, target
        Images on one pixel grid, NaN-free on the stamps.
    variance
        Variance of target minus matched (sum of both, template scaled roughly); infinite where a pixel is no good.
    x, y
        Frame positions of the stars, brightest first; the stamps must lie inside the images.
    box
        Region over which the polynomials run.
    origin
        Frame position of pixel [0, 0] of the arrays.

    Raises
    ------
    InsufficientKernelSources
        Fewer than `min_stars` stars, at the start or after rejection.
    """
    n = x.size
    if n < min_stars:
        raise InsufficientKernelSources(f"{n} kernel stars, need {min_stars}")
    stamps = _cut(convolved, target, variance, x, y, basis, origin)
    held = np.zeros(n, bool)
    if n >= 25:
        held[4::5] = True
    normal, right = _normal_equations(stamps)
    use = ~held
    kernel = None
    for step in range(iterations + 1):
        orders = _affordable(int(use.sum()), kernel_order, background_order)
        kernel = _solve(normal[use], right[use], stamps, use, basis, box, *orders)
        mean, rms = _residuals(stamps, kernel)
        middle = float(np.median(rms[use]))
        spread = 1.4826 * float(np.median(np.abs(rms[use] - middle)))
        bad = ~np.isfinite(rms) | (np.abs(mean) > 0.25 * max(middle, 1.0)) | (rms > max(1.5, middle + 3 * spread))
        if step == iterations or not (bad & use).any():
            break
        if (use & ~bad).sum() < max(min_stars, int(0.3 * use.sum())):
            bad = rms > np.quantile(rms[use], 0.7)  # a poor fit everywhere: drop the worst third, not everything
        use = use & ~bad
        if use.sum() < min_stars:
            raise InsufficientKernelSources(f"{int(use.sum())} kernel stars are left after rejection, need {min_stars}")
    assert kernel is not None
    judged = held & np.isfinite(rms) if held.any() else use
    return KernelFit(
        kernel, n, int(use.sum()), int((~held & ~use).sum()), int(held.sum()), float(np.median(rms[judged])), use
    )


def _affordable(n: int, kernel_order: int, background_order: int) -> tuple[int, int]:
    """Few stars pay for few terms: orders fall to 0 together with the number of stars."""
    kernel_limit = 0 if n < 12 else 1 if n < 60 else 2
    background_limit = 0 if n < 8 else 1 if n < 20 else 2
    return min(kernel_order, kernel_limit), min(background_order, background_limit)


def _cut(
    convolved: NDArray[np.float32], target: NDArray[np.float32], variance: NDArray[np.float32], x: NDArray[np.float64],
    y: NDArray[np.float64], basis: AlardLuptonBasis, origin: tuple[int, int],
) -> _Stamps:  # fmt: skip
    cx = np.floor(x + 0.5).astype(np.int64) - origin[0]
    cy = np.floor(y + 0.5).astype(np.int64) - origin[1]
    outer, inner = 2 * basis.size + 1, basis.size + 2
    source = gather(convolved, cx, cy, outer, 0.0)
    design = _convolve_basis(source, basis, inner)
    aim = gather(target, cx, cy, inner, 0.0).reshape(x.size, -1)
    var = gather(variance, cx, cy, inner, np.inf).reshape(x.size, -1)
    weight = np.where(np.isfinite(var), 1.0 / np.maximum(var + (CORE_SIGMA * aim) ** 2, 1e-30), 0.0)
    return _Stamps(design, aim, weight.astype(np.float32), x, y)


def _convolve_basis(stamps: NDArray[np.float32], basis: AlardLuptonBasis, inner: int) -> NDArray[np.float32]:
    """Convolve each stamp with each function: the raw functions are separable, so two matrix products do it."""
    n, outer = stamps.shape[0], stamps.shape[1]
    size = basis.size
    filters = [f for group in basis.factors for f in group]
    start = np.cumsum([0] + [len(g) for g in basis.factors])
    toeplitz = np.zeros((len(filters), outer, inner), dtype=np.float32)
    for k, f in enumerate(filters):
        for i in range(inner):
            toeplitz[k, i : i + size, i] = f[::-1]
    rows = np.einsum("nyx,kxi->nkyi", stamps, toeplitz, optimize=True)
    out = np.empty((n, len(basis.terms), inner, inner), dtype=np.float32)
    for t, (g, px, py) in enumerate(basis.terms):
        out[:, t] = np.matmul(toeplitz[start[g] + py].T, rows[:, start[g] + px])
    mixed = np.matmul(basis.mixing.astype(np.float32), out.reshape(n, len(basis.terms), -1))
    return np.ascontiguousarray(mixed.transpose(0, 2, 1))


def _normal_equations(s: _Stamps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """M_s = C^T W C and b_s = C^T W I with C = [B_k * T, 1], one matrix per star."""
    n, p, _ = s.design.shape
    design = np.concatenate([s.design, np.ones((n, p, 1), np.float32)], axis=2)
    weighted = design * s.weight[:, :, None]
    normal = np.matmul(weighted.transpose(0, 2, 1), design).astype(np.float64)
    right = np.matmul(weighted.transpose(0, 2, 1), s.target[:, :, None])[..., 0].astype(np.float64)
    return normal, right


def _solve(
    normal: NDArray[np.float64], right: NDArray[np.float64], s: _Stamps, use: NDArray[np.bool_],
    basis: AlardLuptonBasis, box: Box, kernel_order: int, background_order: int,
) -> SpatialKernel:  # fmt: skip
    """Solve for the spatial coefficients: [a_0 | a_ij | c_k]."""
    p = chebyshev_terms(kernel_order, box, s.x[use], s.y[use])
    q = chebyshev_terms(background_order, box, s.x[use], s.y[use])
    k = len(basis.terms)
    blocks = [np.ones((len(p), 1)), *([p] * (k - 1)), q]
    index = np.repeat(np.arange(k + 1), [b.shape[1] for b in blocks])
    local = np.concatenate(blocks, axis=1)
    expanded = normal[:, index[:, None], index[None, :]]
    matrix = np.einsum("su,sv,suv->uv", local, local, expanded, optimize=True)
    vector = np.einsum("su,su->u", local, right[:, index])
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    values, vectors = np.linalg.eigh(matrix * scale[:, None] * scale[None, :])
    keep = values > max(values[-1], 0) * 1e-11
    inverse = np.where(keep, 1.0 / np.where(keep, values, 1), 0)
    solution = scale * (vectors @ (inverse * (vectors.T @ (scale * vector))))
    if not np.isfinite(solution).all():
        raise InsufficientKernelSources("the kernel solution is not finite")
    n_p = p.shape[1]
    coefficients = np.zeros((k, n_p))
    coefficients[0, 0] = solution[0]
    coefficients[1:] = solution[1 : 1 + (k - 1) * n_p].reshape(k - 1, n_p)
    condition = float(values[-1] / max(values[keep].min(), 1e-300))
    return SpatialKernel(
        basis, coefficients, solution[1 + (k - 1) * n_p :], kernel_order, background_order, box, condition,
        int(keep.sum()),
    )  # fmt: skip


def _residuals(s: _Stamps, kernel: SpatialKernel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and rms of residual / sigma on each stamp."""
    local = chebyshev_terms(kernel.kernel_order, kernel.box, s.x, s.y) @ kernel.coefficients.T
    model = np.matmul(s.design, local.astype(np.float32)[:, :, None])[..., 0]
    sky = chebyshev_terms(kernel.background_order, kernel.box, s.x, s.y) @ kernel.background
    z = (s.target - model - sky[:, None].astype(np.float32)) * np.sqrt(s.weight)
    n = np.maximum((s.weight > 0).sum(1), 1)
    return (z.sum(1) / n).astype(np.float64), np.sqrt((z**2).sum(1) / n).astype(np.float64)
