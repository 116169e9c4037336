"""A light curve as the elements of an SVG picture, for readers without scripts: points, errors, axes."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.arrays import F64

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Plot", "PlotPoint", "curve_plot", "ticks", "worded"]

WIDTH, HEIGHT = 900.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 84.0, 8.0, 8.0, 36.0


@dataclass(frozen=True)
class PlotPoint:
    """A point in units of the picture, with the ends of its error bar."""

    x: float
    y: float
    up: float
    down: float
    band: str
    forced: bool
    label: str


@dataclass(frozen=True)
class Plot:
    """A picture: its points, (place, label) of ticks, and where zero flux is."""

    points: list[PlotPoint]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    zero: float
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM


def curve_plot(table: "pd.DataFrame") -> Plot | None:
    """Return the picture of the difference fluxes of a light curve, None where it has none."""
    flux = table.psfFlux.to_numpy(np.float64, na_value=np.nan)
    time = table.midpointMjdTai.to_numpy(np.float64)
    use = np.isfinite(flux) & np.isfinite(time)
    if not use.any():
        return None
    table, flux, time = table[use], flux[use], time[use]
    error = np.nan_to_num(table.psfFluxErr.to_numpy(np.float64, na_value=np.nan))
    low, high = min(0.0, float(np.percentile(flux - error, 0.5))), max(0.0, float(np.percentile(flux + error, 99.5)))
    margin = 0.05 * ((high - low) or 1.0)
    low, high = low - margin, high + margin
    begin, end = float(time.min()), float(time.max())
    pad = 0.03 * ((end - begin) or 1.0)
    begin, end = begin - pad, end + pad

    def x_of(t: F64) -> F64:
        return LEFT + (WIDTH - LEFT - RIGHT) * (t - begin) / (end - begin)

    def y_of(f: F64) -> F64:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - f) / (high - low)

    parts = zip(
        x_of(time), y_of(flux), y_of(flux + error), y_of(flux - error), table.band.fillna("").astype(str),
        table.forced.astype(bool), time, flux, error, strict=True,
    )  # fmt: skip
    points = [
        PlotPoint(round(float(x), 1), round(float(y), 1), round(float(u), 1), round(float(d), 1), b, bool(k),
                  f"{'forced' if k else 'detection'} {b} MJD {t:.4f}: {f:.0f} ± {e:.0f} nJy")
        for x, y, u, d, b, k, t, f, e in parts
    ]  # fmt: skip
    x_ticks = [(round(float(x_of(np.array(t))), 1), word) for t, word in worded(ticks(begin, end, 7))]
    y_ticks = [(round(float(y_of(np.array(f))), 1), word) for f, word in worded(ticks(low, high, 5), " ")]
    return Plot(points, x_ticks, y_ticks, round(float(y_of(np.array(0.0))), 1))


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return round numbers between two, at most so many."""
    rough = (high - low) / most
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    return [float(v) for v in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def worded(places: list[float], thousands: str = "") -> list[tuple[float, str]]:
    """Return ticks with their labels, which have the decimals that tell one from the next; `thousands` parts their digits."""
    step = places[1] - places[0] if len(places) > 1 else 0.0
    if not 1e-7 < step < 1e12:
        return [(t, f"{t:.9g}") for t in places]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    words = [f"{round(t, digits) + 0.0:,.{digits}f}" for t in places]
    return [(t, w.replace(",", thousands).replace("-", "−")) for t, w in zip(places, words, strict=True)]
