"""The order of a map, told by its stars: the lowest that its sources are many enough for, or a higher one that predicts better.

Few sources hold few terms; the others stay as the input WCS has them. Where that is a plain tangent plane under a camera
with distortion, what is held is wrong by more than noise, and the stars that have a reference star say so: each is predicted
from the others (leave one out, by the diagonal of the hat matrix; Allen 1974, Technometrics 16, 125).
"""

import numpy as np

from calibration.joint.model.basis import design, n_terms, term_degrees
from tasks.arrays import F64

__all__ = ["order_by_evidence"]

_STARS_PER_TERM = 1.5
_LEAST_STARS = 8
_BETTER = 0.5  # of the error at the lower order: less is no evidence


def order_by_evidence(points: F64, off: F64, least: int, most: int) -> int:
    """Return the order of the map, `least` or higher.

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
        found = _prediction_error(points, off, order)
        if found < _BETTER * error:
            best, error = order, found
    return best


def _prediction_error(points: F64, off: F64, order: int) -> float:
    """Return the median distance (arcsec per axis) of stars from what all others predict, by maps of an order."""
    basis = design(order, points[:, 0], points[:, 1])[:, term_degrees(order).sum(1) <= order]
    q, _ = np.linalg.qr(basis)
    left = off - q @ (q.T @ off)
    hat = (q**2).sum(1)
    return float(np.median(np.abs(left) / np.maximum(1.0 - hat, 0.05)[:, None]))
