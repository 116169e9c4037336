"""A Gaussian process of displacements, predicted on a grid."""

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from calibration.joint.atmosphere.kernel import Kernel, covariance, predicted
from exposure.wcs.displacement import DisplacementGrid
from tasks.arrays import F64, I64

__all__ = ["predict", "predict_grid"]

_TILE = 400  # stars of a tile
_MOST = 1000  # stars that a tile is predicted from
_STEP = 0.6  # of the smallest scale
_STEPS = (10.0, 120.0)  # arcsec between nodes, least and most
_NODES = 100_000
_BORDER = 2  # nodes around the stars


def predict(points: F64, displacement: F64, variance: F64, kernel: Kernel, places: F64) -> F64:
    """Return the most probable field at places (M, 2), arcsec, given displacements (N, 2) of stars at points (N, 2).

    The plane is split into tiles of at most 400 stars; each is predicted from its own stars and those around it, so that cost
    grows with the number of stars.

    Parameters
    ----------
    variance
        (N,) of the noise of each displacement per axis, arcsec^2.

    Returns
    -------
    field
        (M, 2) arcsec.
    """
    out = np.zeros(places.shape)
    for stars, part in _tiles(points, places):
        if part.size:
            near = _around(points, variance, stars)
            out[part] = _predict(points[near], displacement[near], variance[near], kernel, places[part])
    return out


def predict_grid(points: F64, displacement: F64, variance: F64, kernel: Kernel) -> DisplacementGrid:
    """Return the field that `predict` gives on a grid around the stars, about two nodes for its smallest scale."""
    low, high = points.min(0), points.max(0)
    step = float(np.clip(_STEP * kernel.scales.min(), *_STEPS))
    step = max(step, float(np.sqrt(np.prod(high - low) / _NODES)))
    first = low - _BORDER * step
    nx, ny = (int(n) for n in np.ceil((high - low) / step) + 2 * _BORDER + 1)
    gx, gy = np.meshgrid(first[0] + step * np.arange(nx), first[1] + step * np.arange(ny))
    values = predict(points, displacement, variance, kernel, np.column_stack([gx.ravel(), gy.ravel()]))
    return DisplacementGrid((float(first[0]), float(first[1])), step, values.T.reshape(2, ny, nx).copy())


def _tiles(points: F64, places: F64) -> list[tuple[I64, I64]]:
    """Split the plane at medians until no part has more than 400 stars: their indices and those of the places in it."""
    out: list[tuple[I64, I64]] = []
    left = [(np.arange(len(points)), np.arange(len(places)))]
    while left:
        stars, part = left.pop()
        if stars.size <= _TILE:
            out.append((stars, part))
            continue
        axis = int(np.argmax(np.ptp(points[stars], axis=0)))
        cut = np.median(points[stars, axis])
        below, under = points[stars, axis] < cut, places[part, axis] < cut
        if not below.any():  # most of them in one place: no cut parts them
            out.append((stars, part))
            continue
        left += [(stars[below], part[under]), (stars[~below], part[~under])]
    return out


def _around(points: F64, variance: F64, stars: I64) -> I64:
    """Return a tile's stars and those within half of its size of it; of too many the most precise."""
    low, high = points[stars].min(0), points[stars].max(0)
    margin = 0.5 * (high - low).max()
    near = np.flatnonzero(((points >= low - margin) & (points <= high + margin)).all(1))
    if near.size > _MOST:
        near = np.sort(near[np.argsort(variance[near], kind="stable")[:_MOST]])
    return near


def _predict(points: F64, displacement: F64, variance: F64, kernel: Kernel, places: F64) -> F64:
    """Return the field (M, 2) at places (M, 2)."""
    matrix = np.zeros((2 * len(points), 2 * len(points)), order="F")
    covariance(points, variance, kernel, matrix)
    solved = cho_solve(cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False), displacement.ravel())
    out = np.empty(places.shape)
    predicted(points, np.ascontiguousarray(solved.reshape(-1, 2)), kernel, places, out)
    return out
