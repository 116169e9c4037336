"""The page of one ccdVisit: what became of it, its images, its sources by class, its metrics against those of the survey."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import psycopg
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from apdb import Ledger
from apdb.errors import NotFound
from service.intake.submit import describe
from service.pages.nights.facts import BUDGET_S, STEPS, in_order
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading
from service.pages.visits.classes import CLASS_WORDS, COLUMNS, SNR_WORDS, describe_source, longest_point
from tasks.arrays import F64

__all__ = ["PART", "Look", "LookOfImages", "metrics_of", "row_of", "sources_of", "visit_pages"]

visit_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

MOST_SOURCES = 2000
SHOWN = 200  # of them in the table, the most significant
MOST_HISTORY = 2000  # ccdVisits of the same instrument and band, the newest
_SOURCES = f'SELECT {COLUMNS} FROM "DiaSource" WHERE visit = %s AND detector = %s ORDER BY snr DESC NULLS LAST, "diaSourceId" LIMIT %s'
_COUNT = 'SELECT count(*) AS n FROM (SELECT FROM "DiaSource" WHERE visit = %s AND detector = %s LIMIT %s) s'
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
def one_visit(visit: int, detector: int, request: Request, shared: Pages, look: LookOfImages) -> Response:
    """One ccdVisit; its images follow (`service.pages.visits.images`)."""
    row = row_of(shared, visit, detector)
    with reading(shared.database) as cursor:
        beside = [
            cursor.execute(_BESIDE.format(sign, order), (row["instrument"], detector, visit)).fetchone()
            for sign, order in (("<", "DESC"), (">", "ASC"))
        ]
    return page(
        request, "visit.html", row=row, told=describe(row), earlier=beside[0], later=beside[1], rest=lambda: _rest(shared, row),
        most=MOST_SOURCES, class_words=CLASS_WORDS, snr_words=SNR_WORDS, order=STEPS, budget=BUDGET_S,
        look=look, stretch=look.stretch, span=look.span, mask=look.mask,
    )  # fmt: skip


def _rest(shared: Pages, row: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows below its main numbers."""
    visit, detector = row["visit"], row["detector"]
    with reading(shared.database) as cursor:
        own = metrics_of(cursor, visit, detector)
        sources = sources_of(cursor, visit, detector, own, SHOWN)
        found = next(iter(cursor.execute(_COUNT, (visit, detector, MOST_SOURCES))))["n"]
        history = [r["metrics"] for r in cursor.execute(_HISTORY, (row["instrument"], row["band"], MOST_HISTORY))]
        outbox = cursor.execute(_OUTBOX, (visit, detector)).fetchall()
    return {
        "sources": sources, "found": found, "metrics": _against(own, history), "counted": len(history), "outbox": outbox,
        "steps": [(n, row["seconds"][n]) for n in in_order(row["seconds"] or {})],
    }  # fmt: skip


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
    cursor: psycopg.Cursor[dict[str, Any]], visit: int, detector: int, metrics: dict[str, Any], most: int = MOST_SOURCES
) -> list[dict[str, Any]]:
    """Return the most significant sources of a ccdVisit with these metrics, each with its class."""
    sources = cursor.execute(_SOURCES, (visit, detector, most)).fetchall()
    longest = longest_point(metrics.get("seeingArcsec"))
    for source in sources:
        describe_source(source, longest)
    return sources


def metrics_of(cursor: psycopg.Cursor[dict[str, Any]], visit: int, detector: int) -> dict[str, Any]:
    """Return the metrics of a ccdVisit by name, none where it has none."""
    rows = cursor.execute('SELECT metrics FROM "VisitQuality" WHERE visit = %s AND detector = %s', (visit, detector))
    return (rows.fetchone() or {}).get("metrics") or {}


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
        out.append({"name": name, "value": value, "text": False, **_spread(float(value), others)})
    return out


def _spread(value: float, others: F64) -> dict[str, Any]:
    """Return how the values of the survey lie, and where in a bar from ``low`` to ``high`` this one is (0 to 1).

    The bar ends three times the middle half beyond its ends (the outer fences of Tukey 1977), so that one value far away
    does not squeeze the others; where it goes on, ``below`` and ``above`` count what lies outside.
    """
    if not others.size:
        return {"median": None, "far": 0.0, "bar": False}
    least, quarter, median, upper, most = (float(v) for v in np.percentile(others, [0, 25, 50, 75, 100]))
    reach = 3 * (upper - quarter) or most - least
    low, high = max(least, quarter - reach), min(most, upper + reach)
    sigma, span = 0.7413 * (upper - quarter), high - low  # of a Gaussian with these quartiles
    far = abs(value - median) / sigma if sigma > 0 else 0.0
    if span <= 0:
        return {"median": median, "far": far, "bar": False}
    return {
        "median": median, "far": far, "bar": True, "low": low, "high": high,
        "at": min(max((value - low) / span, 0.0), 1.0), "from": (quarter - low) / span, "to": (upper - low) / span,
        "below": int((others < low).sum()), "above": int((others > high).sum()),
    }  # fmt: skip
