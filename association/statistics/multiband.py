"""The multi-band periodogram: one period for all bands of an object, each with its own mean, amplitude and phase."""

import numba
import numpy as np
from scipy.special import gammaln

from association.statistics.groups import Groups
from association.statistics.optional import NYQUIST_FACTOR, OVERSAMPLING, RENEWAL, Columns, renew, turned_sums
from tasks.arrays import F64, I64
from tasks.compiled import compiled

__all__ = ["multiband_periods"]

MIN_POINTS = 9


def multiband_periods(cells: I64, objects: int, bands: tuple[str, ...], s: Columns) -> dict[str, F64]:
    """Return multiPeriod (d), multiPower, multiFap and {band}_multiAmp, {band}_multiPhase of each object.

    Every band has its own mean and sinusoid (VanderPlas & Ivezic 2015, ApJ 812, 18, with N_base = 0, N_band = 1): the power
    is the sum of the bands' reductions of chi2 over the sum of their chi2 about the mean. Frequencies from 1 / (5 T) in
    such steps, 250 for each point; nine points at least. The false-alarm probability is Baluev's (2008, MNRAS 385, 1279).
    In a band flux = mean + multiAmp sin(2 pi (t - t0) / multiPeriod + multiPhase), t0 the object's first point.
    """
    g = Groups(cells, objects * len(bands), t=s["midpointMjdTai"], f=s["psfFlux"], e=s["psfFluxErr"])
    begin = np.searchsorted(g.codes, np.arange(objects + 1) * len(bands))
    values, waves = _peaks(begin, g.codes % len(bands), len(bands), g["t"], g["f"], g["e"])
    period, power, variance, points = values.T
    out = {"multiPeriod": period, "multiPower": power, "multiFap": _false_alarm(power, variance, points)}
    for k, band in enumerate(bands):
        out[f"{band}_multiAmp"] = np.hypot(waves[:, k, 0], waves[:, k, 1])
        out[f"{band}_multiPhase"] = np.arctan2(waves[:, k, 0], waves[:, k, 1])
    return out


def _false_alarm(power: F64, variance: F64, points: F64) -> F64:
    """Return the probability that noise has a peak as high, between 0 and 1; `variance` of the times, of unit 1 / step."""
    with np.errstate(invalid="ignore", divide="ignore"):
        highest = 0.5 * OVERSAMPLING * NYQUIST_FACTOR * points  # frequency, in steps
        ratio = np.exp(gammaln((points - 1) / 2) - gammaln((points - 2) / 2))
        width = highest * np.sqrt(4 * np.pi * variance)
        tail = np.clip(1 - power, 0, 1) ** ((points - 4) / 2)
        return np.asarray(np.clip(tail + ratio * width * tail * np.sqrt(np.maximum(power, 0)), 0, 1))


@compiled(parallel=True)
def _peaks(begin: I64, band: I64, bands: int, t: F64, f: F64, e: F64) -> tuple[F64, F64]:
    """Return (objects, 4): period (d), power, variance of times in steps of frequency, points; and the bands' waves.

    Points of object k are begin[k]..begin[k + 1]-1, band by band: `band` numbers, times `t` (d), fluxes `f` and errors `e`
    (nJy), all of shape (N,). The waves, (objects, bands, 2), are the amplitudes (nJy) of cosine and sine.
    """
    count = begin.size - 1
    values, waves = np.full((count, 4), np.nan), np.full((count, bands, 2), np.nan)
    for k in numba.prange(count):
        n = begin[k + 1] - begin[k]
        values[k, 3] = n
        if n >= MIN_POINTS:
            part = slice(begin[k], begin[k + 1])
            times = t[part] - t[part].min()
            baseline = times.max()
            if baseline > 0:
                step = 1.0 / baseline / OVERSAMPLING
                values[k, 2] = times.var() * step * step
                best_step, values[k, 1] = _highest(times, f[part], e[part], band[part], bands, step, waves[k])
                if best_step > 0:
                    values[k, 0] = 1.0 / (step * best_step)
    return values, waves


@compiled(fastmath=True)
def _highest(t: F64, f: F64, e: F64, band: I64, bands: int, step: float, waves: F64) -> tuple[int, float]:
    """Return number and power of the best frequency; rows come band by band; sines follow by rotation."""
    n = t.size
    w = 1.0 / e**2
    y = np.empty(n)
    ends = np.zeros(bands + 1, np.int64)
    weight = np.zeros(bands)
    scale = 0.0
    for b in range(bands):
        first = ends[b]
        last = first
        total = mean = 0.0
        while last < n and band[last] == b:
            total += w[last]
            mean += w[last] * f[last]
            last += 1
        ends[b + 1], weight[b] = last, total
        for i in range(first, last):
            y[i] = f[i] - mean / total
            scale += w[i] * y[i] * y[i]
    if not scale > 0:
        return 0, np.nan
    wy = w * y
    turn_c, turn_s = np.cos(2 * np.pi * step * t), np.sin(2 * np.pi * step * t)
    c, s = np.empty(n), np.empty(n)
    stretch = ends.astype(np.uint64)  # unsigned places need no look at negative ones
    highest, best_step = -1.0, 0
    for k in range(1, int(0.5 * OVERSAMPLING * NYQUIST_FACTOR * n) + 1):
        if k % RENEWAL == 1:
            renew(c, s, 2 * np.pi * step * k, t)
        power = 0.0
        for b in range(bands):
            first, last = stretch[b], stretch[b + 1]
            if last - first < 2:
                continue
            sc, ss, yc, ys, cc, cs = turned_sums(c, s, turn_c, turn_s, w, wy, first, last)
            total = weight[b]
            dcc, dcs, dss = total * cc - sc * sc, total * cs - sc * ss, total * (total - cc) - ss * ss
            determinant = dcc * dss - dcs * dcs
            if determinant > 1e-12 * total**4:
                power += total * (dss * yc * yc + dcc * ys * ys - 2 * dcs * yc * ys) / determinant
        if power > highest * scale:
            highest, best_step = power / scale, k
    for b in range(bands):
        if best_step and ends[b + 1] - ends[b] >= 3:
            part = slice(ends[b], ends[b + 1])
            angle = 2 * np.pi * step * best_step * t[part]
            cosines, sines, wb = np.cos(angle), np.sin(angle), w[part] / weight[b]
            dc, ds = cosines - (wb * cosines).sum(), sines - (wb * sines).sum()
            cc, ss, cs = (wb * dc * dc).sum(), (wb * ds * ds).sum(), (wb * dc * ds).sum()
            yc, ys = (wb * y[part] * dc).sum(), (wb * y[part] * ds).sum()
            determinant = cc * ss - cs * cs
            if determinant > 1e-12:
                waves[b, 0], waves[b, 1] = (yc * ss - ys * cs) / determinant, (ys * cc - yc * cs) / determinant
    return best_step, highest
