"""The optional DiaObject statistics, as group operations over all sources: names and definitions of the published plugins.

Their columns are not in the database; they are for people who ask for them by name (``summarize(plugins="all")``).
"""

from collections.abc import Callable
from typing import Any, Protocol

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb.sky.htm import HTM_LEVEL, htm_ids
from association.statistics.groups import Groups
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["BAND_PLUGINS", "OBJECT_PLUGINS", "renew", "turned_sums"]

Cells = I64  # object and band of each row
MIN_PERIOD_POINTS = 5
OVERSAMPLING, NYQUIST_FACTOR = 5, 100
RENEWAL = 512  # frequencies after which sines are computed anew
STETSON_STEPS, STETSON_TOLERANCE = 20, 1e-6


class Columns(Protocol):
    """Columns by name, rows in order of cell and time."""

    def __getitem__(self, name: str) -> F64:
        """Return a column as float64."""
        ...


def _percentiles(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Linear-interpolated percentiles of psfFlux."""
    g = Groups(cells, count, f=s["psfFlux"])
    percents = (5, 25, 50, 75, 95)
    quantiles = g.quantiles(g["f"], *(p / 100 for p in percents))
    return {f"psfFluxPercentile{p:02d}": quantiles[k] for k, p in enumerate(percents)}


def _chi2(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Sum of squared normalised deviations from psfFluxMean (0 without data, as a sum of nothing)."""
    g = Groups(cells, count, f=s["psfFlux"], e=s["psfFluxErr"])
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"psfFluxChi2": g.sum(((g["f"] - g.per_row(mean)) / g["e"]) ** 2)}


def _mad(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Median absolute deviation from the median, unscaled."""
    g = Groups(cells, count, f=s["psfFlux"])
    middle = g.quantiles(g["f"], 0.5)[0]
    return {"psfFluxMAD": g.quantiles(np.abs(g["f"] - g.per_row(middle)), 0.5)[0]}


def _skew(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Bias-corrected sample skewness (Fisher-Pearson); NaN below three points, 0 without scatter."""
    g = Groups(cells, count, f=s["psfFlux"])
    d = g["f"] - g.per_row(g.mean(g["f"]))
    m2, m3, n = g.sum(d**2), g.sum(d**3), g.n.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = n * np.sqrt(n - 1) / (n - 2) * m3 / m2**1.5
    return {"psfFluxSkew": g.where(n >= 3, np.where(m2 == 0, 0.0, value))}


def _linear_fit(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Weighted straight line of psfFlux over MJD: slope and intercept at MJD 0; NaN below two points or without a baseline."""
    g = Groups(cells, count, f=s["psfFlux"], e=s["psfFluxErr"], t=s["midpointMjdTai"])
    with np.errstate(divide="ignore", invalid="ignore"):
        w = 1 / g["e"] ** 2
        total = g.sum(w)
        # about the weighted means: on absolute MJD the sums would cancel
        t0, f0 = g.sum(w * g["t"]) / total, g.sum(w * g["f"]) / total
        dt, df = g["t"] - g.per_row(t0), g["f"] - g.per_row(f0)
        width = g.sum(w * dt * dt)
        slope = g.where((g.n >= 2) & (width > 0), g.sum(w * dt * df) / width)
    return {"psfFluxLinearSlope": slope, "psfFluxLinearIntercept": f0 - slope * t0}


def _stetson_j(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Stetson's J (1996, PASP 108, 851) about his robust mean, which starts at psfFluxMean."""
    g = Groups(cells, count, f=s["psfFlux"], e=s["psfFluxErr"])
    mean = mean.copy()
    n = g.n.astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = n / (n - 1)
        moving = g.n >= 2
        for _ in range(STETSON_STEPS):
            if not moving.any():
                break
            d = np.sqrt(g.per_row(factor)) * (g["f"] - g.per_row(mean)) / g["e"]
            w = 1 / g["e"] ** 2 / (1 + (np.abs(d) / 2) ** 2)
            step = g.sum(w * g["f"]) / g.sum(w)
            change = np.abs(step - mean)
            mean = np.where(moving, step, mean)
            moving &= ~((change < STETSON_TOLERANCE) & (change / mean < STETSON_TOLERANCE))
        p = g.per_row(factor) * ((g["f"] - g.per_row(mean)) / g["e"]) ** 2 - 1
        value = g.mean(np.sign(p) * np.sqrt(np.abs(p)))
    return {"psfFluxStetsonJ": g.where(g.n >= 2, value)}


def _sigma_science(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Sample standard deviation of scienceFlux."""
    g = Groups(cells, count, f=s["scienceFlux"])
    d = g["f"] - g.per_row(g.mean(g["f"]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"scienceFluxSigma": g.where(g.n >= 2, np.sqrt(g.sum(d**2) / (g.n - 1)))}


def _periods(cells: Cells, count: int, s: Columns, mean: F64) -> dict[str, F64]:
    """Highest peak of the Lomb-Scargle periodogram (floating mean; Zechmeister & Kuerster 2009, A&A 496, 577).

    Frequencies from 1 / (5 T) in such steps, 250 for each point; five points at least.
    """
    g = Groups(cells, count, t=s["midpointMjdTai"], f=s["psfFlux"], e=s["psfFluxErr"])
    begin = np.concatenate([[0], np.cumsum(g.n)])
    period, power = _highest_peaks(begin, g["t"], g["f"], g["e"])
    return {"period": period, "power": power}


@compiled(fastmath=True, parallel=True)
def _highest_peaks(begin: I64, t: F64, f: F64, e: F64) -> tuple[F64, F64]:
    """Return period and power of the highest peak of each group."""
    count = begin.size - 1
    period, power = np.full(count, np.nan), np.full(count, np.nan)
    for k in numba.prange(count):
        n = begin[k + 1] - begin[k]
        if n >= MIN_PERIOD_POINTS:
            part = slice(begin[k], begin[k + 1])
            baseline = t[begin[k + 1] - 1] - t[begin[k]]
            if baseline > 0:
                period[k], power[k] = _highest_peak(t[part] - t[begin[k]], f[part], e[part], baseline)
    return period, power


@compiled(fastmath=True, inline=True)
def renew(c: F64, s: F64, speed: float, t: F64) -> None:
    """Set c and s, shape (N,), to cosines and sines of `speed` (rad/d) times t (d)."""
    for i in range(t.size):
        c[i], s[i] = np.cos(speed * t[i]), np.sin(speed * t[i])


@compiled(fastmath=True, inline=True)
def turned_sums(
    c: F64, s: F64, turn_c: F64, turn_s: F64, w: F64, wy: F64, first: Any, last: Any
) -> tuple[float, float, float, float, float, float]:
    """Return the weighted sums of cos, sin, y cos, y sin, cos^2, cos sin over points first..last-1, and turn these by a step.

    All arrays have shape (N,): `c` and `s` are changed to the cosines and sines of the next frequency, by the rotation
    `turn_c`, `turn_s` of one step of frequency; `w` are weights, `wy` weights times values. `first` and `last` are unsigned: places then need no look at negative ones, which would keep the loop from being vectorised.
    """
    sc = ss = yc = ys = cc = cs = 0.0
    for i in range(first, last):  # vectorised over the points: sums in registers
        a, b = c[i], s[i]
        sc += w[i] * a
        ss += w[i] * b
        yc += wy[i] * a
        ys += wy[i] * b
        cc += w[i] * a * a
        cs += w[i] * a * b
        c[i], s[i] = a * turn_c[i] - b * turn_s[i], b * turn_c[i] + a * turn_s[i]
    return sc, ss, yc, ys, cc, cs


@compiled(fastmath=True)
def _highest_peak(t: F64, f: F64, e: F64, baseline: float) -> tuple[float, float]:
    """Go through the frequencies; sines follow by rotation, and are renewed now and then."""
    n = t.size
    step = 1.0 / baseline / OVERSAMPLING
    w = 1.0 / e**2
    w /= w.sum()
    y = f - (w * f).sum()
    scale = (w * y * y).sum()
    if not scale > 0:
        return np.nan, np.nan
    wy = w * y
    turn_c, turn_s = np.cos(2 * np.pi * step * t), np.sin(2 * np.pi * step * t)
    c, s = np.empty(n), np.empty(n)
    highest, best_step = -1.0, 0
    for k in range(1, int(0.5 * OVERSAMPLING * NYQUIST_FACTOR * n) + 1):
        if k % RENEWAL == 1:
            renew(c, s, 2 * np.pi * step * k, t)
        sc, ss, yc, ys, cc, cs = turned_sums(c, s, turn_c, turn_s, w, wy, np.uint64(0), np.uint64(n))
        dcc, dss, dcs = cc - sc * sc, 1.0 - cc - ss * ss, cs - sc * ss
        determinant = dcc * dss - dcs * dcs
        if determinant > 1e-12:
            p = (dss * yc * yc + dcc * ys * ys - 2 * dcs * yc * ys) / (scale * determinant)
            if p > highest:
                highest, best_step = p, k
    return (1.0 / (step * best_step), highest) if best_step > 0 else (np.nan, np.nan)


def _flags(out: pd.DataFrame, s: pd.DataFrame) -> dict[str, NDArray[np.generic]]:
    """1 where any source of the object has a flag."""
    if "flags" in s:
        raised = s["flags"].fillna(0).to_numpy() != 0
    else:
        names = [c for c in s.columns if "flag" in c.lower() and s[c].dtype.kind in "b"]
        raised = s[names].any(axis=1).to_numpy(bool) if names else np.zeros(len(s), bool)
    codes = np.asarray(out.index.get_indexer(pd.Index(s.diaObjectId)), dtype=np.int64)
    return {"flags": (np.bincount(codes, weights=raised, minlength=len(out)) > 0).astype(np.uint64)}


def _pixel(out: pd.DataFrame, s: pd.DataFrame) -> dict[str, NDArray[np.generic]]:
    """HTM index, level 20."""
    return {"pixelId": htm_ids(out.ra, out.dec, HTM_LEVEL)}


BAND_PLUGINS: dict[str, Callable[[Cells, int, Columns, F64], dict[str, F64]]] = {
    "ap_percentileFlux": _percentiles, "ap_chi2Flux": _chi2, "ap_madFlux": _mad, "ap_skewFlux": _skew,
    "ap_linearFit": _linear_fit, "ap_stetsonJ": _stetson_j, "ap_sigmaTotFlux": _sigma_science,
    "ap_lombScarglePeriodogram": _periods,
}  # fmt: skip
OBJECT_PLUGINS: dict[str, Callable[[pd.DataFrame, pd.DataFrame], dict[str, NDArray[np.generic]]]] = {
    "ap_diaObjectFlag": _flags,
    "ap_HTMIndex": _pixel,
}
