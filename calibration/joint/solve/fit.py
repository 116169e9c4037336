"""The sequence of one fit: stages, rounds of outlier rejection, judgement."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.special

from calibration.errors import FitDiverged, ModelInvalid
from calibration.joint.solve.minimize import Evaluation, FactorCache, evaluate, minimize, not_finite
from calibration.joint.solve.problem import Fittable
from tasks.arrays import F64, Flags

__all__ = ["FitReport", "FitSettings", "Hooks", "Progress", "Stage", "chi2_cut", "fit", "judge"]

log = logging.getLogger("alertprod.jointcal")
_STAGE = 1e-2  # relative gain that ends a stage: the joint fit does the rest
_STAGE_PASSES = 3
_ROUND = 1e-5  # relative gain that ends a round: the step that wins it is made, and what is left is far less
HUBER = 2.5  # sigma; 94 % efficient for Gaussian errors


Stage = tuple[str, bool, Flags | None]
"""Label, whether stars move, and which parameters move (None: all that are fitted)."""
Watcher = Callable[[str, Fittable, Evaluation | None], None]
Progress = Callable[[str, float, int], None]
"""Called with a label, chi2 and the degrees of freedom."""


@dataclass(frozen=True)
class FitSettings:
    """How a fit goes.

    Parameters
    ----------
    stages
        What is fitted before everything moves.
    label
        Of the fit of everything.
    reject
        ``robust`` or ``sigma``.
    n_sigma
        Sigma beyond which a measurement is an outlier.
    relative_tolerance
        End when the cut changes less (``sigma`` only).
    max_steps
        Rounds of rejection.
    line_search
        Scale each step to the best along it.
    """

    stages: tuple[Stage, ...]
    label: str
    reject: str = "robust"
    n_sigma: float = 5.0
    relative_tolerance: float = 0.0
    max_steps: int = 20
    line_search: bool = False


@dataclass
class FitReport:
    """What came of a fit; ``history`` holds (label, chi2, ndof) after each stage and round.

    ``n_references`` are the reference stars that it began with, ``n_references_kept`` those that do not contradict it.
    """

    chi2: float = float("nan")
    ndof: int = 0
    converged: bool = False
    n_outliers: int = 0
    n_references: int = 0
    n_references_kept: int = 0
    history: list[tuple[str, float, int]] = field(default_factory=list)

    @property
    def per_degree(self) -> float:
        """Chi2 per degree of freedom."""
        return self.chi2 / max(self.ndof, 1)


def judge(problem: Fittable) -> tuple[float, int, Evaluation]:
    """Return chi2, degrees of freedom and the evaluation of the measurements at the present parameters.

    What is firm is not counted as free: see `calibration.joint.solve.draws.taken_degrees`.

    Raises
    ------
    FitDiverged
        Chi2 is not finite.
    """
    evaluation = evaluate(problem)
    chi2 = float(evaluation.chi2.sum() + problem.reference_chi2().sum())
    if not np.isfinite(chi2):
        raise FitDiverged(not_finite(chi2))
    free = evaluation.star_inverse[:, 0, 0] > 0
    priors = int((np.einsum("naa->na", problem.stars.prior[free]) > 0).sum())
    moving = int(free.sum()) * problem.n_star
    ndof = problem.dimension * int(problem.kept.sum()) + priors - moving - int((problem.fitted & ~problem.firm).sum())
    return chi2, ndof, evaluation


@dataclass(frozen=True)
class Hooks:
    """What is called while a fit goes.

    Parameters
    ----------
    progress
        After each stage and round.
    check
        Raises when the model is impossible; after each stage and round.
    between
        After the stages, and again at the minimum that they lead to (errors may be frozen here).
    watch
        With (label, problem, evaluation) before and after the stages, after each of them, and at the end.
    """

    progress: Progress | None = None
    check: Callable[[], None] | None = None
    between: Callable[[], None] | None = None
    watch: Watcher | None = None


def fit(problem: Fittable, settings: FitSettings, hooks: Hooks) -> FitReport:
    """Fit model and stars, reject outliers, and fit again until none is left.

    Raises
    ------
    ModelInvalid
        More parameters than data, or the hook `check` says so.
    FitDiverged
        Chi2 per degree of freedom grew tenfold in a round, or is not finite.
    SingularFit
        See `minimize` and `judge`.
    """
    return _Fit(problem, settings, hooks).run()


class _Fit:
    """A fit on its way; see `fit`."""

    def __init__(self, problem: Fittable, settings: FitSettings, hooks: Hooks) -> None:
        self.problem, self.settings, self.hooks = problem, settings, hooks
        self.report = FitReport()
        self.cache = FactorCache()

    def run(self) -> FitReport:
        """Go through the stages, the fit of everything and the rounds of rejection."""
        problem, report = self.problem, self.report
        huber = HUBER if self.settings.reject == "robust" else 0.0
        report.n_references = self._tied()
        report.chi2, report.ndof, _ = judge(problem)
        report.history.append(("Initial", report.chi2, report.ndof))
        self._watch("preinit", None)
        for label, stars, model in self.settings.stages:
            minimize(problem, stars=stars, model=model, huber=huber, max_passes=_STAGE_PASSES, tolerance=_STAGE)
            self._judged(label)
        self._watch("postinit", None)
        freeze = self.hooks.between
        if freeze is not None:
            freeze()
            self._minimize(huber)  # where the stages end is a matter of their way, a minimum is not
            if self.hooks.check is not None:
                self.hooks.check()
            freeze()
        self._minimize(huber)
        self._watch("final", self._reject(self._judged(self.settings.label)))
        report.n_references_kept = self._tied()
        if report.per_degree >= 4:
            log.error("Potentially bad fit: High chi-squared/ndof. (%.2f)", report.per_degree)
        return report

    def _minimize(self, huber: float = 0.0) -> int:
        """Fit everything; return how many passes it took."""
        line_search = self.settings.line_search
        return minimize(self.problem, huber=huber, cache=self.cache, tolerance=_ROUND, line_search=line_search)

    def _tied(self) -> int:
        """Return how many stars have a reference star that is used."""
        return int((self.problem.stars.prior[:, 0, 0] > 0).sum())

    def _watch(self, label: str, evaluation: Evaluation | None) -> None:
        if self.hooks.watch is not None:
            self.hooks.watch(label, self.problem, evaluation)

    def _judged(self, label: str) -> Evaluation:
        """Judge the fit as it is, tell the hooks, and keep the numbers under a label."""
        report, hooks = self.report, self.hooks
        report.chi2, report.ndof, evaluation = judge(self.problem)
        log.info("%s chi2/ndof : %.6g/%d=%.4g", label, report.chi2, report.ndof, report.per_degree)
        report.history.append((label, report.chi2, report.ndof))
        if hooks.progress is not None:
            hooks.progress(label, report.chi2, report.ndof)
        if report.ndof < 0:
            raise ModelInvalid(
                f"Model is not valid: {-report.ndof} more parameters than data; use a simpler model or more data"
            )
        if hooks.check is not None:
            hooks.check()
        self._watch(label, evaluation)
        return evaluation

    def _reject(self, evaluation: Evaluation) -> Evaluation:
        """Leave out outliers and fit again until none is left; returns the last evaluation."""
        report, settings, last_cut = self.report, self.settings, np.inf
        for step in range(settings.max_steps):
            gone, cut = _leave_out(self.problem, evaluation, settings)
            settled = step > 0 and settings.relative_tolerance > 0 and 1 - cut / last_cut < settings.relative_tolerance
            last_cut = cut
            if (not gone and step > 0) or settled:
                report.converged = True
                return evaluation
            report.n_outliers += gone
            passes, evaluation = self._refit(step, gone > 0)
            if not gone and passes < 30:
                report.converged = True
                return evaluation
        log.error("%s failed to converge after %d steps", settings.label, settings.max_steps)
        return evaluation

    def _refit(self, step: int, changed: bool) -> tuple[int, Evaluation]:
        """Fit once more; return how many passes it took, and the evaluation."""
        if changed and _hold_untouched(self.problem):
            self.cache.factor = None
        before = self.report.per_degree
        passes = self._minimize()
        evaluation = self._judged(f"Fit iteration {step}")
        ratio = self.report.per_degree / max(before, 1e-300)
        if ratio > 10:
            raise FitDiverged(f"Large chi2 increase between steps: chi2/ndof grew {ratio:.3g} times")
        if ratio > 1.5:
            log.warning("significant chi2 increase by a factor of %.3g in step %d", ratio, step)
        return passes, evaluation


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


def _leave_out(problem: Fittable, evaluation: Evaluation, settings: FitSettings) -> tuple[int, float]:
    """Leave out the worst measurement of each star, and reference stars, beyond the cut.

    Return how many, and the cut.
    """
    star, n_stars = problem.star_index, problem.offsets.size - 1
    own, reference, cut = _distances(problem, evaluation, settings)
    left = np.bincount(star[problem.kept], minlength=n_stars)
    has_reference = problem.stars.prior[:, 0, 0] > 0
    bad = np.flatnonzero(problem.kept & (own > cut))
    bad = bad[(left[star[bad]] > 1) | has_reference[star[bad]]]
    order = bad[np.lexsort((-own[bad], star[bad]))]
    _, first = np.unique(star[order], return_index=True)
    worst = order[first]
    bad_reference = np.flatnonzero((reference > cut) & has_reference)
    # a star whose measurement and reference both stand out: the worse of the two goes first
    worse = np.zeros(n_stars)
    worse[star[worst]] = own[worst]
    bad_reference = bad_reference[(reference[bad_reference] > worse[bad_reference]) & (left[bad_reference] > 0)]
    worst = worst[~np.isin(star[worst], bad_reference)]
    problem.kept[worst] = False
    d = min(problem.dimension, 2)
    problem.stars.prior[bad_reference, :d, :d] = 0.0
    # two measurements that contradict each other do not say which is right
    pair = star[worst][(left[star[worst]] == 2) & ~has_reference[star[worst]]]
    problem.kept[np.isin(star, pair)] = False
    return int(worst.size + bad_reference.size), cut


def _distances(problem: Fittable, evaluation: Evaluation, settings: FitSettings) -> tuple[F64, F64, float]:
    """Return the chi2 of measurements (N,) and of reference stars (M,) that outliers are told by, and the cut.

    The robust rule corrects for leverage: of a star seen twice each measurement shows only half of its own error.
    """
    reference = problem.reference_chi2()
    if settings.reject != "robust":
        every = np.concatenate([evaluation.chi2[problem.kept], reference[reference > 0]])
        return evaluation.chi2, reference, float(every.mean() + settings.n_sigma * every.std())
    d = problem.dimension
    own = evaluation.chi2 / np.maximum(1.0 - evaluation.leverage, 0.05)
    share = np.einsum("nab,nba->n", problem.stars.prior, evaluation.star_inverse) / problem.n_star
    good = problem.kept & (evaluation.leverage < 0.95)
    scale = np.median(own[good]) / scipy.special.chdtri(d, 0.5) if good.any() else 1.0
    cut = chi2_cut(settings.n_sigma, d) * max(float(scale), 1.0)
    return own, reference / np.maximum(1.0 - share, 0.05), cut
