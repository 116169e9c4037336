"""Newton steps on the reduced normal equations, with one factor for many cheap passes.

A pass evaluates all measurements, moves every star to its best coordinates for the present model, and sums the
gradient. Making and factoring S costs ten times as much, and S hardly changes: it is kept while it serves (each pass
must win at least three times less than the one before), and remade when it does not.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import scipy.sparse

from calibration.joint.model.rows import Rows
from calibration.joint.solve.dense import DenseFactor
from calibration.joint.solve.elimination import Reduced, add_block, add_gradient, contributions, star_steps
from calibration.joint.solve.problem import Problem
from calibration.joint.solve.sparse import SparseFactor, sparse_schur
from tasks.arrays import F64, I64, Flags

__all__ = ["Evaluation", "FactorCache", "distributed", "evaluate", "minimize", "star_blocks", "sum_blocks"]

BLOCK_BYTES = 2**25
DENSE_LIMIT = 12_000  # parameters; above it S is kept sparse
_THREADS = 2
_WORSE = 1.01  # growth of the objective that undoes a step; less comes from weights that follow the stars


Blocks = Sequence[tuple[int, int]]


def star_blocks(problem: Problem) -> list[tuple[int, int]]:
    """Split the stars into ranges whose linearised measurements and dense rows fit the cache budget."""
    offsets = problem.offsets
    n = offsets.size - 1
    per_measurement = 8 * problem.width * problem.dimension
    per_star = 8 * problem.n_star * min(problem.parameters.size, DENSE_LIMIT)
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


def sum_blocks(problem: Problem, blocks: Blocks, *, stars: bool, matrix: bool, huber: float = 0.0) -> Sums:
    """Pass over blocks of stars and sum: the unit of work that may run anywhere (it changes nothing).

    Parameters
    ----------
    stars
        Let the stars move (by ``steps`` of the result); else they are held.
    matrix
        Sum the normal matrix too, not only the gradient.
    huber
        Weight measurements beyond so many sigma like Huber; 0: plain least squares.
    """
    size = problem.parameters.size
    out = Sums(np.zeros(size))
    dense = size <= DENSE_LIMIT
    if matrix:
        schur = np.zeros((size, size)) if stars and dense else None
        out.reduced = Reduced.empty(problem.n_groups, problem.width, schur, out.gradient)
    for first, last in blocks:
        rows = problem.rows(first, last)
        m, q = last - first, problem.n_star
        step, inverse = np.zeros((m, q)), np.zeros((m, q, q))
        excess = _soften(rows, huber) if huber > 0 else 0.0
        if stars:
            star_steps(rows, step, inverse)
            out.steps.append((first, last, step))
        chi2 = _chi2_after(rows, step)
        out.chi2 += chi2
        out.objective += chi2 + excess
        if out.reduced is None:
            add_gradient(rows, step, out.gradient)
        else:
            add_block(rows, inverse, step, out.reduced)
            if stars and not dense:
                out.sparse.append(sparse_schur(rows, inverse, size))
    return out


def _chi2_after(rows: Rows, step: F64) -> float:
    """Return the chi2 of a block after its stars made their steps (m, q)."""
    moved = rows.residual + np.einsum("nda,na->nd", rows.star, np.repeat(step, np.diff(rows.offsets), axis=0))
    return float(np.einsum("ni,nij,nj->", moved, rows.weight, moved, optimize=True))


def _soften(rows: Rows, huber: float) -> float:
    """Scale weights by min(1, huber / distance) (Huber 1964); return what his loss has beyond the weighted chi2."""
    distance = np.sqrt(np.einsum("ni,nij,nj->n", rows.residual, rows.weight, rows.residual, optimize=True))
    factor = huber / np.maximum(distance, huber)
    np.multiply(rows.weight, factor[:, None, None], out=rows.weight)
    far = distance[distance > huber]
    return float((huber * (far - huber)).sum())


def _in_threads(function: Callable[[Blocks], Sums], parts: Sequence[Blocks]) -> list[Sums]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, parts))


Mapper = Callable[[Callable[[Blocks], Sums], Sequence[Blocks]], Sequence[Sums]]
_MAPPER: ContextVar[tuple[Mapper, int]] = ContextVar("mapper", default=(_in_threads, _THREADS))


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


def _pass(problem: Problem, stars: bool, matrix: bool, huber: float) -> Sums:
    """All blocks, in parts that are added in a fixed order: the same bytes on any machine; then the stars move."""
    mapper, n_parts = _MAPPER.get()
    blocks = star_blocks(problem)
    cuts = [round(len(blocks) * k / n_parts) for k in range(n_parts + 1)]
    parts = [blocks[a:b] for a, b in pairwise(cuts) if b > a]
    work = partial(sum_blocks, problem, stars=stars, matrix=matrix, huber=huber)
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
        rows = problem.rows(first, last)
        step = np.zeros((last - first, q))
        inverse = out.star_inverse[first:last]
        star_steps(rows, step, inverse)
        part = slice(int(problem.offsets[first]), int(problem.offsets[last]))
        contributions(rows, step, inverse, out.chi2[part], out.leverage[part])
        problem.move(first, last, step)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(one, star_blocks(problem)))
    return out


@dataclass
class FactorCache:
    """The factor of the last S of the same unknowns; None where it must be made anew."""

    factor: DenseFactor | SparseFactor | None = None


def minimize(
    problem: Problem,
    *,
    stars: bool = True,
    model: Flags | None = None,
    huber: float = 0.0,
    max_passes: int = 30,
    tolerance: float = 1e-6,
    cache: FactorCache | None = None,
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

    Returns
    -------
    passes
        How many passes over the measurements it took; ``max_passes`` means that it did not converge.

    Raises
    ------
    SingularFit
        The data leave parameters undetermined; the message names them.
    FloatingPointError
        Chi2 is not finite.
    """
    chosen = problem.fitted if model is None else problem.fitted & model
    index = np.flatnonzero(chosen)
    cache = FactorCache() if cache is None else cache
    last_gain, best, step = np.inf, np.inf, np.zeros(index.size)
    for passes in range(1, max_passes + 1):
        sums = _pass(problem, stars, cache.factor is None and index.size > 0, huber)
        if not np.isfinite(sums.chi2):
            raise FloatingPointError(f"chi2 is {sums.chi2}: NaN or infinite measurements or errors")
        if not index.size:
            return passes
        worse = problem.guarded and sums.objective > _WORSE * best + 1.0
        if worse and np.any(step):  # too far: the maps are products of parameters
            problem.parameters[index] += 0.75 * step
            step *= 0.25
            cache.factor = None
            continue
        best = min(best, sums.objective)
        sums.gradient += problem.known * (problem.parameters - problem.expected)
        factor = cache.factor
        if sums.reduced is not None or factor is None:
            factor = cache.factor = _factor(problem, sums, index)
        right = sums.gradient[index]
        step = factor.solve(right)
        gain = float(right @ step)
        problem.parameters[index] -= step
        if gain <= tolerance * max(sums.chi2, 1.0):
            return passes
        if sums.reduced is None and gain > 0.3 * last_gain:
            cache.factor = None
        last_gain = gain
    if problem.guarded and np.any(step) and not _pass(problem, stars, False, huber).objective <= _WORSE * best + 1.0:
        problem.parameters[index] += step  # the last step was not proved, and is no good
    return max_passes


def _factor(problem: Problem, sums: Sums, index: I64) -> DenseFactor | SparseFactor:
    """Return the factor of S for the parameters of `index`."""
    reduced = sums.matrix()
    if problem.parameters.size > DENSE_LIMIT:
        return SparseFactor(reduced, sums.sparse, index, problem.known)
    matrix = reduced.matrix()
    matrix[np.diag_indices_from(matrix)] += problem.known
    if index.size < matrix.shape[0]:
        matrix = matrix[np.ix_(index, index)]
    return DenseFactor(matrix, problem.name, index)
