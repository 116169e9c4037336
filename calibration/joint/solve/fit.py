"""The sequence of one fit: stages, rounds of outlier rejection, judgement."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.special

from calibration.errors import FitDiverged, ModelInvalid
from calibration.joint.solve.minimize import Evaluation, Kept, Problem, evaluate, minimize
from tasks.arrays import F64, I64, Flags

__all__ = ["FitReport", "FitSettings", "Fittable", "chi2_cut", "fit", "judge"]

log = logging.getLogger("alertprod.jointcal")
_STAGE = 1e-2  # relative gain that ends a stage: the joint fit does the rest
HUBER = 2.5  # sigma; 94 % efficient for Gaussian errors


class Fittable(Problem, Protocol):
    """A problem whose measurements and reference stars can be left out."""

    kept: Flags
    image: I64
    layout: Any
    stars: Any
    start: F64

    def undetermined(self) -> Flags:
        """Which parameters the kept measurements are too few for."""

    def reference_chi2(self) -> F64:
        """Chi2 of each star against its reference star."""


@dataclass(frozen=True)
class FitSettings:
    """How a fit goes.

    Parameters
    ----------
    stages
        (label, whether stars move, which parameters move) before everything moves.
    reject
        ``robust`` or ``sigma``.
    n_sigma
        Cut.
    relative_tolerance
        End when the cut changes less (``sigma`` only).
    max_steps
        Rounds of rejection.
    """

    stages: tuple[tuple[str, bool, Flags | None], ...]
    label: str
    reject: str = "robust"
    n_sigma: float = 5.0
    relative_tolerance: float = 0.0
    max_steps: int = 20


@dataclass
class FitReport:
    """What came of a fit; ``history`` holds (label, chi2, ndof) after each stage and round."""

    chi2: float = float("nan")
    ndof: int = 0
    converged: bool = False
    n_outliers: int = 0
    history: list[tuple[str, float, int]] = field(default_factory=list)
    evaluation: Evaluation | None = None


def judge(problem: Fittable) -> tuple[float, int, Evaluation]:
    """Return chi2, degrees of freedom and the evaluation of the measurements at the present parameters.

    Raises
    ------
    FloatingPointError
        Chi2 is not finite.
    """
    found = evaluate(problem)
    chi2 = float(found.chi2.sum() + problem.reference_chi2().sum())
    if not np.isfinite(chi2):
        raise FloatingPointError(f"chi2 is {chi2}: NaN or infinite measurements, errors or parameters")
    free = found.star_inverse[:, 0, 0] > 0
    known = int((np.einsum("naa->na", problem.stars.prior[free]) > 0).sum())
    moving = int(free.sum()) * problem.n_star
    ndof = problem.dimension * int(problem.kept.sum()) + known - moving - int(problem.fitted.sum())
    return chi2, ndof, found


def fit(
    problem: Fittable, settings: FitSettings, progress: Callable[[str, float, int], None] | None = None,
    check: Callable[[], None] | None = None, between: Callable[[], None] | None = None,
    watch: "Callable[[str, Any, Evaluation | None], None] | None" = None,
) -> FitReport:  # fmt: skip
    """Fit model and stars, reject outliers, and fit again until none is left.

    Parameters
    ----------
    progress
        Called with (label, chi2, ndof) after each stage and round.
    check
        Raises when the model is impossible.
    between
        Called after the stages (errors may be frozen here).
    watch
        Called with (label, problem, evaluation) before and after the stages, after each of them, and at the end.

    Raises
    ------
    ModelInvalid
        More parameters than data, or `check` says so.
    FitDiverged
        Chi2 per degree of freedom grew tenfold in a round.
    SingularFit, FloatingPointError
        See `minimize` and `judge`.
    """
    report = FitReport()

    def said(label: str) -> Evaluation:
        report.chi2, report.ndof, found = judge(problem)
        log.info("%s chi2/ndof : %.6g/%d=%.4g", label, report.chi2, report.ndof, report.chi2 / max(report.ndof, 1))
        report.history.append((label, report.chi2, report.ndof))
        if progress is not None:
            progress(label, report.chi2, report.ndof)
        if report.ndof < 0:
            raise ModelInvalid(
                f"Model is not valid: {-report.ndof} more parameters than data; use a simpler model or more data"
            )
        if check is not None:
            check()
        if watch is not None:
            watch(label, problem, found)
        return found

    huber = HUBER if settings.reject == "robust" else 0.0
    report.chi2, report.ndof, _ = judge(problem)
    report.history.append(("Initial", report.chi2, report.ndof))
    if watch is not None:
        watch("preinit", problem, None)
    for label, stars, model in settings.stages:
        minimize(problem, stars=stars, model=model, huber=huber, max_passes=8, tolerance=_STAGE)
        said(label)
    if watch is not None:
        watch("postinit", problem, None)
    if between is not None:
        between()
    kept = Kept()
    minimize(problem, huber=huber, kept=kept)
    report.evaluation = said(settings.label)
    _reject_rounds(problem, settings, report, kept, said)
    if watch is not None:
        watch("final", problem, report.evaluation)
    per_degree = report.chi2 / max(report.ndof, 1)
    if per_degree >= 4:
        log.error("Potentially bad fit: High chi-squared/ndof. (%.2f)", per_degree)
    return report


def _reject_rounds(
    problem: Fittable, settings: FitSettings, report: FitReport, kept: Kept, said: Callable[[str], Evaluation]
) -> None:
    last_cut = np.inf
    for step in range(settings.max_steps):
        assert report.evaluation is not None
        gone, cut = _outliers(problem, report.evaluation, settings)
        done = step > 0 and settings.relative_tolerance > 0 and 1 - cut / last_cut < settings.relative_tolerance
        last_cut = cut
        if (not gone and step > 0) or done:
            report.converged = True
            return
        report.n_outliers += gone
        if gone and _hold_untouched(problem):
            kept.factor = None
        before = report.chi2 / max(report.ndof, 1)
        passes = minimize(problem, kept=kept)
        report.evaluation = said(f"Fit iteration {step}")
        ratio = report.chi2 / max(report.ndof, 1) / max(before, 1e-300)
        if ratio > 10:
            raise FitDiverged(f"Large chi2 increase between steps: chi2/ndof grew {ratio:.3g} times")
        if ratio > 1.5:
            log.warning("significant chi2 increase by a factor of %.3g in step %d", ratio, step)
        if not gone and passes < 30:
            report.converged = True
            return
    log.error("%s failed to converge after %d steps", settings.label, settings.max_steps)


def chi2_cut(n_sigma: float, dimension: int) -> float:
    """Return the chi2 of `dimension` degrees that is as unlikely as `n_sigma` of a Gaussian."""
    return float(scipy.special.chdtri(dimension, 2 * scipy.special.ndtr(-n_sigma)))


def _hold_untouched(problem: Fittable) -> bool:
    """Hold parameters that the kept measurements cannot determine; return whether there are new ones."""
    touched = np.zeros(problem.parameters.size, bool)
    images = np.unique(problem.image[problem.kept])
    starts = problem.layout.starts(images)
    for first, length in zip(starts.T, problem.layout.lengths, strict=True):
        touched[(first[:, None] + np.arange(length)).ravel()] = True
    poor = ~touched | problem.undetermined()
    lost = np.flatnonzero(problem.fitted & poor)
    if lost.size:
        name = problem.name(int(lost[0]))
        log.warning("%d parameters lost too many measurements and are held at their start (first: %s)", lost.size, name)
        problem.fitted[lost] = False
        problem.parameters[lost] = problem.start[lost]
    return bool(lost.size)


def _outliers(problem: Fittable, found: Evaluation, settings: FitSettings) -> tuple[int, float]:
    """Leave out the worst measurement of each star, and reference stars, beyond the cut; return how many, and the cut.

    The robust rule corrects for leverage: of a star seen twice each measurement shows only half of its own error.
    """
    d = problem.dimension
    reference = problem.reference_chi2()
    if settings.reject == "robust":
        own = found.chi2 / np.maximum(1.0 - found.leverage, 0.05)
        share = np.einsum("nab,nba->n", problem.stars.prior, found.star_inverse) / problem.n_star
        ref = reference / np.maximum(1.0 - share, 0.05)
        good = problem.kept & (found.leverage < 0.95)
        scale = np.median(own[good]) / scipy.special.chdtri(d, 0.5) if good.any() else 1.0
        cut = chi2_cut(settings.n_sigma, d) * max(float(scale), 1.0)
    else:
        own, ref = found.chi2, reference
        every = np.concatenate([own[problem.kept], ref[ref > 0]])
        cut = float(every.mean() + settings.n_sigma * every.std())
    star = np.repeat(np.arange(problem.offsets.size - 1), np.diff(problem.offsets))
    bad = np.flatnonzero(problem.kept & (own > cut))
    left = np.bincount(star[problem.kept], minlength=problem.offsets.size - 1)
    has_reference = problem.stars.prior[:, 0, 0] > 0
    bad = bad[(left[star[bad]] > 1) | has_reference[star[bad]]]
    order = bad[np.lexsort((-own[bad], star[bad]))]
    _, first = np.unique(star[order], return_index=True)
    worst = order[first]
    bad_reference = np.flatnonzero((ref > cut) & has_reference)
    # a star whose measurement and reference both stand out: the worse of the two goes first
    worse = np.zeros(left.size)
    worse[star[worst]] = own[worst]
    bad_reference = bad_reference[(ref[bad_reference] > worse[bad_reference]) & (left[bad_reference] > 0)]
    worst = worst[~np.isin(star[worst], bad_reference)]
    problem.kept[worst] = False
    problem.stars.prior[bad_reference, : min(d, 2), : min(d, 2)] = 0.0
    # two measurements that contradict each other do not say which is right
    pair = star[worst][(left[star[worst]] == 2) & ~has_reference[star[worst]]]
    problem.kept[np.isin(star, pair)] = False
    return int(worst.size + bad_reference.size), cut
