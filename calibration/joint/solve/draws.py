"""What the errors of a model's parameters do to the stars and images of a fit: told by draws of the parameters.

The covariance of the parameters is S^-1 after elimination of the stars, P x P numbers; what it makes of a star or of a place
on an image is a quadratic form. Draws d = L^-T z of S = L L^T, z of random signs, have that covariance, and the mean square
of what they move is an unbiased estimate of the form (Hutchinson 1990, Commun. Stat. Simul. 19, 433) at the cost of a few
products of matrices. With 64 draws an error is known to 9 %; the signs are always the same ones.
"""

import numpy as np

from calibration.joint.model.rows import Rows
from calibration.joint.solve.elimination import star_steps
from calibration.joint.solve.minimize import normal_factor, star_blocks
from calibration.joint.solve.problem import Fittable
from exposure.threads import in_threads
from tasks.arrays import F64
from tasks.compiled import compiled

__all__ = ["displacements", "parameter_draws", "star_covariances", "taken_degrees"]

_DRAWS = 64
_SEED = 20260


def parameter_draws(problem: Fittable) -> F64 | None:
    """Return draws (P, R) of the errors of all parameters at the end of a fit, zero for those that are held.

    None where the reduced matrix is kept sparse: its factor has no triangles to solve with one by one.
    """
    factor, index = normal_factor(problem)
    if factor is None:
        return None
    signs = np.random.default_rng(_SEED).choice(np.array([-1.0, 1.0]), (index.size, _DRAWS))
    out = np.zeros((problem.parameters.size, _DRAWS))
    out[index] = factor.spread(signs)
    return out


def taken_degrees(problem: Fittable, draws: F64 | None) -> int:
    """Return how many degrees of freedom the data lose to parameters that are firm: each as far as the data, and not what was
    expected of it, tell it (MacKay 1992, Neural Computation 4, 415); all of each without draws.
    """
    of = problem.firm & problem.fitted
    known = 0.0 if draws is None else float((problem.prior_weight[of] * (draws[of] ** 2).mean(1)).sum())
    return max(round(int(of.sum()) - known), 0)


def displacements(rows: Rows, draws: F64) -> F64:
    """Return how far the draws (P, R) of the parameters move the model at n measurements: (n, d, R)."""
    n, d, width = rows.model.shape
    out = np.empty((n, d, draws.shape[1]))
    order = np.argsort(rows.group, kind="stable")
    names, first = np.unique(rows.group[order], return_index=True)
    for part in np.split(order, first[1:]) if names.size else []:  # measurements of one image share their columns
        starts = rows.starts[part[0]]
        columns = np.concatenate(
            [start + np.arange(length) for start, length in zip(starts, rows.lengths, strict=True)]
        )
        moved = rows.model[part].reshape(-1, width) @ draws[columns]
        out[part] = moved.reshape(part.size, d, -1)
    return out


@compiled
def _pull(rows: Rows, draws: F64, out: F64) -> None:
    """Add A^T W J `draws` (P, R) of the measurements of each star to `out` (m, q, R)."""
    star, weight, model, offsets = rows.star, rows.weight, rows.model, rows.offsets
    d, q = star.shape[1], star.shape[2]
    factor = np.empty(d)
    for s in range(offsets.size - 1):
        for m in range(offsets[s], offsets[s + 1]):
            for a in range(q):
                for j in range(d):
                    factor[j] = 0.0
                    for i in range(d):
                        factor[j] += star[m, i, a] * weight[m, i, j]
                k = 0
                for run in range(rows.lengths.size):
                    for t in range(rows.lengths[run]):
                        coupling = 0.0
                        for j in range(d):
                            coupling += factor[j] * model[m, j, k]
                        k += 1
                        if coupling != 0.0:
                            column = rows.starts[m, run] + t
                            for r in range(draws.shape[1]):
                                out[s, a, r] += coupling * draws[column, r]


def star_covariances(problem: Fittable, draws: F64 | None) -> F64:
    """Return the covariances (M, q, q) of the stars: that of their own measurements, and what the model adds to it.

    With the stars' own matrix D and their coupling B to the model it is D^-1 + D^-1 B^T S^-1 B D^-1: the block of the inverse
    of the full normal matrix. Without draws the second term is left out.
    """
    m, q = problem.offsets.size - 1, problem.n_star
    out = np.zeros((m, q, q))

    def one(block: tuple[int, int]) -> None:
        first, last = block
        rows = problem.light(first, last).rows if draws is None else problem.rows(first, last)
        step, inverse = np.zeros((last - first, q)), np.zeros((last - first, q, q))
        star_steps(rows, step, inverse)
        out[first:last] = inverse
        if draws is not None and last > first:
            pulled = np.zeros((last - first, q, draws.shape[1]))
            _pull(rows, draws, pulled)
            shift = inverse @ pulled
            out[first:last] += shift @ shift.transpose(0, 2, 1) / draws.shape[1]

    in_threads(one, star_blocks(problem))
    return out
