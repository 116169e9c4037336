"""Fit of the matching kernel on star stamps: one spatial solution for all stars, and rejection of stars.

Stars vary. One bright variable spoils a first fit so much that every bright star seems to disagree with it: stars whose
flux ratio is not that of most are left out from the start, and a star dropped by an early solution may come back.

A f (`diffim.matching.kernel_stamps`); how they are solved says `diffim.matching.kernel_solution`.
"""

from dataclasses import dataclass, replace

import numpy as np

from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import AlardLuptonBasis
from diffim.matching.kernel_prior import START, HeldOut
from diffim.matching.kernel_residuals import judge, star_scatter
from diffim.matching.kernel_solution import KernelModel, Prior, SpatialEquations
from diffim.matching.kernel_stamps import StarEquations, StarPositions, star_equations
from diffim.matching.psf_kernel import KernelGrid
from diffim.matching.spatial_kernel import SpatialKernel
from diffim.matching.transparency import Transparency, star_transparency
from diffim.pixels.masked_image import MaskedImage
from exposure.quantiles import median, scatter
from tasks.arrays import F64, Box, Flags
from tasks.reprs import short_repr

__all__ = ["FitOptions", "KernelFit", "fit_kernel"]

ENOUGH_TO_SPARE = 100  # stars: of more, every fifth only judges; of fewer each judges a fit that it is not in


@dataclass(frozen=True)
class KernelFit:
    """The solution and what happened to the candidates.

    Parameters
    ----------
    residual_rms
        Median over stars, each under a fit that it is not in, of the rms of residual / sigma on their stamps, with the noise of
        the matched image counted; 1 is photon noise.
    star_scatter
        Fraction by which the fluxes of the stars scatter beyond their noise.
    used
        Whether each candidate is in the fit, shape (N,).
    x, y
        Frame positions of the candidates, shape (N,), px.
    judging
        The residuals that `residual_rms` is the median of, NaN for other candidates, shape (N,).
    """

    kernel: SpatialKernel
    prior: Prior
    transparency: Transparency | None
    n_candidates: int
    n_used: int
    n_rejected: int
    n_held_out: int
    residual_rms: float
    star_scatter: float
    used: Flags
    x: F64
    y: F64
    judging: F64

    __repr__ = short_repr

    def numbers(self) -> dict[str, float | int | str | list[float]]:
        """Return the counts, factors and residuals (units of sigma) of the fit, under the names of the task's metadata."""
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
            "kernelPriorError": self.prior.error,
            "kernelPriorSpatialError": self.prior.spatial,
            "kernelPriorShiftError": self.prior.shift,
            "transparencyLength": 0.0 if self.transparency is None else self.transparency.length,
            "transparencyRms": 0.0 if self.transparency is None else self.transparency.rms,
            "kernelFromPsf": self.kernel.base is not None,
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
        Whether the noise of the convolved image is white.
    correlation
        Where it is not, its correlation coefficients, shape (L, L), 1 in the middle; None: they are not known, and the
        expectation of the noise is not taken off.
    """

    kernel_order: int = 1
    background_order: int = 2
    min_stars: int = 3
    iterations: int = 3
    flux_ratio: float = 1.0
    white_noise: bool = True
    base: KernelGrid | None = None
    correlation: F64 | None = None

    @property
    def noise_known(self) -> bool:
        """Whether it is known how the noise of the convolved image is correlated."""
        return self.white_noise or self.correlation is not None


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
        Fewer than `options.min_stars` stars.

    Notes
    -----
    Alard & Lupton 1998, ApJ 503, 325; the kernel varies over the image as in Alard 2000, A&AS 144, 363.
    """
    n = stars.x.size
    if n < options.min_stars:
        raise InsufficientKernelSources(f"{n} kernel stars, need {options.min_stars}")
    equations = star_equations(convolved, target, stars, basis, options.flux_ratio, options.base, options.correlation)
    held = np.zeros(n, bool)
    if n >= ENOUGH_TO_SPARE:
        held[4::5] = True
    transparency = star_transparency(equations, ~held, box)
    if transparency is not None:
        equations = equations.dimmed(transparency.at(stars.x, stars.y))
    use, scatters = ~held & _steady(equations, held), 0.0
    prior = START if options.base is not None else replace(START, error=np.inf)
    for step in range(options.iterations + 1):
        order = min(options.background_order, _background_limit(int(use.sum())))
        model = KernelModel(basis, box, options.kernel_order, order, options.noise_known, options.base)
        if not step:  # before stars are dropped: under a prior that is too strong the brightest would be
            prior = HeldOut.of(equations, use, held, model, scatters).best(prior)
        summed = SpatialEquations.of(equations, use, model)
        kernel = summed.quick(prior)
        rms, agrees = judge(equations, kernel, use, scatters)
        if step == options.iterations:
            break
        before, use = use, _next_stars(rms, agrees, held, options.min_stars)
        if step > 1 and np.array_equal(before, use):
            break
        scatters = star_scatter(equations, kernel, use)
    if held.any():
        judging = np.where(held, rms, np.nan)
    else:
        judging = HeldOut.of(equations, use, held, model, scatters).rms(prior)
    if not np.isfinite(judging).any():
        judging = np.where(use, rms, np.nan)
    return KernelFit(
        summed.solve(prior),
        prior,
        transparency,
        n_candidates=n,
        n_used=int(use.sum()),
        n_rejected=int((~held & ~use).sum()),
        n_held_out=int(np.isfinite(judging).sum()),
        residual_rms=float(np.nanmedian(judging)),
        star_scatter=scatters,
        used=use,
        x=stars.x,
        y=stars.y,
        judging=judging,
    )


def _next_stars(rms: F64, agrees: Flags, held: Flags, least: int) -> Flags:
    """Return the stars of the next solution: a star dropped by an early one may come back."""
    use = ~held & agrees
    if use.sum() < max(least, int(0.3 * (~held).sum())):
        worst_kept = np.quantile(rms[~held], max(0.7, min((least - 1) / max((~held).sum() - 1, 1), 1.0)))
        use = ~held & (rms <= worst_kept)  # a poor fit everywhere: drop the worst third, and keep `least`
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


def _background_limit(n: int) -> int:
    """Return the order of the background that `n` stars pay for."""
    return 0 if n < 8 else 1 if n < 20 else 2
