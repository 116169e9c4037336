"""Fit of the matching kernel on star stamps: one spatial solution for all stars, and rejection of stars.

Stars vary. One bright variable spoils a first fit so much that every bright star seems to disagree with it: stars whose
flux ratio is not that of most are left out from the start, and a star dropped by an early solution may come back.

A f (`diffim.matching.kernel_stamps`); how they are solved says `diffim.matching.kernel_solution`.
"""

from dataclasses import dataclass

import numpy as np

from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.kernel_solution import solve_kernel
from diffim.matching.kernel_stamps import StarEquations, StarPositions, star_equations
from diffim.matching.spatial_kernel import SpatialKernel
from diffim.pixels.masked_image import MaskedImage
from exposure.field import chebyshev_terms
from exposure.quantiles import median, scatter
from tasks.arrays import F64, Box, Flags
from tasks.reprs import short_repr

__all__ = ["FitOptions", "KernelFit", "fit_kernel"]

MAX_STAR_SCATTER = 0.1
MAX_MISFIT = 0.02


@dataclass(frozen=True)
class KernelFit:
    """The solution and what happened to the candidates.

    Parameters
    ----------
    residual_rms
        Median over held-out stars (all stars where none could be spared) of the rms of residual / sigma on their stamps, with
        the noise of the matched image counted; 1 is photon noise.
    star_scatter
        Fraction by which the fluxes of the stars scatter beyond their noise.
    used
        Whether each candidate is in the fit, shape (N,).
    x, y
        Frame positions of the candidates, shape (N,), px.
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

    def numbers(self) -> dict[str, float | int | str | list[float]]:
        """Return what the fit says of itself, under the names of the task's metadata."""
        return {
            "spatialKernelSum": self.kernel.kernel_sum,
            "nKernelCandidates": self.n_candidates,
            "nKernelUsed": self.n_used,
            "nKernelRejected": self.n_rejected,
            "nKernelHeldOut": self.n_held_out,
            "kernelResidualRms": self.residual_rms,
            "kernelStarScatter": self.star_scatter,
            "spatialConditionNum": self.kernel.condition,
            "kernelRank": self.kernel.rank,
            "kernelNoiseGain": self.kernel.noise_gain,
            "kernelDeconvolves": self.kernel.basis.mode == "deconvolution",
            "kernelOrder": self.kernel.kernel_order,
            "ALKernelSize": self.kernel.size,
            "ALBasisMode": self.kernel.basis.mode,
            "ALBasisSigGauss": list(self.kernel.basis.sigmas),
        }


@dataclass(frozen=True)
class FitOptions:
    """How the kernel is fitted.

    Parameters
    ----------
    kernel_order, background_order
        Highest orders of the polynomials of kernel and background; few stars get lower ones.
    min_stars
        Fewer are an error.
    iterations
        Rounds of rejection.
    flux_ratio
        Rough kernel sum (target over convolved): for the weights.
    white_noise
        Whether the noise of the convolved image is white; only then is its expectation known and taken off.
    """

    kernel_order: int = 1
    background_order: int = 2
    min_stars: int = 3
    iterations: int = 3
    flux_ratio: float = 1.0
    white_noise: bool = True


DEFAULT = FitOptions()


def fit_kernel(
    convolved: MaskedImage,
    target: MaskedImage,
    stars: StarPositions,
    basis: AlardLuptonBasis,
    box: Box,
    options: FitOptions = DEFAULT,
) -> KernelFit:
    """Find the kernel that turns `convolved` into `target`.

    Parameters
    ----------
    convolved, target
        Images on one pixel grid.
    stars
        The candidates, brightest first.
    box
        Region over which the polynomials run: x0, y0, width, height, px.

    Raises
    ------
    InsufficientKernelSources
        Fewer than `options.min_stars` stars, at the start or after rejection.

    Notes
    -----
    Alard & Lupton 1998, ApJ 503, 325; the kernel varies over the image as in Alard 2000, A&AS 144, 363.
    """
    n = stars.x.size
    if n < options.min_stars:
        raise InsufficientKernelSources(f"{n} kernel stars, need {options.min_stars}")
    equations = star_equations(convolved, target, stars, basis, options.flux_ratio)
    held = np.zeros(n, bool)
    if n >= 25:
        held[4::5] = True
    use, star_scatter = ~held & _steady(equations, held), 0.0
    for step in range(options.iterations + 1):
        orders = _affordable(int(use.sum()), options.kernel_order, options.background_order)
        kernel = solve_kernel(equations, use, basis, box, orders, options.white_noise)
        rms, agrees = _judge(equations, kernel, use, star_scatter)
        if step == options.iterations:
            break
        before, use = use, _next_stars(rms, agrees, held, options.min_stars)
        if step and np.array_equal(before, use):
            break
        if use.sum() < options.min_stars:
            raise InsufficientKernelSources(
                f"{int(use.sum())} kernel stars are left after rejection, need {options.min_stars}"
            )
        star_scatter = _star_scatter(equations, kernel, use)
    judged = held & np.isfinite(rms) if held.any() else use
    return KernelFit(
        kernel,
        n_candidates=n,
        n_used=int(use.sum()),
        n_rejected=int((~held & ~use).sum()),
        n_held_out=int(held.sum()),
        residual_rms=float(np.median(rms[judged])),
        star_scatter=star_scatter,
        used=use,
        x=stars.x,
        y=stars.y,
    )


def _next_stars(rms: F64, agrees: Flags, held: Flags, least: int) -> Flags:
    """Return the stars of the next solution: a star dropped by an early one may come back."""
    use = ~held & agrees
    if use.sum() < max(least, int(0.3 * (~held).sum())):
        use = ~held & (rms <= np.quantile(rms[~held], 0.7))  # a poor fit everywhere: drop the worst third
    return np.asarray(use)


def _steady(s: StarEquations, held: Flags) -> Flags:
    """Return the stars (N,) whose flux ratio of the two images is that of most: a bright variable spoils the first fit."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, noise = s.target_flux / s.convolved_flux, s.target_flux_error / s.convolved_flux
    able = np.isfinite(ratio) & (s.convolved_flux > 5 * s.target_flux_error)
    if (able & ~held).sum() < 8:
        return np.ones(s.x.size, bool)
    most = ratio[able & ~held]
    return np.asarray(~(able & (np.abs(ratio - median(most)) > 4 * np.hypot(scatter(most), noise))))


def _affordable(n: int, kernel_order: int, background_order: int) -> tuple[int, int]:
    """Return the orders of kernel and background that `n` stars pay for: both fall to 0 with the number of stars."""
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
    square = scatter(deviation[strong]) ** 2
    excess = square - float(np.median(1 / power[strong]))
    return 0.0 if excess < 3.0 * square / np.sqrt(strong.sum()) else min(float(np.sqrt(excess)), MAX_STAR_SCATTER)


def _judge(s: StarEquations, kernel: SpatialKernel, use: Flags, star_scatter: float) -> tuple[F64, Flags]:
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
    scatter_of_rms = 1.4826 * float(np.median(np.abs(rms[use] - level)))
    misfit = np.sqrt(np.maximum(total - n * level**2, 0) / power)
    agrees = np.isfinite(rms) & (np.abs(deviation) < 4.5 * np.hypot(star_scatter, 1 / np.sqrt(power)) + 0.005)
    return rms, agrees & ((rms < max(1.5 * level, level + 3 * scatter_of_rms)) | (misfit < MAX_MISFIT))
