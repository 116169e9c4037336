"""Covariance of a curl-free displacement field: the gradient of a random potential.

Turbulence bends light along the gradient of the optical path, so that the field has no curl (Fortino et al. 2021, AJ 162,
106; Léget et al. 2021, A&A 650, A81). The potential's covariance is a mixture of Gaussians of the separation d,
``sum_k p_k l_k^2 exp(-d'Md / (2 l_k^2))``, with scales that grow by a constant factor: such mixtures follow the power laws of
a von Karman spectrum, and stay positive definite whatever the powers p_k >= 0. M (determinant 1) is the anisotropy that wind
leaves during the exposure. The field's covariance is minus the matrix of second derivatives:
``sum_k p_k (M - (Md)(Md)' / l_k^2) exp(-d'Md / (2 l_k^2))``.
"""

from typing import NamedTuple

import numpy as np

from tasks.arrays import F64
from tasks.compiled import compiled

__all__ = ["Kernel", "covariance", "mixture", "predicted"]

_FAR = 40.0  # of d'Md / l^2: nothing is left


class Kernel(NamedTuple):
    """A covariance; compiled code takes it as one.

    Parameters
    ----------
    scales
        (K,) arcsec.
    powers
        (K,) arcsec^2: the variance along an axis where M is the unit matrix.
    metric
        (2, 2) M.
    """

    scales: F64
    powers: F64
    metric: F64


def mixture(separation: F64, scales: F64, metric: F64) -> F64:
    """Return the covariance of each scale (K,) for unit power at separations (B, 2): (B, 3, K), as xx, xy, yy."""
    moved = separation @ metric
    square = (separation * moved).sum(1)[:, None] / scales**2
    shape = np.stack([metric[0, 0] + 0 * scales, metric[0, 1] + 0 * scales, metric[1, 1] + 0 * scales])
    outer = np.stack([moved[:, 0] ** 2, moved[:, 0] * moved[:, 1], moved[:, 1] ** 2], 1)
    return np.asarray((shape[None] - outer[:, :, None] / scales**2) * np.exp(-0.5 * square)[:, None])


@compiled(inline=True)
def _between(dx: float, dy: float, kernel: Kernel) -> tuple[float, float, float]:
    """Return xx, xy, yy of the covariance at a separation."""
    m = kernel.metric
    mx, my = m[0, 0] * dx + m[0, 1] * dy, m[0, 1] * dx + m[1, 1] * dy
    square = dx * mx + dy * my
    xx = xy = yy = 0.0
    for k in range(kernel.scales.size):
        inverse = 1.0 / (kernel.scales[k] * kernel.scales[k])
        if square * inverse > _FAR:
            continue
        height = kernel.powers[k] * np.exp(-0.5 * square * inverse)
        xx += height * (m[0, 0] - mx * mx * inverse)
        xy += height * (m[0, 1] - mx * my * inverse)
        yy += height * (m[1, 1] - my * my * inverse)
    return xx, xy, yy


@compiled
def covariance(points: F64, variance: F64, kernel: Kernel, out: F64) -> None:
    """Write the covariance (2N, 2N) of noisy displacements at points (N, 2), x and y of each point beside each other.

    `variance` (N,) is that of the noise per axis, arcsec^2. The lower triangle is written.
    """
    for i in range(len(points)):
        for j in range(i + 1):
            xx, xy, yy = _between(points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], kernel)
            out[2 * i, 2 * j], out[2 * i, 2 * j + 1] = xx, xy
            out[2 * i + 1, 2 * j], out[2 * i + 1, 2 * j + 1] = xy, yy
        out[2 * i, 2 * i] += variance[i]
        out[2 * i + 1, 2 * i + 1] += variance[i]


@compiled
def predicted(points: F64, solved: F64, kernel: Kernel, places: F64, out: F64) -> None:
    """Write the field (M, 2) at places (M, 2) from points (N, 2) and the solution (N, 2) of their covariance's equations."""
    for m in range(len(places)):
        x = y = 0.0
        for j in range(len(points)):
            xx, xy, yy = _between(places[m, 0] - points[j, 0], places[m, 1] - points[j, 1], kernel)
            x += xx * solved[j, 0] + xy * solved[j, 1]
            y += xy * solved[j, 0] + yy * solved[j, 1]
        out[m, 0], out[m, 1] = x, y
