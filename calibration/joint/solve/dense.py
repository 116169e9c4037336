"""The reduced system of up to some thousand model parameters: S dense."""

from collections.abc import Callable

import numpy as np
import scipy.linalg

from calibration.errors import SingularFit
from tasks.arrays import F64, I64, Flags

__all__ = ["DenseFactor"]

_LEAST_PIVOT = 1e-13  # of a matrix scaled to a unit diagonal: less is rounding


class DenseFactor:
    """Cholesky factor of S (P, P), scaled to a unit diagonal.

    Parameters
    ----------
    names
        Says what a parameter is.
    index
        (P,) parameters that the columns are of.

    Raises
    ------
    SingularFit
        S is singular; the message names the parameters that it leaves free.
    """

    def __init__(self, matrix: F64, names: Callable[[int], str], index: I64) -> None:
        diagonal = np.diag(matrix).copy()
        dead = ~(diagonal > 0)
        if dead.any():
            raise _singular(index[dead], names)
        self.scale = 1.0 / np.sqrt(diagonal)
        scaled = matrix * self.scale[:, None] * self.scale[None, :]
        try:
            self.factor = scipy.linalg.cho_factor(scaled, lower=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise _singular(index[_loose(scaled)], names) from error
        # whether rounding makes a pivot that should be zero negative is up to the processor and the number of threads
        if (np.diag(self.factor[0]) ** 2).min(initial=1.0) < _LEAST_PIVOT:
            raise _singular(index[_loose(scaled)], names)

    def solve(self, right: F64) -> F64:
        """Return S^-1 right, shape (P,)."""
        return np.asarray(
            self.scale * scipy.linalg.cho_solve(self.factor, self.scale * right, check_finite=False), np.float64
        )

    def spread(self, signs: F64) -> F64:
        """Return L^-T `signs` (P, R), S = L L^T: numbers whose covariance is S^-1 where that of the signs is 1."""
        solved = scipy.linalg.solve_triangular(self.factor[0], signs, trans="T", lower=True, check_finite=False)
        return np.asarray(self.scale[:, None] * solved, np.float64)


def _loose(scaled: F64) -> Flags:
    """Return which columns (P,) of a singular matrix, scaled to a unit diagonal, nothing holds."""
    values, vectors = np.linalg.eigh(scaled)
    loose = np.abs(vectors[:, values < max(1e-12, 1e-14 * values[-1])]).max(1, initial=0.0)
    worst = loose if loose.any() else np.abs(vectors[:, 0])
    return np.asarray(worst > 0.3 * worst.max())


def _singular(index: I64, names: Callable[[int], str]) -> SingularFit:
    listed = ", ".join(names(int(i)) for i in index[:8]) + (f" and {len(index) - 8} more" if len(index) > 8 else "")
    return SingularFit(
        f"the data do not determine these parameters: {listed}; use a simpler model, more visits or more reference stars"
    )
