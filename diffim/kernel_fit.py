"""Fit of the matching kernel on star stamps: normal equations per star, one spatial solution, rejection of stars.

Two things that bias plain least squares are taken out:

- The image that is convolved has noise too, and noise in a regressor pulls its coefficients to zero (the kernel sum comes
  out low). Its expectation, sum_p w_p V_p (B_k . B_l) for each star, is subtracted from the normal matrix; in directions
  that noise dominates only `MAX_NOISE` of the matrix is, so that they do not run free.
- Stars vary. One bright variable spoils a first fit so much that every bright star seems to disagree with it: stars whose
  light ratio is not that of most are left out from the start, and a star dropped by an early solution may come back.

Convolution here and in `diffim.convolve` is true convolution, so that the kernel fitted is the kernel applied.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffim.basis import AlardLuptonBasis
from diffim.errors import InsufficientKernelSources
from diffim.kernel import Box, SpatialKernel, chebyshev_terms
from diffim.planes import Planes
from exposure.stamps import shift_stamps
from exposure.threads import in_bands
from tasks.reprs import short_repr

__all__ = ["KernelFit", "fit_kernel"]

CORE_SIGMA = 0.005  # a star's own light is trusted to 0.5 % of itself: stars of all fluxes share in the fit
MAX_NOISE = 0.6
RIDGE = 1e-11  # of the scaled normal matrix
MAX_STAR_SCATTER = 0.1
MAX_MISFIT = 0.02
BLOCK = 16  # stars at a time


@dataclass(frozen=True)
class KernelFit:
    """The solution and what happened to the candidates.

    ``residual_rms`` is the median over held-out stars (all stars where none could be spared) of the rms of
    residual / sigma on their stamps, with the noise of the matched image counted; 1 is photon noise.
    ``star_scatter`` is the fraction by which the fluxes of the stars scatter beyond their noise.
    """

    kernel: SpatialKernel
    n_candidates: int
    n_used: int
    n_rejected: int
    n_held_out: int
    residual_rms: float
    star_scatter: float
    used: NDArray[np.bool_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]

    __repr__ = short_repr


@dataclass(frozen=True)
class _Stamps:
    """Per star: design (N, K, P), target (N, P), weights (N, P) and positions; normal equations of each star."""

    design: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    normal: NDArray[np.float64]
    right: NDArray[np.float64]
    noise: NDArray[np.float64]


def fit_kernel(
    convolved: Planes, target: Planes, x: NDArray[np.float64], y: NDArray[np.float64], basis: AlardLuptonBasis, box: Box,
    *, kernel_order: int = 1, background_order: int = 2, min_stars: int = 3, iterations: int = 3,
    flux_ratio: float = 1.0, white_noise: bool = True, motions: NDArray[np.float64] | None = None,
) -> KernelFit:  # fmt: skip
    """Find the kernel that turns `convolved` into `target`.

    Parameters
    ----------
    convolved, target
        Images on one pixel grid.
    x, y
        Frame positions of the stars, brightest first.
    box
        Region over which the polynomials run.
    flux_ratio
        Rough kernel sum (target over convolved): for the weights.
    motions
        Shape (N, 2): by how much (px, less than 1) each star lies elsewhere in `target` than in `convolved`.
    white_noise
        Whether the noise of `convolved` is white; only then is its expectation known and taken off.

    Raises
    ------
    InsufficientKernelSources
        Fewer than `min_stars` stars, at the start or after rejection.
    """
    n = x.size
    if n < min_stars:
        raise InsufficientKernelSources(f"{n} kernel stars, need {min_stars}")
    stamps = _cut(convolved, target, x, y, basis, flux_ratio, motions)
    held = np.zeros(n, bool)
    if n >= 25:
        held[4::5] = True
    if not white_noise:
        stamps.noise[:] = 0
    use, scatter, kernel = ~held & _steady(stamps, held), 0.0, None
    for step in range(iterations + 1):
        if kernel is not None:
            scatter = _star_scatter(stamps, kernel, use)
        orders = _affordable(int(use.sum()), kernel_order, background_order)
        kernel = _solve(stamps, use, basis, box, *orders)
        rms, fit = _judge(stamps, kernel, use, scatter)
        if step == iterations:
            break
        before, use = use, ~held & fit  # a star dropped by an early solution may come back
        if use.sum() < max(min_stars, int(0.3 * (~held).sum())):
            use = ~held & (rms <= np.quantile(rms[~held], 0.7))  # a poor fit everywhere: drop the worst third
        if step and np.array_equal(before, use):
            break
        if use.sum() < min_stars:
            raise InsufficientKernelSources(f"{int(use.sum())} kernel stars are left after rejection, need {min_stars}")
    assert kernel is not None
    judged = held & np.isfinite(rms) if held.any() else use
    return KernelFit(
        kernel, n, int(use.sum()), int((~held & ~use).sum()), int(held.sum()), float(np.median(rms[judged])), scatter,
        use, x, y,
    )  # fmt: skip


def _steady(s: _Stamps, held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the stars whose ratio of light in the two images is that of most: a bright variable spoils the first fit."""
    light = (s.design[:, 0] * (s.weight > 0)).sum(1, dtype=np.float64)
    error = np.sqrt(np.where(s.weight > 0, 1.0 / np.maximum(s.weight, 1e-30), 0).sum(1, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, noise = s.target.sum(1, dtype=np.float64) / light, error / light
    able = np.isfinite(ratio) & (light > 5 * error)
    if (able & ~held).sum() < 8:
        return np.ones(light.size, bool)
    middle = np.median(ratio[able & ~held])
    spread = 1.4826 * np.median(np.abs(ratio[able & ~held] - middle))
    return np.asarray(~(able & (np.abs(ratio - middle) > 4 * np.hypot(spread, noise))))


def _affordable(n: int, kernel_order: int, background_order: int) -> tuple[int, int]:
    """Few stars pay for few terms: orders fall to 0 together with the number of stars."""
    kernel_limit = 0 if n < 12 else 1 if n < 60 else 2 if n < 150 else 3
    background_limit = 0 if n < 8 else 1 if n < 20 else 2
    return min(kernel_order, kernel_limit), min(background_order, background_limit)


def _cut(
    convolved: Planes, target: Planes, x: NDArray[np.float64], y: NDArray[np.float64], basis: AlardLuptonBasis,
    flux_ratio: float, motions: NDArray[np.float64] | None,
) -> _Stamps:  # fmt: skip
    """Cut the stamps and make each star's normal equations M_s = C^T W C and b_s = C^T W I with C = [B_k * T, 1]."""
    cx, cy = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
    outer, inner = 2 * basis.size + 1, basis.size + 2
    n, k, low = x.size, len(basis.terms), (outer - inner) // 2
    stamps, wide_var = convolved.stamps(cx, cy, outer)
    if motions is not None and motions.any():
        rows = np.flatnonzero(motions.any(1))
        moved = np.empty_like(stamps[rows])
        shift_stamps(stamps[rows], motions[rows, 0], motions[rows, 1], moved)
        stamps[rows] = moved
    aim, var = (a.reshape(n, -1) for a in target.stamps(cx, cy, inner))
    own = wide_var[:, low : low + inner, low : low + inner].reshape(n, -1)
    var = var + own * np.float32(flux_ratio**2)
    good = np.isfinite(var)
    weight = np.where(good, 1.0 / np.maximum(var + (CORE_SIGMA * aim) ** 2, 1e-30), 0.0).astype(np.float32)
    noise = (weight * np.where(good, own, 0)).sum(1, dtype=np.float64)
    design = np.empty((n, k, inner * inner), np.float32)
    normal, right = np.empty((n, k + 1, k + 1)), np.empty((n, k + 1))
    toeplitz = _toeplitz(basis, outer, inner)

    def block(first: int, last: int) -> None:
        for low in range(first, last, BLOCK):  # small enough for the cache
            part = slice(low, min(low + BLOCK, last))
            _convolve_basis(stamps[part], basis, toeplitz, design[part])
            weighted = design[part] * weight[part, None, :]
            normal[part, :k, :k] = np.matmul(weighted, design[part].transpose(0, 2, 1))
            normal[part, :k, k] = normal[part, k, :k] = weighted.sum(2)
            normal[part, k, k] = weight[part].sum(1)
            right[part, :k] = np.matmul(weighted, aim[part, :, None])[..., 0]
            right[part, k] = (weight[part] * aim[part]).sum(1)

    in_bands(block, n, least=2 * BLOCK)
    return _Stamps(design, aim, weight, x, y, normal, right, noise)


def _toeplitz(basis: AlardLuptonBasis, outer: int, inner: int) -> NDArray[np.float32]:
    """Return the one-dimensional convolutions with the factors of the basis as matrices (F, outer, inner)."""
    filters = [f for group in basis.factors for f in group]
    out = np.zeros((len(filters), outer, inner), dtype=np.float32)
    for k, f in enumerate(filters):
        for i in range(inner):
            out[k, i : i + basis.size, i] = np.where(np.abs(f) > 1e-25, f, 0)[::-1]  # denormal numbers are slow
    return out


def _convolve_basis(
    stamps: NDArray[np.float32], basis: AlardLuptonBasis, toeplitz: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Convolve each stamp with each function: the raw functions are separable, so two matrix products do it."""
    n, outer = stamps.shape[0], stamps.shape[1]
    inner = toeplitz.shape[2]
    start = np.cumsum([0, *(top + 1 for top in basis.degrees)])
    rows = np.ascontiguousarray(stamps.transpose(1, 0, 2)).reshape(outer * n, outer)
    along = (rows @ toeplitz.transpose(1, 0, 2).reshape(outer, -1)).reshape(outer, n, len(toeplitz), inner)
    raw = np.empty((len(basis.terms), inner, n, inner), dtype=np.float32)
    for g, top in enumerate(basis.degrees):
        for py in range(top + 1):  # all powers of x that go with this power of y at once
            used = [(t, px) for t, (h, px, q) in enumerate(basis.terms) if (h, q) == (g, py)]
            part = along[:, :, start[g] + np.array([px for _, px in used])].transpose(0, 2, 1, 3).reshape(outer, -1)
            made = (toeplitz[start[g] + py].T @ part).reshape(inner, len(used), n, inner)
            for m, (t, _) in enumerate(used):
                raw[t] = made[:, m]
    mixed = basis.mixing.astype(np.float32) @ raw.reshape(len(basis.terms), -1)
    out.reshape(n, len(basis.terms), inner, inner)[:] = mixed.reshape(raw.shape).transpose(2, 0, 1, 3)


def _local(s: _Stamps, kernel: SpatialKernel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the kernel coefficients (N, K) and the background (N,) at the stars."""
    local = chebyshev_terms(kernel.kernel_order, kernel.box, s.x, s.y) @ kernel.coefficients.T
    return local, chebyshev_terms(kernel.background_order, kernel.box, s.x, s.y) @ kernel.background


def _flux_residuals(s: _Stamps, kernel: SpatialKernel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return by what fraction each star's flux is off, and the square of the S/N to which that is known."""
    local, sky = _local(s, kernel)
    along = np.einsum("nij,nj->ni", s.normal[:, :, :-1], local)  # C^T W m
    power = np.maximum(np.einsum("ni,ni->n", along[:, :-1], local), 1e-30)
    onto = np.einsum("ni,ni->n", s.right[:, :-1], local) - along[:, -1] * sky  # m^T W (I - g)
    return onto / power - 1, power


def _star_scatter(s: _Stamps, kernel: SpatialKernel, use: NDArray[np.bool_]) -> float:
    """Robust scatter of the stars' flux ratios beyond their noise, 0 where it is not significant."""
    deviation, power = _flux_residuals(s, kernel)
    strong = use & (power > 50.0**2)  # flux known to 2 %
    if strong.sum() < 5:
        return 0.0
    rest = deviation[strong] - np.median(deviation[strong])
    square = (1.4826 * float(np.median(np.abs(rest)))) ** 2
    excess = square - float(np.median(1 / power[strong]))
    return 0.0 if excess < 3.0 * square / np.sqrt(strong.sum()) else min(float(np.sqrt(excess)), MAX_STAR_SCATTER)


def _solve(
    s: _Stamps, use: NDArray[np.bool_], basis: AlardLuptonBasis, box: Box, kernel_order: int, background_order: int
) -> SpatialKernel:  # fmt: skip
    """Solve for the spatial coefficients: [a_0 | a_ij | c_k]."""
    k = len(basis.terms)
    p = chebyshev_terms(max(kernel_order, background_order), box, s.x[use], s.y[use])
    n_p, n_q = (kernel_order + 1) * (kernel_order + 2) // 2, (background_order + 1) * (background_order + 2) // 2
    top = p.shape[1]
    products = (p[:, :, None] * p[:, None, :]).reshape(len(p), -1)
    blocks = (products.T @ s.normal[use].reshape(len(p), -1)).reshape(top, top, k + 1, k + 1)
    function = np.concatenate([[0], np.repeat(np.arange(1, k), n_p), np.full(n_q, k)])
    term = np.concatenate([[0], np.tile(np.arange(n_p), k - 1), np.arange(n_q)])
    matrix = blocks[term[:, None], term[None, :], function[:, None], function[None, :]]
    vector = (p.T @ s.right[use])[term, function]
    functions = basis.functions.reshape(k, -1)
    gram = np.zeros((k + 1, k + 1))
    gram[:-1, :-1] = functions @ functions.T
    weighted = (products.T @ s.noise[use]).reshape(top, top)
    expected = weighted[term[:, None], term[None, :]] * gram[function[:, None], function[None, :]]
    solution, condition, rank = _without_noise(matrix, expected, vector)
    if not np.isfinite(solution).all():
        raise InsufficientKernelSources("the kernel solution is not finite")
    coefficients = np.zeros((k, n_p))
    coefficients[0, 0] = solution[0]
    coefficients[1:] = solution[1 : 1 + (k - 1) * n_p].reshape(k - 1, n_p)
    return SpatialKernel(
        basis, coefficients, solution[1 + (k - 1) * n_p :], kernel_order, background_order, box, condition, rank,
    )  # fmt: skip


def _without_noise(
    matrix: NDArray[np.float64], expected: NDArray[np.float64], vector: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, int]:
    """Solve (matrix - expected) a = vector with the noise limited to `MAX_NOISE` of the matrix in every direction.

    Returns the solution, the condition number, and the number of directions that the data determine.
    """
    scale = 1.0 / np.sqrt(np.maximum(np.diag(matrix), 1e-12 * np.abs(matrix).max() + 1e-300))
    scaled = matrix * scale[:, None] * scale[None, :]
    values, vectors = np.linalg.eigh(scaled)
    values = np.maximum(values, 0) + RIDGE * max(values[-1], 1e-300)
    root = vectors / np.sqrt(values)
    share, directions = np.linalg.eigh(root.T @ (expected * scale[:, None] * scale[None, :]) @ root)
    onto = directions.T @ (root.T @ (scale * vector))
    solution = scale * (root @ (directions @ (onto / (1 - np.clip(share, 0, MAX_NOISE)))))
    return solution, float(values[-1] / values[0]), int((share < MAX_NOISE).sum())


def _judge(
    s: _Stamps, kernel: SpatialKernel, use: NDArray[np.bool_], scatter: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the rms of residual / sigma of each star, its own flux deviation taken out, and whether the star agrees.

    A star disagrees when its flux is off by more than the stars scatter, or when its shape misfits by more than photon
    noise and by more than `MAX_MISFIT` of its light.
    """
    local, sky = _local(s, kernel)
    model = np.matmul(local.astype(np.float32)[:, None, :], s.design)[:, 0]
    rest = s.target - model - sky[:, None].astype(np.float32)
    power = np.maximum((s.weight * model**2).sum(1, dtype=np.float64), 1e-30)
    deviation = (s.weight * rest * model).sum(1, dtype=np.float64) / power
    z2 = s.weight * (rest - deviation[:, None].astype(np.float32) * model) ** 2
    n = np.maximum((s.weight > 0).sum(1), 1)
    total = z2.sum(1, dtype=np.float64)
    rms = np.sqrt(total / n)
    level = float(np.median(rms[use]))
    spread = 1.4826 * float(np.median(np.abs(rms[use] - level)))
    misfit = np.sqrt(np.maximum(total - n * level**2, 0) / power)
    agrees = np.isfinite(rms) & (np.abs(deviation) < 4.5 * np.hypot(scatter, 1 / np.sqrt(power)) + 0.005)
    return rms, agrees & ((rms < max(1.5 * level, level + 3 * spread)) | (misfit < MAX_MISFIT))
