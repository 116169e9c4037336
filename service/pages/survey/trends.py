"""The page of trends: any metric of the visits against time, seeing, airmass or detector; what stands out leads to its visit."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from service.pages.nights.mosaic import metric_names, value_of
from service.pages.objects.plot import ticks, worded
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, Shared, need_answer, reading
from tasks.arrays import F64

__all__ = ["Dot", "Scatter", "scatter_of", "trend_pages"]

trend_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

MOST = 3000  # ccdVisits, the newest
FAR = 5.0  # robust sigma from the median: stands out
LEAST = 20  # ccdVisits of which quartiles are known: of 5 of a Gaussian 7 in 100 would stand out
MOST_LINKS = 100
MOST_TEMPLATES = 50
WIDTH, HEIGHT = 1000.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 94.0, 10.0, 10.0, 40.0
AXES = {"time": "MJD (TAI)", "seeing": "seeing / arcsec", "airmass": "airmass", "detector": "detector"}
_METRICS_OF = {"seeing": "seeingArcsec", "airmass": "airmass"}
_ROWS = (
    'SELECT l.visit, l.detector, l."midpointMjdTai" AS mjd, l.band, l.counts, l.seconds, q.metrics FROM "VisitLedger" l JOIN '
    '"VisitQuality" q USING (visit, detector) WHERE l.instrument = %(instrument)s AND l."midpointMjdTai" IS NOT NULL AND (%(band)s::text IS NULL OR l.band = '
    '%(band)s) AND (%(detector)s::int IS NULL OR detector = %(detector)s) ORDER BY l."midpointMjdTai" DESC LIMIT %(most)s'
)
_INSTRUMENTS = (
    'SELECT instrument, max(mjd) AS newest FROM (SELECT instrument, "midpointMjdTai" AS mjd FROM "VisitLedger" WHERE "midpointMjdTai" '
    'IS NOT NULL ORDER BY "midpointMjdTai" DESC LIMIT %s) l GROUP BY instrument ORDER BY newest DESC, instrument'
)


@dataclass(frozen=True)
class Dot:
    """A ccdVisit in units of the picture; `far` is how many robust sigma its value is from the median."""

    x: float
    y: float
    visit: int
    detector: int
    value: float
    against: float
    far: float

    @property
    def outlies(self) -> bool:
        """Whether it stands out."""
        return self.far > FAR


@dataclass(frozen=True)
class Scatter:
    """A picture: its dots, (place, label) of ticks, where the median and the limits of what does not stand out lie."""

    dots: list[Dot]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    median: float
    sigma: float
    middle: float
    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    bottom: float = HEIGHT - BOTTOM


@trend_pages.get("/trends")
def trends(
    request: Request,
    shared: Pages,
    metric: Annotated[str, Query(max_length=60)] = "seconds",
    against: Literal["time", "seeing", "airmass", "detector"] = "time",
    band: Annotated[str | None, Query(pattern="^[ugrizy]$")] = None,
    detector: Annotated[int | None, Query(ge=0, lt=1 << 15)] = None,
    instrument: Annotated[str, Query(max_length=100)] = "",
) -> Response:
    """One metric of the newest ccdVisits of one instrument: without a name that of the newest."""
    need_answer(shared.database)
    return page(
        request, "trends.html", against=against, axes=AXES, band=band, detector=detector, most=MOST, far=FAR,
        least=LEAST,
        rest=lambda: _rest(shared, metric, against, band, detector, instrument),
    )  # fmt: skip


def _rest(
    shared: Shared, metric: str, against: str, band: str | None, detector: int | None, instrument: str
) -> dict[str, Any]:
    """Return what the picture and the tables show."""
    with reading(shared.database) as cursor:
        instruments = [r["instrument"] for r in cursor.execute(_INSTRUMENTS, (MOST,)).fetchall()]
        instrument = instrument or next(iter(instruments), "")
        rows = cursor.execute(
            _ROWS, {"instrument": instrument, "band": band, "detector": detector, "most": MOST}
        ).fetchall()
    names = metric_names(rows)
    metric = metric if metric in names else "seconds"
    scatter = scatter_of(rows, metric, against)
    far = [] if scatter is None else sorted((d for d in scatter.dots if d.outlies), key=lambda d: -d.far)
    return {
        "metric": metric, "metrics": names, "scatter": scatter, "outliers": far[:MOST_LINKS], "outlying": len(far),
        "counted": len(rows), "instrument": instrument, "instruments": instruments, "templates": _templates(shared),
    }  # fmt: skip


def scatter_of(rows: list[dict[str, Any]], metric: str, against: str) -> Scatter | None:
    """Return the picture of a metric, None where no row has it and what it is drawn against."""
    having = [(r, value_of(r, metric), _against(r, against)) for r in rows]
    use = [(r, v, a) for r, v, a in having if v is not None and a is not None and np.isfinite(v) and np.isfinite(a)]
    if not use:
        return None
    value, other = np.array([v for _, v, _ in use], np.float64), np.array([a for _, _, a in use], np.float64)
    quarter, median, upper = (float(q) for q in np.percentile(value, [25, 50, 75]))
    sigma = 0.7413 * (upper - quarter)  # of a Gaussian with these quartiles
    far = np.abs(value - median) / sigma if sigma > 0 and value.size >= LEAST else np.zeros(value.size)
    x_low, x_high = _limits(other)
    y_low, y_high = _limits(value)
    across, up = (WIDTH - LEFT - RIGHT) / (x_high - x_low), (HEIGHT - TOP - BOTTOM) / (y_high - y_low)
    x, y = LEFT + across * (other - x_low), TOP + up * (y_high - value)
    dots = [
        Dot(round(float(px), 1), round(float(py), 1), r["visit"], r["detector"], v, a, float(f))
        for (r, v, a), px, py, f in zip(use, x, y, far, strict=True)
    ]
    places = [(round(LEFT + across * (t - x_low), 1), word) for t, word in worded(ticks(x_low, x_high, 8))]
    heights = [(round(TOP + up * (y_high - t), 1), word) for t, word in worded(ticks(y_low, y_high, 6))]
    return Scatter(
        dots, places, heights, median, sigma, round(TOP + up * (y_high - median), 1),
    )  # fmt: skip


def _limits(values: F64) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad


def _against(row: dict[str, Any], name: str) -> float | None:
    if name == "time":
        return float(row["mjd"])
    return float(row["detector"]) if name == "detector" else value_of(row, _METRICS_OF[name])


def _templates(shared: Shared) -> list[dict[str, Any]]:
    """Return the versions of template sets, the newest first, with when each was written (s since 1970); no pixel is read."""
    versions = []
    for path in Path(shared.settings.template_dir).glob("*/v*/manifest.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: len(manifest[name]) for name in ("tiles", "inputs")}
        versions.append(
            {k: manifest[k] for k in ("name", "version", "band")} | numbers | {"written": path.stat().st_mtime}
        )
    return sorted(versions, key=lambda t: -t["written"])[:MOST_TEMPLATES]
