"""Least squares with many stars: every star is eliminated exactly, blocks of whole stars add up.

The unknowns are the parameters of a model (hundreds to thousands) and those of the stars (1 to 4 each, millions).
A measurement touches one star and a few contiguous *runs* of model columns. With H = [[A, B], [B^T, D]] of the normal
equations and D block diagonal, the stars go by the Schur complement: S = A - B D^-1 B^T, g = g_p - B D^-1 g_s.
Blocks hold all measurements of their stars, so S and g are plain sums over blocks: they may be made anywhere.
"""

from dataclasses import dataclass

import numpy as np

from calibration.joint.model.rows import Rows
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["Reduced", "add_block", "contributions", "pulls", "soften", "star_steps"]


@dataclass
class Reduced:
    """The normal equations after elimination of the stars: sums over blocks.

    Parameters
    ----------
    groups
        (G, K, K) of A, group by group.
    columns
        (G, K) columns of each group, -1 where it has no measurement.
    schur
        (P, P) of B D^-1 B^T; None where stars are held, or S is kept sparse.
    gradient
        (P,).
    """

    groups: F64
    columns: I64
    schur: F64 | None
    gradient: F64

    @classmethod
    def empty(cls, n_groups: int, width: int, schur: F64 | None, gradient: F64) -> "Reduced":
        """Return sums of nothing, for groups of `width` columns; `schur` (P, P) and `gradient` (P,) are zero."""
        columns = np.full((n_groups, width), -1, np.int64)
        return cls(np.zeros((n_groups, width, width)), columns, schur, gradient)

    def matrix(self) -> F64:
        """Return S (P, P), dense and symmetric."""
        size = self.gradient.size
        out = np.zeros((size, size))
        _scatter(self.groups, self.columns, out)
        if self.schur is not None:
            out -= self.schur
        return out


@compiled
def _scatter(groups: F64, columns: I64, out: F64) -> None:
    """Add the groups' blocks (G, K, K) to a matrix (P, P)."""
    for g in range(groups.shape[0]):
        if columns[g, 0] < 0:
            continue
        for a in range(groups.shape[1]):
            row = columns[g, a]
            for b in range(groups.shape[2]):
                out[row, columns[g, b]] += groups[g, a, b]


@compiled
def _sum_star(s: int, rows: Rows, matrix: F64, right: F64) -> None:
    """Write the normal matrix (q, q) and the right side (q,) of one star for the model held."""
    residual, weight, star = rows.residual, rows.weight, rows.star
    d, q = residual.shape[1], star.shape[2]
    for a in range(q):
        right[a] = rows.pull[s, a]
        for b in range(q):
            matrix[a, b] = rows.prior[s, a, b]
    for m in range(rows.offsets[s], rows.offsets[s + 1]):
        for i in range(d):
            wr = 0.0
            for j in range(d):
                wr += weight[m, i, j] * residual[m, j]
            for a in range(q):
                right[a] += star[m, i, a] * wr
                for b in range(q):
                    wa = 0.0
                    for j in range(d):
                        wa += weight[m, i, j] * star[m, j, b]
                    matrix[a, b] += star[m, i, a] * wa


@compiled
def star_steps(rows: Rows, step: F64, inverse: F64) -> None:
    """Write each star's Newton step (m, q) and the inverse of its matrix (m, q, q); zero for a star without weight."""
    q = rows.star.shape[2]
    matrix = np.empty((q, q))
    right = np.empty(q)
    for s in range(rows.offsets.size - 1):
        _sum_star(s, rows, matrix, right)
        if not matrix[0, 0] > 0.0:
            step[s, :] = 0.0
            inverse[s, :, :] = 0.0
            continue
        if q == 1:
            inverse[s, 0, 0] = 1.0 / matrix[0, 0]
        elif q == 2:
            det = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
            if not det > 0.0:  # weights so small that they vanish: a map that ran away
                step[s, :] = 0.0
                inverse[s, :, :] = 0.0
                continue
            inverse[s, 0, 0] = matrix[1, 1] / det
            inverse[s, 1, 1] = matrix[0, 0] / det
            inverse[s, 0, 1] = inverse[s, 1, 0] = -matrix[0, 1] / det
        else:
            inverse[s] = np.linalg.inv(matrix)
        for a in range(q):
            total = 0.0
            for b in range(q):
                total -= inverse[s, a, b] * right[b]
            step[s, a] = total


@compiled
def pulls(rows: Rows, step: F64, pull: F64) -> float:
    """Write W (r + A step) (n, d) of each measurement after the stars made their steps (m, q); return their chi2."""
    residual, weight, star, offsets = rows.residual, rows.weight, rows.star, rows.offsets
    d, q = residual.shape[1], star.shape[2]
    moved = np.empty(d)
    chi2 = 0.0
    for s in range(offsets.size - 1):
        for m in range(offsets[s], offsets[s + 1]):
            for i in range(d):
                moved[i] = residual[m, i]
                for a in range(q):
                    moved[i] += star[m, i, a] * step[s, a]
            for i in range(d):
                wr = 0.0
                for j in range(d):
                    wr += weight[m, i, j] * moved[j]
                pull[m, i] = wr
                chi2 += moved[i] * wr
    return chi2


@compiled
def soften(rows: Rows, huber: float) -> float:
    """Scale weights by min(1, huber / distance) (Huber 1964); return what his loss has beyond the weighted chi2."""
    residual, weight = rows.residual, rows.weight
    d = residual.shape[1]
    excess = 0.0
    for m in range(residual.shape[0]):
        chi2 = 0.0
        for i in range(d):
            for j in range(d):
                chi2 += residual[m, i] * weight[m, i, j] * residual[m, j]
        if chi2 > huber * huber:
            distance = np.sqrt(chi2)
            excess += huber * (distance - huber)
            weight[m] *= huber / distance
    return excess


@compiled
def _cholesky(matrix: F64, root: F64) -> None:
    """Write the lower triangular root (q, q) of a positive semidefinite matrix."""
    for a in range(matrix.shape[0]):
        for b in range(a + 1):
            total = matrix[a, b]
            for c in range(b):
                total -= root[a, c] * root[b, c]
            if a == b:
                root[a, a] = np.sqrt(max(total, 0.0))
            else:
                root[a, b] = total / root[b, b] if root[b, b] > 0.0 else 0.0


@compiled
def _whiten(rows: Rows, out: F64) -> None:
    """Write L^T J (n, d, K) of each measurement, W = L L^T: its square is J^T W J."""
    weight, model = rows.weight, rows.model
    n, d, size = model.shape
    root = np.zeros((d, d))
    for m in range(n):
        _cholesky(weight[m], root)
        for i in range(d):
            for k in range(size):
                total = 0.0
                for j in range(i, d):
                    total += root[j, i] * model[m, j, k]
                out[m, i, k] = total


def _add_groups(rows: Rows, out: F64, columns: I64) -> None:
    """Add J^T W J of each measurement to its group's block (G, K, K); write the block's columns (G, K)."""
    n, d, size = rows.model.shape
    if not n:
        return
    white = np.empty((n, d, size))
    _whiten(rows, white)
    order = np.argsort(rows.group, kind="stable")
    names, first = np.unique(rows.group[order], return_index=True)
    flat: F64 = white[order].reshape(n * d, size)
    for g, a, b in zip(names, first, [*first[1:], n], strict=True):
        part = flat[a * d : b * d]
        out[g] += part.T @ part
    runs = [rows.starts[order[first], run][:, None] + np.arange(length) for run, length in enumerate(rows.lengths)]
    columns[names] = np.concatenate(runs, axis=1)


@compiled
def _couplings(rows: Rows, inverse: F64, position: I64, out: F64) -> None:
    """Write L^T A^T W J of the stars into dense rows (m q, columns in use); D^-1 = L L^T.

    `position` (P,) says which dense column a column of the model has.
    """
    weight, model, star = rows.weight, rows.model, rows.star
    starts, lengths = rows.starts, rows.lengths
    d, q = star.shape[1], star.shape[2]
    root = np.empty((q, q))
    left = np.empty((q, d))
    for s in range(rows.offsets.size - 1):
        if not inverse[s, 0, 0] > 0.0:
            continue
        _cholesky(inverse[s], root)
        for m in range(rows.offsets[s], rows.offsets[s + 1]):
            for a in range(q):
                for i in range(d):
                    total = 0.0
                    for b in range(a, q):
                        for j in range(d):
                            total += root[b, a] * star[m, j, b] * weight[m, j, i]
                    left[a, i] = total
            for a in range(q):
                for i in range(d):
                    factor = left[a, i]
                    if factor == 0.0:
                        continue
                    k = 0
                    for run in range(lengths.size):
                        first = position[starts[m, run]]
                        for t in range(lengths[run]):
                            out[s * q + a, first + t] += factor * model[m, i, k]
                            k += 1


@compiled
def _add_gradient(rows: Rows, pull: F64, out: F64) -> None:
    """Add J^T `pull` (n, d) to the gradient (P,)."""
    model, starts, lengths = rows.model, rows.starts, rows.lengths
    for m in range(model.shape[0]):
        for i in range(model.shape[1]):
            wr = pull[m, i]
            if wr == 0.0:
                continue
            k = 0
            for run in range(lengths.size):
                first = starts[m, run]
                for t in range(lengths[run]):
                    out[first + t] += model[m, i, k] * wr
                    k += 1


def add_block(rows: Rows, inverse: F64, pull: F64, into: Reduced) -> None:
    """Add one block to the reduced normal equations.

    Parameters
    ----------
    inverse
        (m, q, q) of its stars.
    pull
        (n, d) of its measurements, see `pulls`.
    """
    _add_gradient(rows, pull, into.gradient)
    _add_groups(rows, into.groups, into.columns)
    if into.schur is None or not len(rows.residual):
        return
    used = np.zeros(into.gradient.size, bool)
    for run, length in enumerate(rows.lengths):
        first = np.unique(rows.starts[:, run])
        used[(first[:, None] + np.arange(length)).ravel()] = True
    position = np.cumsum(used) - 1
    dense = np.zeros((inverse.shape[0] * inverse.shape[1], int(used.sum())))
    _couplings(rows, inverse, position.astype(np.int64), dense)
    columns = np.flatnonzero(used)
    into.schur[np.ix_(columns, columns)] += dense.T @ dense


@compiled
def contributions(rows: Rows, step: F64, inverse: F64, chi2: F64, leverage: F64) -> None:
    """Write each measurement's chi2 (n,) after the star's step, and its leverage (n,): the share that its star took."""
    residual, weight, star, offsets = rows.residual, rows.weight, rows.star, rows.offsets
    d, q = residual.shape[1], star.shape[2]
    moved = np.empty(d)
    for s in range(offsets.size - 1):
        for m in range(offsets[s], offsets[s + 1]):
            for i in range(d):
                moved[i] = residual[m, i]
                for a in range(q):
                    moved[i] += star[m, i, a] * step[s, a]
            total = 0.0
            trace = 0.0
            for i in range(d):
                for j in range(d):
                    total += moved[i] * weight[m, i, j] * moved[j]
                    for a in range(q):
                        for b in range(q):
                            trace += weight[m, i, j] * star[m, j, a] * inverse[s, a, b] * star[m, i, b]
            chi2[m] = total
            leverage[m] = trace / d
