"""Chebyshev polynomials of limited total degree in two variables: values and fits.

Terms are ordered by row: all T_i(u) T_0(v), then T_i(u) T_1(v), and so on with i + j <= order.
"""

import numpy as np

from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["design", "fit_terms", "n_terms", "term_degrees", "terms"]


def n_terms(order: int) -> int:
    """Return how many terms have total degree <= order; 0 for order -1."""
    return (order + 1) * (order + 2) // 2


def term_degrees(order: int) -> I64:
    """Return the degrees (i in u, j in v) of the terms, shape (n_terms, 2)."""
    return np.array([(i, j) for j in range(order + 1) for i in range(order + 1 - j)], np.int64).reshape(-1, 2)


@compiled
def _series(order: int, u: float, t: F64) -> None:
    """Write the Chebyshev polynomials (order + 1,) of one variable."""
    t[0] = 1.0
    if order > 0:
        t[1] = u
    for i in range(2, order + 1):
        t[i] = 2.0 * u * t[i - 1] - t[i - 2]


@compiled
def terms(order: int, u: float, v: float, values: F64, work: F64) -> None:
    """Write the terms (n_terms,) at one point; `work` is (2, order + 1)."""
    _series(order, u, work[0])
    _series(order, v, work[1])
    k = 0
    for j in range(order + 1):
        for i in range(order + 1 - j):
            values[k] = work[0, i] * work[1, j]
            k += 1


def design(order: int, u: F64, v: F64) -> F64:
    """Return the terms at many points, shape (N, n_terms)."""
    tu = np.polynomial.chebyshev.chebvander(np.asarray(u, np.float64).ravel(), max(order, 0))
    tv = np.polynomial.chebyshev.chebvander(np.asarray(v, np.float64).ravel(), max(order, 0))
    degrees = term_degrees(order)
    return np.asarray(tu[:, degrees[:, 0]] * tv[:, degrees[:, 1]], np.float64)


def fit_terms(order: int, u: F64, v: F64, values: F64) -> F64:
    """Return the coefficients (n_terms, ...) of the least-squares fit to values (N, ...) at points u, v (N,)."""
    return np.asarray(np.linalg.lstsq(design(order, u, v), values, rcond=None)[0], np.float64)
