"""How far the stars are let correct the kernel: the prior under which stars that a fit has not seen are subtracted best."""

from dataclasses import dataclass, replace

import numpy as np

from diffim.matching.kernel_residuals import judge, left_over
from diffim.matching.kernel_solution import KernelModel, Prior, SpatialEquations
from diffim.matching.kernel_stamps import StarEquations
from tasks.arrays import F64, Flags

__all__ = ["START", "HeldOut"]

START = Prior(0.001, 0.0003, 0.001)
ERRORS = (0.001, 0.0003, 0.003, 0.01, 0.03)
RATIOS = (1.0, 0.3, 0.1)  # of the errors of what varies over the image to that of what does not
SHIFTS = (0.02, 0.005, 0.001)
FOLDS = 5


@dataclass(frozen=True)
class HeldOut:
    """Fits of a model to parts of the stars, and the stars (N,) that judge each.

    Parameters
    ----------
    star_scatter
        Fraction by which the fluxes of the stars scatter beyond their noise.
    """

    stars: StarEquations
    fits: list[SpatialEquations]
    fitted: list[Flags]
    judged: list[Flags]
    star_scatter: float

    @classmethod
    def of(cls, stars: StarEquations, use: Flags, held: Flags, model: KernelModel, star_scatter: float) -> "HeldOut":
        """Return the fit to the stars in `use` judged by those in `held`; where there are none, each fifth by the others."""
        if held.any():
            fitted, judged = [use], [held]
        else:
            number = np.cumsum(use) - 1
            parts = range(min(FOLDS, int(use.sum()))) if use.sum() > 1 else ()
            judged = [use & (number % FOLDS == k) for k in parts]
            fitted = [use & ~part for part in judged]
        return cls(stars, [SpatialEquations.of(stars, f, model) for f in fitted], fitted, judged, star_scatter)

    def best(self, prior: Prior) -> Prior:
        """Return the prior that the held-out stars are for; one whose `error` has no limit keeps that."""
        if not self.fits:
            return prior

        def left(candidate: Prior) -> float:
            return sum(
                left_over(self.stars, fit.quick(candidate), judged, self.star_scatter)
                for fit, judged in zip(self.fits, self.judged, strict=True)
            )

        if np.isfinite(prior.error):
            error = _weighted(ERRORS, [left(replace(prior, error=e, spatial=RATIOS[1] * e)) for e in ERRORS])
            ratio = _weighted(RATIOS, [left(replace(prior, error=error, spatial=r * error)) for r in RATIOS])
            prior = replace(prior, error=error, spatial=ratio * error)
        else:
            prior = replace(prior, spatial=_weighted(ERRORS, [left(replace(prior, spatial=e)) for e in ERRORS]))
        return replace(prior, shift=_weighted(SHIFTS, [left(replace(prior, shift=e)) for e in SHIFTS]))

    def rms(self, prior: Prior) -> F64:
        """Return the rms of residual / sigma (N,) of each star under the fit that it is not in; NaN of stars that judge none."""
        out = np.full(self.stars.x.size, np.nan)
        for fit, fitted, judged in zip(self.fits, self.fitted, self.judged, strict=True):
            out[judged] = judge(self.stars, fit.quick(prior), fitted, self.star_scatter)[0][judged]
        return out


def _weighted(values: tuple[float, ...], left: list[float]) -> float:
    """Return the geometric mean of values, each weighted by how likely what it leaves on the held-out stars is (chi2).

    The best alone would change by a step where two are as good, with the last digit of the image.
    """
    finite = np.isfinite(left)
    if not finite.any():
        return values[0]
    weight = np.where(
        finite, np.exp(-0.5 * (np.where(finite, left, np.inf) - np.min(left, where=finite, initial=np.inf))), 0.0
    )
    return float(np.exp((weight * np.log(values)).sum() / weight.sum()))
