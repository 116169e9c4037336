"""Glint trails: rows of point-like flashes of a tumbling satellite, found as lines of many positive sources."""

from typing import Any

import numpy as np
import pandas as pd

from tasks.arrays import F64, Flags
from tasks.compiled import compiled

__all__ = ["find_glint_trails"]

RADIUS = 500.0  # px
MIN_POINTS = 5
MAX_RESIDUAL = 3.0  # px, rms
MAX_SOURCES = 3000


@compiled
def _lines(x: Any, y: Any, radius: float, residual: float, least: int, out: Any) -> None:
    """Number the sources of each line through two of them that holds enough others; larger lines win."""
    n = x.shape[0]
    size = np.zeros(n, np.int64)
    member = np.zeros(n, np.int64)
    label = 0
    for i in range(n):
        for j in range(i + 1, n):
            dx, dy = x[j] - x[i], y[j] - y[i]
            length = np.hypot(dx, dy)
            if length > 2 * radius or length < 2 * residual:
                continue
            cx, cy = 0.5 * (x[i] + x[j]), 0.5 * (y[i] + y[j])
            count = 0
            square = 0.0
            for k in range(n):
                if np.hypot(x[k] - cx, y[k] - cy) > radius:
                    continue
                off = ((x[k] - x[i]) * dy - (y[k] - y[i]) * dx) / length
                if abs(off) <= 2 * residual:
                    member[count] = k
                    count += 1
                    square += off * off
            if count >= least and square <= count * residual * residual:
                label += 1
                for m in range(count):
                    if count > size[member[m]]:
                        size[member[m]] = count
                        out[member[m]] = label


def find_glint_trails(
    sources: pd.DataFrame, radius: float = RADIUS, least: int = MIN_POINTS, residual: float = MAX_RESIDUAL
) -> tuple[Flags, pd.DataFrame]:
    """Return which sources lie on a trail, and the trails.

    Parameters
    ----------
    sources
        x, y, isDipole, isNegative; dipoles and negative sources take no part.
    radius
        A trail lies within that many px of its middle.
    least
        Fewest sources of a trail, over what chance puts on a line in a field as dense as this.
    residual
        Largest rms distance from the line, px.

    Returns
    -------
    flags : shape (N,)
        ``glint_trail``.
    trails : `pandas.DataFrame`
        slope, intercept, slopeErr, length (px), angle (rad), n.
    """
    flags = np.zeros(len(sources), np.bool_)
    empty = pd.DataFrame({c: np.zeros(0) for c in ("slope", "intercept", "slopeErr", "length", "angle", "n")})
    usable = np.flatnonzero(~(sources.isDipole.to_numpy(bool) | sources.isNegative.to_numpy(bool)))
    if not least <= usable.size <= MAX_SOURCES:
        return flags, empty
    x, y = (sources[c].to_numpy(np.float64)[usable] for c in ("x", "y"))
    label = np.zeros(usable.size, np.int64)
    _lines(x, y, radius, residual, max(least, least + _by_chance(x, y, radius, residual)), label)
    kept = [k for k in np.unique(label[label > 0]) if (label == k).sum() >= least]
    flags[usable[np.isin(label, kept)]] = True
    return flags, pd.DataFrame([_line(x[label == k], y[label == k]) for k in kept]) if kept else empty


def _by_chance(x: F64, y: F64, radius: float, residual: float) -> int:
    """How many sources a strip of this length and width holds by chance, and five times the root of that."""
    area = max(float(np.ptp(x) * np.ptp(y)), (2 * radius) ** 2)
    expected = x.size / area * 2 * radius * 4 * residual
    return int(expected + 5 * np.sqrt(expected))


def _line(x: F64, y: F64) -> dict[str, float]:
    """Least-squares line, along its principal axis."""
    cx, cy = x.mean(), y.mean()
    _, values, axes = np.linalg.svd(np.column_stack([x - cx, y - cy]), full_matrices=False)
    dx, dy = axes[0]
    along = (x - cx) * dx + (y - cy) * dy
    angle = float(np.arctan2(dy, dx))
    slope = float(np.tan(angle))
    error = float(values[1] / np.sqrt(max(x.size - 2, 1)) / values[0] * (1 + slope**2))
    return {
        "slope": slope,
        "intercept": float(cy - slope * cx),
        "slopeErr": error,
        "length": float(np.ptp(along)),
        "angle": angle,
        "n": float(x.size),
    }
