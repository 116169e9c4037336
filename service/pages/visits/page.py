"""The page of one ccdVisit: what became of it, its images, its sources by class, its metrics against those of the survey."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import psycopg
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from apdb import Ledger
from apdb.errors import NotFound
from service.intake.submit import describe
from service.pages.nights.facts import BUDGET_S, STEPS, in_order
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading

__all__ = ["CLASSES", "PART", "Look", "LookOfImages", "metrics_of", "row_of", "sources_of", "visit_pages"]

visit_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

MOST_SOURCES = 2000
LONG_TRAIL, LONG_TRAIL_ARCSEC = 2.0, 3.0  # a trail is longer: in FWHM of the PSF; where that is not known
MOST_HISTORY = 2000  # ccdVisits of the same instrument and band, the newest
_SOURCES = (
    'SELECT "diaSourceId" AS id, "diaObjectId" AS object, "ssObjectId" AS body, ra, dec, x, y, snr, "psfFlux" AS flux, '
    '"psfFluxErr" AS error, reliability, "isDipole" AS dipole, "isNegative" AS negative, "trailLength" AS trail, '
    '"timeWithdrawnMjdTai" AS withdrawn FROM "DiaSource" WHERE visit = %s AND detector = %s ORDER BY snr DESC NULLS LAST LIMIT %s'
)
_HISTORY = (
    'SELECT q.metrics FROM "VisitQuality" q JOIN "VisitLedger" l USING (visit, detector) WHERE l.instrument = %s AND '
    'l.band IS NOT DISTINCT FROM %s ORDER BY l."midpointMjdTai" DESC NULLS LAST LIMIT %s'
)
_OUTBOX = (
    'SELECT attempt, count, "heldReason" AS held, "droppedAt" AS dropped, "publishedAt" AS published, "publishedCount" AS '
    'sent, "topicCount" AS in_topic, "secondsSinceShutterClose" AS latency FROM "AlertOutbox" WHERE visit = %s AND detector = %s '
    "ORDER BY attempt DESC"
)
_BESIDE = (
    'SELECT visit, detector FROM "VisitLedger" WHERE instrument = %s AND detector = %s AND (visit {0} %s) '
    "ORDER BY visit {1} LIMIT 1"
)
PART = r"^-?\d{1,6},-?\d{1,6},\d{1,5},\d{1,5}$"
CLASSES = (
    ("solar", "solar system"),
    ("dipole", "dipole"),
    ("trail", "trail"),
    ("positive", "brighter"),
    ("negative", "fainter"),
)


@dataclass(frozen=True)
class Look:
    """How images are drawn."""

    stretch: Literal["asinh", "linear", "log"] = "asinh"
    span: Annotated[float, Query(gt=0, le=1e6, description="noise sigma that are white")] = 100.0
    mask: bool = False
    part: Annotated[
        str | None, Query(pattern=PART, description="x0,y0,width,height of a part, px: in full resolution")
    ] = None


LookOfImages = Annotated[Look, Depends()]


@visit_pages.get("/visit/{visit}/{detector}")
def one_visit(visit: int, detector: int, request: Request, shared: Pages, look: LookOfImages) -> HTMLResponse:
    """One ccdVisit; its images follow (`service.pages.visits.images`)."""
    row = row_of(shared, visit, detector)
    with reading(shared.database) as cursor:
        own = metrics_of(cursor, visit, detector)
        sources = sources_of(cursor, visit, detector, own)
        history = [r["metrics"] for r in cursor.execute(_HISTORY, (row["instrument"], row["band"], MOST_HISTORY))]
        outbox = cursor.execute(_OUTBOX, (visit, detector)).fetchall()
        beside = [
            cursor.execute(_BESIDE.format(sign, order), (row["instrument"], detector, visit)).fetchone()
            for sign, order in (("<", "DESC"), (">", "ASC"))
        ]
    return page(
        request, "visit.html", row=row, told=describe(row), sources=sources, most=MOST_SOURCES,
        class_words=dict(CLASSES), metrics=_against(own, history),
        outbox=outbox, steps=[(n, row["seconds"][n]) for n in in_order(row["seconds"] or {})], order=STEPS, budget=BUDGET_S,
        earlier=beside[0], later=beside[1], look=look, stretch=look.stretch, span=look.span, mask=look.mask, counted=len(history),
    )  # fmt: skip


def row_of(shared: Pages, visit: int, detector: int) -> dict[str, Any]:
    """Return the row of a ccdVisit in the ledger.

    Raises
    ------
    NotFound
        It never came.
    """
    row = Ledger(shared.database).get(visit, detector) if 0 <= visit < 1 << 63 and 0 <= detector < 1 << 15 else None
    if row is None:
        raise NotFound(f"visit {visit}, detector {detector} never came")
    return row


def sources_of(
    cursor: psycopg.Cursor[dict[str, Any]], visit: int, detector: int, metrics: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the most significant sources of a ccdVisit with these metrics, each with its class."""
    sources = cursor.execute(_SOURCES, (visit, detector, MOST_SOURCES)).fetchall()
    longest = LONG_TRAIL * metrics.get("seeingArcsec", 0.0) or LONG_TRAIL_ARCSEC
    for source in sources:
        source["kind"] = _class_of(source, longest)
    return sources


def metrics_of(cursor: psycopg.Cursor[dict[str, Any]], visit: int, detector: int) -> dict[str, Any]:
    """Return the metrics of a ccdVisit by name, none where it has none."""
    rows = cursor.execute('SELECT metrics FROM "VisitQuality" WHERE visit = %s AND detector = %s', (visit, detector))
    return (rows.fetchone() or {}).get("metrics") or {}


def _class_of(source: dict[str, Any], longest: float) -> str:
    if source["body"]:
        return "solar"
    if source["dipole"]:
        return "dipole"
    if source["trail"] is not None and source["trail"] > longest:
        return "trail"
    return "negative" if source["negative"] or (source["flux"] or 0) < 0 else "positive"


def _against(own: dict[str, Any], history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each metric with the spread of the survey's, and how far it stands out (in robust sigma)."""
    out = []
    for name, value in sorted(own.items(), key=lambda item: item[0].lower()):
        if isinstance(value, bool) or not isinstance(value, int | float):
            if isinstance(value, str) and value:
                out.append({"name": name, "value": value, "text": True, "far": 0.0})
            continue
        others = np.array(
            [v for h in history if isinstance(v := h.get(name), int | float) and not isinstance(v, bool)], float
        )
        others = others[np.isfinite(others)]
        low, quarter, median, upper, high = (
            np.percentile(others, [0, 25, 50, 75, 100]) if others.size else [float("nan")] * 5
        )
        sigma = 0.7413 * (upper - quarter)  # of a Gaussian with these quartiles
        far = abs(value - median) / sigma if sigma > 0 else 0.0
        span = high - low
        out.append({
            "name": name, "value": value, "text": False, "median": float(median), "low": float(low), "high": float(high),
            "far": float(far), "at": float((value - low) / span) if span > 0 else 0.5,
            "from": float((quarter - low) / span) if span > 0 else 0.0, "to": float((upper - low) / span) if span > 0 else 1.0,
        })  # fmt: skip
    return out
