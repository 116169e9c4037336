"""Newton steps on the reduced normal equations, with one factor for many cheap passes.

A pass evaluates all measurements, moves every star to its best coordinates for the present model, and sums the
gradient. Making and factoring S costs ten times as much, and S hardly changes: it is kept while it serves (each pass
must win at least three times less than the one before), and remade when it does not. Of very many stars a sample makes it
(`calibration.joint.solve.sample`), and all of them where that does not serve.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import scipy.sparse

from calibration.errors import FitDiverged, SingularFit
from calibration.joint.model.rows import Rows
from calibration.joint.solve.dense import DenseFactor
from calibration.joint.solve.elimination import Reduced, add_block, contributions, pulls, soften, star_steps
from calibration.joint.solve.problem import Fittable, Problem
from calibration.joint.solve.sample import sample_stars
from calibration.joint.solve.sparse import SparseFactor, sparse_schur
from exposure.threads import in_threads
from tasks.arrays import F64, I64, Flags

__all__ = [
    "Evaluation",
    "FactorCache",
    "distributed",
    "evaluate",
    "minimize",
    "normal_factor",
    "not_finite",
    "star_blocks",
    "sum_blocks",
]

BLOCK_BYTES = 2**23
_LIGHT_BYTES = 1000  # of a measurement without its derivatives by the model
DENSE_LIMIT = 12_000  # parameters; above it S is kept sparse
_PARTS = 2  # of a sum: a fixed number, so that the last digit does not depend on the machine
_STEP_SAMPLE, _ERROR_SAMPLE = 100.0, 1000.0  # measurements per parameter of a sampled S: for steps, and for errors
_WORSE = 1.01  # growth of the objective that undoes a step; less comes from weights that follow the stars


Blocks = Sequence[tuple[int, int]]


def star_blocks(problem: Problem, light: bool = False) -> list[tuple[int, int]]:
    """Split the stars into ranges whose linearised measurements (`light`: without the derivatives by the model) and dense
    rows fit the cache.
    """
    offsets = problem.offsets
    n = offsets.size - 1
    per_measurement = _LIGHT_BYTES if light else 16 * problem.width * problem.dimension
    per_star = 8 * problem.n_star * (0 if light else min(problem.parameters.size, DENSE_LIMIT))
    cost = np.diff(offsets) * per_measurement + per_star
    edges = np.searchsorted(np.cumsum(cost), np.arange(BLOCK_BYTES, cost.sum() + BLOCK_BYTES, BLOCK_BYTES))
    cuts = np.unique(np.clip(np.concatenate([[0], edges + 1, [n]]), 0, n))
    return [(int(a), int(b)) for a, b in pairwise(cuts)]


@dataclass
class Sums:
    """What a pass over some blocks gives; sums of blocks add up.

    Parameters
    ----------
    gradient
        (P,) of half of chi2.
    objective
        What the steps bring down: chi2, and what Huber's loss has beyond it.
    reduced
        The normal equations, where they were asked for.
    sparse
        B D^-1 B^T of each block, where S is kept sparse.
    steps
        First and last star of each block, and the steps of its stars.
    """

    gradient: F64
    chi2: float = 0.0
    objective: float = 0.0
    reduced: Reduced | None = None
    sparse: list[scipy.sparse.csr_matrix] = field(default_factory=list)
    steps: list[tuple[int, int, F64]] = field(default_factory=list)

    def matrix(self) -> Reduced:
        """Return the normal equations, which must have been asked for."""
        if self.reduced is None:
            raise ValueError("the sums were made without the normal matrix")
        return self.reduced

    def add(self, other: "Sums") -> None:
        """Add the sums of other blocks."""
        self.gradient += other.gradient
        self.chi2 += other.chi2
        self.objective += other.objective
        self.sparse += other.sparse
        self.steps += other.steps
        if self.reduced is not None and other.reduced is not None:
            self.reduced.groups += other.reduced.groups
            self.reduced.columns = np.maximum(self.reduced.columns, other.reduced.columns)
            if self.reduced.schur is not None and other.reduced.schur is not None:
                self.reduced.schur += other.reduced.schur


def sum_blocks(
    problem: Problem, blocks: Blocks, *, stars: bool, matrix: bool, huber: float = 0.0, times: F64 | None = None
) -> Sums:
    """Pass over blocks of stars and sum: the unit of work that may run anywhere (it changes nothing).

    Parameters
    ----------
    stars
        Let the stars move (by ``steps`` of the result); else they are held.
    matrix
        Sum the normal matrix too, not only the gradient.
    huber
        Weight measurements beyond so many sigma like Huber; 0: plain least squares.
    times
        (M,) how many stars each stands for; None: for itself.
    """
    size = problem.parameters.size
    out = Sums(np.zeros(size))
    dense = size <= DENSE_LIMIT
    if matrix:
        schur = np.zeros((size, size)) if stars and dense else None
        out.reduced = Reduced.empty(problem.n_groups, problem.width, schur, out.gradient)
    for first, last in blocks:
        light = None if matrix else problem.light(first, last)
        rows = problem.rows(first, last) if light is None else light.rows
        m, q = last - first, problem.n_star
        step, inverse, pull = np.zeros((m, q)), np.zeros((m, q, q)), np.empty(rows.residual.shape)
        excess = soften(rows, huber) if huber > 0 else 0.0
        if times is not None:
            rows = _multiplied(rows, times[first:last])
        if stars:
            star_steps(rows, step, inverse)
            out.steps.append((first, last, step))
        chi2 = pulls(rows, step, pull)
        out.chi2 += chi2
        out.objective += chi2 + excess
        if light is not None:
            light.add_gradient(pull, out.gradient)
        elif out.reduced is not None:
            add_block(rows, inverse, pull, out.reduced)
            if stars and not dense:
                out.sparse.append(sparse_schur(rows, inverse, size))
    return out


def _multiplied(rows: Rows, times: F64) -> Rows:
    """Return the rows of stars that stand for so many (m,) like them."""
    rows.weight[:] *= np.repeat(times, np.diff(rows.offsets))[:, None, None]
    return rows._replace(prior=rows.prior * times[:, None, None], pull=rows.pull * times[:, None])


Mapper = Callable[[Callable[[Blocks], Sums], Sequence[Blocks]], Sequence[Sums]]
_MAPPER: ContextVar[tuple[Mapper, int]] = ContextVar("mapper", default=(in_threads, _PARTS))


@contextmanager
def distributed(mapper: Mapper, parts: int) -> Iterator[None]:
    """Sum blocks elsewhere: `mapper` applies a function to so many parts, like ``map``, in processes or on machines.

    ::

        with distributed(lambda f, p: dask.compute(*[dask.delayed(f)(x) for x in p]), 8):
            task.run(...)
    """
    token = _MAPPER.set((mapper, parts))
    try:
        yield
    finally:
        _MAPPER.reset(token)


def _pass(problem: Problem, stars: bool, matrix: bool, huber: float, times: F64 | None = None) -> Sums:
    """All blocks, in parts that are added in a fixed order: the same bytes on any machine; then the stars move."""
    mapper, n_parts = _MAPPER.get()
    blocks = star_blocks(problem, light=not matrix)
    cuts = [round(len(blocks) * k / n_parts) for k in range(n_parts + 1)]
    parts = [blocks[a:b] for a, b in pairwise(cuts) if b > a]
    work = partial(sum_blocks, problem, stars=stars, matrix=matrix, huber=huber, times=times)
    total, *others = mapper(work, parts)
    for part in others:
        total.add(part)
    for first, last, step in total.steps:
        problem.move(first, last, step)
    return total


@dataclass
class Evaluation:
    """Measurements at the best coordinates of their stars.

    Parameters
    ----------
    chi2, leverage
        (N,) chi2 of each measurement, and the share of it that its star took.
    star_inverse
        (M, q, q) covariance of each star; zero for one without weight.
    """

    chi2: F64
    leverage: F64
    star_inverse: F64


def evaluate(problem: Problem) -> Evaluation:
    """Return chi2 and leverage of every measurement and the covariance of every star; parameters do not change."""
    n = int(problem.offsets[-1])
    q = problem.n_star
    m = problem.offsets.size - 1
    out = Evaluation(np.zeros(n), np.zeros(n), np.zeros((m, q, q)))

    def one(block: tuple[int, int]) -> None:
        first, last = block
        rows = problem.light(first, last).rows
        step = np.zeros((last - first, q))
        inverse = out.star_inverse[first:last]
        star_steps(rows, step, inverse)
        part = slice(int(problem.offsets[first]), int(problem.offsets[last]))
        contributions(rows, step, inverse, out.chi2[part], out.leverage[part])
        problem.move(first, last, step)

    in_threads(one, star_blocks(problem, light=True))
    return out


@dataclass
class FactorCache:
    """The factor of the last S of the same unknowns; None where it must be made anew, ``exact`` from all stars."""

    factor: DenseFactor | SparseFactor | None = None
    exact: bool = False

    def drop(self) -> None:
        """Have the factor made anew: it does not serve, be it for its age or for the sample that it is of."""
        self.factor, self.exact = None, True


def minimize(
    problem: Fittable,
    *,
    stars: bool = True,
    model: Flags | None = None,
    huber: float = 0.0,
    max_passes: int = 30,
    tolerance: float = 1e-6,
    cache: FactorCache | None = None,
    line_search: bool = False,
) -> int:
    """Bring the model (its `model` part (P,); all that is fitted by default) and the stars to the minimum of chi2.

    Parameters
    ----------
    huber
        Weight measurements beyond so many sigma like Huber; 0: plain least squares.
    tolerance
        End when a step wins less than this share of chi2.
    cache
        Holds the factor from call to call: for refits after a few measurements left.
    line_search
        Scale each step to the best along it, which takes some ten passes more a step.

    Returns
    -------
    passes
        How many passes over the measurements it took; ``max_passes`` means that it did not converge.

    Raises
    ------
    SingularFit
        The data leave parameters undetermined; the message names them.
    FitDiverged
        Chi2 is not finite.
    """
    chosen = problem.fitted if model is None else problem.fitted & model
    index = np.flatnonzero(chosen)
    cache = FactorCache() if cache is None else cache
    last_gain, best, step = np.inf, np.inf, np.zeros(index.size)
    for passes in range(1, max_passes + 1):
        fresh = cache.factor is None and index.size > 0
        sampled = _sampled(problem, stars, huber, _STEP_SAMPLE) if fresh and not cache.exact else None
        sums = _pass(problem, stars, fresh and sampled is None, huber)
        if not np.isfinite(sums.chi2):
            raise FitDiverged(not_finite(sums.chi2))
        if not index.size:
            return passes
        worse = problem.guarded and sums.objective > _WORSE * best + 1.0
        if worse and np.any(step):  # too far: the maps are products of parameters
            problem.parameters[index] += 0.75 * step
            step *= 0.25
            cache.drop()
            continue
        best = min(best, sums.objective)
        sums.gradient += problem.prior_weight * (problem.parameters - problem.expected)
        factor = cache.factor or _factor(problem, sums, index, sampled)
        if factor is None:
            cache.exact = True
            continue
        cache.factor = factor
        right = sums.gradient[index]
        step = factor.solve(right)
        gain = float(right @ step)
        if line_search and gain > tolerance * max(sums.chi2, 1.0):
            step *= _best_scale(problem, index, step, partial(_pass, problem, stars, False, huber))
        problem.parameters[index] -= step
        if gain <= tolerance * max(sums.chi2, 1.0):
            return passes
        if not fresh and gain > 0.3 * last_gain:
            cache.drop()
        last_gain = gain
    if problem.guarded and np.any(step) and not _pass(problem, stars, False, huber).objective <= _WORSE * best + 1.0:
        problem.parameters[index] += step  # the last step was not proved, and is no good
    return max_passes


def not_finite(chi2: float) -> str:
    """Return what to say of a chi2 that is no number."""
    return (
        f"chi2 is {chi2}: the model left the sky, or positions, fluxes or their errors are not finite; check that x and y are "
        "pixels that are spread over the images, and the WCS of the inputs"
    )


def _best_scale(problem: Problem, index: I64, step: F64, sums: Callable[[], Sums]) -> float:
    """Return by how much a step from the present parameters is best multiplied, between -1 and 2 (Brent 1973)."""
    from scipy.optimize import minimize_scalar

    before = problem.parameters[index].copy()

    def objective(scale: float) -> float:
        problem.parameters[index] = before - scale * step
        weight, off = problem.prior_weight, problem.parameters - problem.expected
        objective = sums().objective
        return objective + float(weight @ off**2) if np.isfinite(objective) else np.inf

    best = minimize_scalar(objective, bounds=(-1.0, 2.0), method="bounded", options={"xatol": 1e-3})
    problem.parameters[index] = before
    return float(best.x)


def normal_factor(problem: Fittable) -> tuple[DenseFactor | None, I64]:
    """Return the factor of S at the present parameters, all measurements at their full weight, and which parameters it is
    of; no factor where S is kept sparse.
    """
    index = np.flatnonzero(problem.fitted)
    if problem.parameters.size > DENSE_LIMIT or not index.size:
        return None, index
    sampled = _sampled(problem, True, 0.0, _ERROR_SAMPLE)
    factor = None if sampled is None else _factor(problem, sampled, index, sampled)
    if factor is None:
        factor = _factor(problem, _pass(problem, True, True, 0.0), index)
    return (factor if isinstance(factor, DenseFactor) else None), index


def _sampled(problem: Fittable, stars: bool, huber: float, per_parameter: float) -> Sums | None:
    """Return what a pass over a sample of the stars gives, none of which moves; None where a sample saves nothing."""
    sample = sample_stars(problem, per_parameter)
    if sample is None:
        return None
    return _pass(problem.of_stars(sample.which), stars, True, huber, sample.times)


def _factor(problem: Problem, sums: Sums, index: I64, sampled: Sums | None = None) -> DenseFactor | SparseFactor | None:
    """Return the factor of S for the parameters of `index`; None where that of `sampled`, which goes first, has none."""
    try:
        return _factor_of(problem, sums if sampled is None else sampled, index)
    except SingularFit:
        if sampled is None:
            raise
        return None


def _factor_of(problem: Problem, sums: Sums, index: I64) -> DenseFactor | SparseFactor:
    reduced = sums.matrix()
    if problem.parameters.size > DENSE_LIMIT:
        return SparseFactor(reduced, sums.sparse, index, problem.prior_weight)
    matrix = reduced.matrix()
    matrix[np.diag_indices_from(matrix)] += problem.prior_weight
    if index.size < matrix.shape[0]:
        matrix = matrix[np.ix_(index, index)]
    return DenseFactor(matrix, problem.name, index)
