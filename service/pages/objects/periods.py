"""The periods of a light curve, and what the times of its points leave open: too few cycles, aliases."""

from typing import TYPE_CHECKING, Any

import numpy as np

from apdb.errors import BadQuery
from tasks.arrays import F64, I64

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FEWEST_CYCLES", "strongest_periods"]

FREQUENCIES = 200_000
FEWEST_CYCLES = 1.5  # less than that may be a change that does not come again
MOST = 5
FEWEST = 5  # images
EQUAL = 0.01  # powers that differ by less are equal
ALIAS = 0.3  # of the power of a signal that the times of the points carry to another frequency


def strongest_periods(table: "pd.DataFrame", shortest: float, longest: float) -> dict[str, Any]:
    """Return the highest peaks of the generalised Lomb-Scargle periodogram (Zechmeister & Kuerster 2009) of all bands.

    Of each image one point counts. The weighted mean of each band is taken off first; frequencies are at most `FREQUENCIES`, ten to a resolution
    element, and each peak is the top of a parabola through three of them.

    Notes
    -----
    A signal of frequency f1 has power at f2 in proportion to the spectral window at f1 - f2 and f1 + f2 (Roberts, Lehar &
    Dreher 1987, AJ 93, 968): where that is `ALIAS` or more the two are named aliases of each other. The false-alarm
    probability (Baluev 2008, MNRAS 385, 1279) is that of white noise with these errors.

    Raises
    ------
    BadQuery
        Fewer than five images have a point that can be used.
    """
    from astropy.timeseries import LombScargle

    name, use = next(
        ((n, u) for n in ("scienceFlux", "psfFlux") if len(u := _one_of_each_image(table, n)) >= FEWEST), ("", table)
    )
    if not name:
        raise BadQuery("a period needs points with errors on five images at least")
    time, flux = use.midpointMjdTai.to_numpy(np.float64), use[name].to_numpy(np.float64)
    error = use[f"{name}Err"].to_numpy(np.float64)
    codes = use.band.fillna("").astype("category").cat.codes.to_numpy()
    weight = error**-2.0
    means = np.bincount(codes, weight * flux) / np.bincount(codes, weight)
    span = max(float(np.ptp(time)), 1e-6)
    count = int(np.clip(10 * span * (1 / shortest - 1 / longest), 100, FREQUENCIES))
    frequency = np.linspace(1 / longest, 1 / shortest, count)
    fit = LombScargle(time - time[0], flux - means[codes], error)
    power = fit.power(frequency, method="fast", assume_regular_frequency=True)
    peaks = np.flatnonzero((power[1:-1] > power[:-2]) & (power[1:-1] >= power[2:])) + 1
    best = _strongest(power, peaks) if peaks.size else np.array([int(np.argmax(power))])
    chance = float(fit.false_alarm_probability(power[best].max(), maximum_frequency=1 / shortest))
    found = np.array([_top(frequency, power, k) for k in best.tolist()])
    aliases = _aliases(time, weight, found)
    periods = [
        {
            "period": float(1 / f),
            "power": float(power[k]),
            "cycles": float(span * f),
            "aliasOf": (1 / found[a]).tolist(),
        }
        for f, k, a in zip(found.tolist(), best.tolist(), aliases, strict=True)
    ]
    warnings = _warnings(periods, span, _samplings(time, weight))
    return {
        "flux": name, "points": len(use), "periods": periods, "falseAlarmProbability": chance,
        "falseAlarmOf": "white noise", "spanDays": span, "fewestCycles": FEWEST_CYCLES, "warnings": warnings,
    }  # fmt: skip


def _one_of_each_image(table: "pd.DataFrame", name: str) -> "pd.DataFrame":
    """Return the points that have a flux and its error, one of each image, in order of time.

    A detection and the forced measurement of it share their noise: as two points they would make a period of any noise. The
    forced one is taken, which was made wherever the noise fell.
    """
    good = table[table[name].notna() & (table[f"{name}Err"] > 0)]
    ordered = good.sort_values("forced", kind="stable").drop_duplicates(["visit", "detector"], keep="last")
    return ordered.sort_values("midpointMjdTai", kind="stable")


def _strongest(power: F64, peaks: I64) -> I64:
    """Return the highest `MOST` of the peaks; of those that are equally high the longest period, as short ones may be its aliases."""
    chosen: list[int] = []
    left = np.sort(peaks)
    while left.size and len(chosen) < MOST:
        chosen.append(int(left[np.argmax(power[left] >= power[left].max() - EQUAL)]))
        left = left[left != chosen[-1]]
    return np.array(chosen)


def _top(frequency: F64, power: F64, k: int) -> float:
    """Return the frequency of the top of the parabola through a peak and its neighbours."""
    if not 0 < k < len(power) - 1:
        return float(frequency[k])
    before, here, after = (float(p) for p in power[k - 1 : k + 2])
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(frequency[k] + shift * (frequency[1] - frequency[0]))


def _window(time: F64, weight: F64, frequency: float) -> float:
    """Return the spectral window of the times at a frequency, 1 where all points have the same phase."""
    phase = np.exp(2j * np.pi * frequency * (time - time[0]))
    return float(abs((weight * phase).sum() / weight.sum()) ** 2)


def _least(weight: F64) -> float:
    """Return the window from which on frequencies are aliases: of few points at random times it is 3 / N at times."""
    return max(ALIAS, min(3 * float((weight**2).sum() / weight.sum() ** 2), 0.9))


def _aliases(time: F64, weight: F64, found: F64) -> list[list[int]]:
    """Return, for each frequency, the places of those of which it may be an alias."""
    least, n = _least(weight), found.size
    near = [
        [max(_window(time, weight, found[i] - found[j]), _window(time, weight, found[i] + found[j])) for j in range(n)]
        for i in range(n)
    ]
    return [[j for j in range(n) if j != i and near[i][j] >= least] for i in range(n)]


def _samplings(time: F64, weight: F64) -> list[float]:
    """Return the spacings (days) that the points keep: the usual step from one to the next, a day."""
    steps = np.diff(np.unique(time))
    usual = float(np.median(steps)) if steps.size else 0.0
    kept = [usual, *([1.0] if np.ptp(time) > 2 and not 0.9 < usual < 1.1 else [])]
    return [step for step in kept if step > 0 and _window(time, weight, 1 / step) >= _least(weight)]


def _warnings(periods: list[dict[str, Any]], span: float, samplings: list[float]) -> list[str]:
    """Return in words what the times of the points leave open."""
    out = []
    if any(p["cycles"] < FEWEST_CYCLES for p in periods):
        out.append(
            f"The points span {span:.3g} d: of a period above {span / FEWEST_CYCLES:.3g} d less than {FEWEST_CYCLES:g} cycles were "
            "seen, so that it may be a change that does not come again."
        )
    if samplings:
        spacing = " and ".join(f"{step:.3g} d" for step in samplings)
        out.append(
            f"The points are spaced by about {spacing}: frequencies f and k / spacing ± f cannot be told apart, and periods below "
            f"{2 * samplings[0]:.3g} d may be aliases of longer ones."
        )
    if any(p["aliasOf"] for p in periods):
        out.append("Periods that are marked as aliases explain the same points: which is true their times do not tell.")
    return out
