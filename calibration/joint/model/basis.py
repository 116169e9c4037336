"""Chebyshev polynomials of limited total degree in two variables: values and fits.

Terms are ordered by row: all T_i(u) T_0(v), then T_i(u) T_1(v), and so on with i + j <= order.
"""

import numpy as np

from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["design", "fit_terms", "n_terms", "order_by_evidence", "square_nodes", "term_degrees", "terms"]

_NODES = 8

# of the order of a map that its stars ask for
_STARS_PER_TERM = 1.5
_LEAST_STARS = 8
_BETTER = 0.5  # of the error at the lower order: less is no evidence


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


def square_nodes() -> tuple[F64, F64]:
    """Return the Chebyshev nodes of a square, u and v of each."""
    nodes = np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)
    u, v = (a.ravel() for a in np.meshgrid(nodes, nodes))
    return u, v


def fit_terms(order: int, u: F64, v: F64, values: F64) -> F64:
    """Return the coefficients (n_terms, ...) of the least-squares fit to values (N, ...) at points u, v (N,)."""
    return np.asarray(np.linalg.lstsq(design(order, u, v), values, rcond=None)[0], np.float64)


def order_by_evidence(points: F64, off: F64, least: int, most: int) -> int:
    """Return the order of a map: `least`, or a higher one that predicts its stars better.

    Few sources hold few terms; the others stay as the input WCS has them. Where that is a plain tangent plane under a camera
    with distortion, what is held is wrong by more than noise, and the stars that have a reference star say so: each is
    predicted from the others (leave one out, by the diagonal of the hat matrix; Allen 1974, Technometrics 16, 125).

    Parameters
    ----------
    points
        (N, 2) where stars with a reference star lie in the map's domain.
    off
        (N, 2) arcsec by which the start of the map misses them.
    least, most
        Orders that are possible.
    """
    if len(points) < _LEAST_STARS:
        return least
    best, error = least, _prediction_error(points, off, least)
    for order in range(least + 1, most + 1):
        if _STARS_PER_TERM * n_terms(order) > len(points):
            break
        order_error = _prediction_error(points, off, order)
        if order_error < _BETTER * error:
            best, error = order, order_error
    return best


def _prediction_error(points: F64, off: F64, order: int) -> float:
    """Return the median distance (arcsec per axis) of stars from what all others predict, by maps of an order."""
    basis = design(order, points[:, 0], points[:, 1])[:, term_degrees(order).sum(1) <= order]
    q, _ = np.linalg.qr(basis)
    left = off - q @ (q.T @ off)
    hat = (q**2).sum(1)
    return float(np.median(np.abs(left) / np.maximum(1.0 - hat, 0.05)[:, None]))
