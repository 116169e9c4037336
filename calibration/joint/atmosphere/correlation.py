"""How displacements of neighbouring stars go together, and the covariance that has it so.

Noise of different stars is independent: products of two stars' displacements average to the field's covariance, without any
knowledge of the noise.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from calibration.joint.atmosphere.kernel import Kernel, mixture
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["Correlation", "correlate", "fit_kernel", "two_point"]

_SECTORS = 6  # of half a turn
_RINGS = 12
_MOST = 5000  # stars whose pairs are taken
_LEAST = 40  # stars
_RATIOS = (1.0, 0.7, 0.5, 0.35)  # of the axes of the covariance
_TURNS = 8
_SMALLEST = 0.7  # scale, in typical distances of neighbours
_GROWTH = 1.7  # from one scale to the next
_SIGNIFICANT = 45.0  # gain of chi2 over no field at all


@dataclass(frozen=True)
class Correlation:
    """Means over pairs of stars, in B bins of their separation.

    Parameters
    ----------
    separation
        (B, 2) mean separation, arcsec.
    products
        (B, 3) weighted means of the products of displacements: xx, xy, yy, arcsec^2.
    weight
        (B,) inverse variance of each.
    """

    separation: F64
    products: F64
    weight: F64


def correlate(points: F64, displacement: F64, variance: F64) -> Correlation:
    """Return the correlation of displacements (N, 2) of stars at points (N, 2), whose noise has the variance (N,)."""
    field = max(float((displacement**2).mean(1)[variance <= np.median(variance)].mean() - np.median(variance)), 0.0)
    if len(points) > _MOST:
        best = np.sort(np.argsort(variance, kind="stable")[:_MOST])
        points, displacement, variance = points[best], displacement[best], variance[best]
    weight = 1.0 / (variance + field)
    spacing = _spacing(points)
    rings = np.geomspace(0.5 * spacing, max(0.5 * np.ptp(points, axis=0).max(), spacing), _RINGS)
    sums = np.zeros((_RINGS, _SECTORS, 6))
    _add_pairs(np.ascontiguousarray(points), np.ascontiguousarray(displacement), weight, rings**2, sums)
    flat = sums.reshape(-1, 6)
    flat = flat[flat[:, 0] > 0]
    means = flat[:, 1:] / flat[:, :1]
    return Correlation(means[:, :2], means[:, 2:], flat[:, 0])


def _spacing(points: F64) -> float:
    """Return the typical distance of neighbouring points (N, 2)."""
    return float(np.sqrt(np.prod(np.maximum(np.ptp(points, axis=0), 1e-6)) / len(points)))


@compiled
def _add_pairs(points: F64, values: F64, weight: F64, squares: F64, sums: F64) -> None:
    """Add all pairs to the ring and sector that they are in: weight, separation, products."""
    for i in range(len(points)):
        for j in range(i):
            dx, dy = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1]
            square = dx * dx + dy * dy
            ring = np.searchsorted(squares, square)
            if ring == squares.size:
                continue
            if dy < 0.0 or (dy == 0.0 and dx < 0.0):
                dx, dy = -dx, -dy
            sector = min(int(np.arctan2(dy, dx) / np.pi * sums.shape[1]), sums.shape[1] - 1)
            w = weight[i] * weight[j]
            cell = sums[ring, sector]
            cell[0] += w
            cell[1] += w * dx
            cell[2] += w * dy
            cell[3] += w * values[i, 0] * values[j, 0]
            cell[4] += w * 0.5 * (values[i, 0] * values[j, 1] + values[i, 1] * values[j, 0])
            cell[5] += w * values[i, 1] * values[j, 1]


def fit_kernel(points: F64, displacement: F64, variance: F64) -> Kernel | None:
    """Return the covariance of the field that stars at points (N, 2), arcsec, are displaced by (N, 2), arcsec.

    Powers are fitted to the correlation under the condition that none is negative, for each of a few shapes; the best shape
    wins. `variance` (N,) is that of the noise. None where the correlation is no more than noise makes, or stars are too few.
    """
    from scipy.optimize import nnls  # takes a third of a second to load, and few fits model the atmosphere

    if len(points) < _LEAST:
        return None
    measured = correlate(points, displacement, variance)
    if len(measured.weight) < _RINGS:
        return None
    distance = np.hypot(*measured.separation.T)
    least = _SMALLEST * _spacing(points)  # below it, stars tell nothing of their neighbours
    count = max(1, int(np.ceil(np.log(distance.max() / least) / np.log(_GROWTH))))
    scales = np.asarray(least * _GROWTH ** np.arange(count), np.float64)
    root = np.sqrt(np.repeat(measured.weight[:, None], 3, axis=1) * np.array([1.0, 2.0, 1.0]))
    target = (measured.products * root).ravel()
    best, fewest = None, float(target @ target) - _SIGNIFICANT
    for ratio, turn in product(_RATIOS, range(_TURNS)):
        if ratio == 1.0 and turn:
            continue
        metric = _metric(ratio, np.pi * turn / _TURNS)
        design = mixture(measured.separation, scales, metric) * root[:, :, None]
        powers, miss = nnls(design.reshape(-1, scales.size), target)
        if miss**2 < fewest:
            used = powers > 1e-6 * powers.max()
            best, fewest = Kernel(scales[used], powers[used], metric), miss**2
    return best


def _metric(ratio: float, angle: float) -> F64:
    """Return M for Gaussians whose minor axis is `ratio` of the major one, which lies at an angle (radians)."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.asarray(turn @ np.diag([ratio, 1.0 / ratio]) @ turn.T)


def two_point(points: F64, displacement: F64, variance: F64, group: I64, below: float) -> tuple[float, float, int]:
    """Return the mean product (arcsec^2, per axis) of displacements of pairs closer than `below` arcsec, its error, and the
    number of pairs.

    Points (N, 2), displacements (N, 2) and the variance of their noise (N,); pairs are of one `group` (N,).
    """
    from scipy.spatial import cKDTree

    apart = np.column_stack([points, group * (10.0 * below + np.ptp(points, axis=0).max() if len(points) else 1.0)])
    pairs = cKDTree(apart).query_pairs(below, output_type="ndarray") if len(points) else np.zeros((0, 2), np.int64)
    if not len(pairs):
        return float("nan"), float("nan"), 0
    i, j = pairs.T
    typical = float(np.median((displacement**2).mean(1)))
    weight = 1.0 / ((variance[i] + typical) * (variance[j] + typical))
    mean = (displacement[i] * displacement[j]).mean(1)
    total = weight.sum()
    value = float((weight * mean).sum() / total)
    error = float(np.sqrt((weight**2 * (mean - value) ** 2).sum()) / total)
    return value, error, len(pairs)
