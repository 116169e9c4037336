"""Fit of the matching kernel on star stamps: one spatial solution for all stars, and rejection of stars.

Stars vary. One bright variable spoils a first fit so much that every bright star seems to disagree with it: stars whose
light ratio is not that of most are left out from the start, and a star dropped by an early solution may come back.

A fit needs of each star its equations only (`diffim.matching.kernel_stamps`); how they are solved says `diffim.matching.kernel_solution`.
"""

from dataclasses import dataclass

import numpy as np

from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.kernel_solution import solve_kernel
from diffim.matching.kernel_stamps import StarEquations, star_equations
from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import Planes
from exposure.field import chebyshev_terms
from tasks.arrays import F64, Box, Flags
from tasks.reprs import short_repr

__all__ = ["KernelFit", "fit_kernel"]

MAX_STAR_SCATTER = 0.1
MAX_MISFIT = 0.02


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
    used: Flags
    x: F64
    y: F64

    __repr__ = short_repr


def fit_kernel(
    convolved: Planes, target: Planes, x: F64, y: F64, basis: AlardLuptonBasis, box: Box,
    *, kernel_order: int = 1, background_order: int = 2, min_stars: int = 3, iterations: int = 3,
    flux_ratio: float = 1.0, white_noise: bool = True, motions: F64 | None = None,
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
    stars = star_equations(convolved, target, x, y, basis, flux_ratio, motions)
    held = np.zeros(n, bool)
    if n >= 25:
        held[4::5] = True
    use, scatter, kernel = ~held & _steady(stars, held), 0.0, None
    for step in range(iterations + 1):
        if kernel is not None:
            scatter = _star_scatter(stars, kernel, use)
        orders = _affordable(int(use.sum()), kernel_order, background_order)
        kernel = solve_kernel(stars, use, basis, box, *orders, white_noise)
        rms, fit = _judge(stars, kernel, use, scatter)
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


def _steady(s: StarEquations, held: Flags) -> Flags:
    """Return the stars whose ratio of light in the two images is that of most: a bright variable spoils the first fit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, noise = s.aim / s.light, s.light_error / s.light
    able = np.isfinite(ratio) & (s.light > 5 * s.light_error)
    if (able & ~held).sum() < 8:
        return np.ones(s.x.size, bool)
    middle = np.median(ratio[able & ~held])
    spread = 1.4826 * np.median(np.abs(ratio[able & ~held] - middle))
    return np.asarray(~(able & (np.abs(ratio - middle) > 4 * np.hypot(spread, noise))))


def _affordable(n: int, kernel_order: int, background_order: int) -> tuple[int, int]:
    """Few stars pay for few terms: orders fall to 0 together with the number of stars."""
    kernel_limit = 0 if n < 12 else 1 if n < 60 else 2 if n < 150 else 3
    background_limit = 0 if n < 8 else 1 if n < 20 else 2
    return min(kernel_order, kernel_limit), min(background_order, background_limit)


def _local(s: StarEquations, kernel: SpatialKernel) -> tuple[F64, F64]:
    """Return the kernel coefficients (N, K) and the background (N,) at the stars."""
    local = chebyshev_terms(kernel.kernel_order, kernel.box, s.x, s.y) @ kernel.coefficients.T
    return local, chebyshev_terms(kernel.background_order, kernel.box, s.x, s.y) @ kernel.background


def _flux_residuals(s: StarEquations, kernel: SpatialKernel) -> tuple[F64, F64]:
    """Return by what fraction each star's flux is off, and the square of the S/N to which that is known."""
    local, sky = _local(s, kernel)
    along = np.einsum("nij,nj->ni", s.normal[:, :, :-1], local)  # C^T W m
    power = np.maximum(np.einsum("ni,ni->n", along[:, :-1], local), 1e-30)
    onto = np.einsum("ni,ni->n", s.right[:, :-1], local) - along[:, -1] * sky  # m^T W (I - g)
    return onto / power - 1, power


def _star_scatter(s: StarEquations, kernel: SpatialKernel, use: Flags) -> float:
    """Robust scatter of the stars' flux ratios beyond their noise, 0 where it is not significant."""
    deviation, power = _flux_residuals(s, kernel)
    strong = use & (power > 50.0**2)  # flux known to 2 %
    if strong.sum() < 5:
        return 0.0
    rest = deviation[strong] - np.median(deviation[strong])
    square = (1.4826 * float(np.median(np.abs(rest)))) ** 2
    excess = square - float(np.median(1 / power[strong]))
    return 0.0 if excess < 3.0 * square / np.sqrt(strong.sum()) else min(float(np.sqrt(excess)), MAX_STAR_SCATTER)


def _judge(s: StarEquations, kernel: SpatialKernel, use: Flags, scatter: float) -> tuple[F64, Flags]:
    """Return the rms of residual / sigma of each star, its own flux deviation taken out, and whether the star agrees.

    A star disagrees when its flux is off by more than the stars scatter, or when its shape misfits by more than photon
    noise and by more than `MAX_MISFIT` of its light.
    """
    deviation, power = _flux_residuals(s, kernel)
    a = np.column_stack(_local(s, kernel))
    square = s.power - 2 * np.einsum("ni,ni->n", s.right, a) + np.einsum("ni,nij,nj->n", a, s.normal, a, optimize=True)
    total = np.maximum(square - deviation**2 * power, 0)
    n = np.maximum(s.pixels, 1)
    rms = np.sqrt(total / n)
    level = float(np.median(rms[use]))
    spread = 1.4826 * float(np.median(np.abs(rms[use] - level)))
    misfit = np.sqrt(np.maximum(total - n * level**2, 0) / power)
    agrees = np.isfinite(rms) & (np.abs(deviation) < 4.5 * np.hypot(scatter, 1 / np.sqrt(power)) + 0.005)
    return rms, agrees & ((rms < max(1.5 * level, level + 3 * spread)) | (misfit < MAX_MISFIT))
