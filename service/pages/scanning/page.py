"""The page of scanning: detections one after the other with their cutouts, labelled by keys alone."""

from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response

from apdb.labels import LABELS
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading

__all__ = ["scanning_pages"]

scanning_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE_SIZE = 20  # detections that a page holds
VISITS = 60  # the newest ccdVisits, whose detections are offered: what a page can sort in a moment
_ORDERS = {
    "uncertain": 'abs(d.reliability - 0.5) NULLS LAST, d."diaSourceId"',
    "newest": 'd."midpointMjdTai" DESC, d."diaSourceId"',
    "brightest": 'd.snr DESC NULLS LAST, d."diaSourceId"',
}
_OFFERED = (
    'SELECT d."diaSourceId" AS id, d."diaObjectId" AS object, d."ssObjectId" AS body, d.visit, d.detector, d.ra, d.dec, d.band, '
    'd."midpointMjdTai" AS mjd, d.snr, d."psfFlux" AS flux, d."psfFluxErr" AS error, d.reliability, d."isDipole" AS dipole, '
    'd."isNegative" AS negative FROM (SELECT visit, detector FROM "VisitLedger" WHERE state = \'done\' ORDER BY "midpointMjdTai" '
    'DESC NULLS LAST LIMIT %s) v JOIN "DiaSource" d USING (visit, detector) WHERE d."timeWithdrawnMjdTai" IS NULL AND NOT EXISTS '
    '(SELECT 1 FROM "SourceLabel" l WHERE l."diaSourceId" = d."diaSourceId" AND l.principal = %s) ORDER BY {} LIMIT %s'
)
_GIVEN = 'SELECT label, count(*) AS n FROM "SourceLabel" WHERE principal = %s GROUP BY label'


@scanning_pages.get("/scan")
def scan(request: Request, shared: Pages, by: Literal["uncertain", "newest", "brightest"] = "uncertain") -> Response:
    """Detections that whoever asks has not labelled."""
    who = request.state.principal.name
    with reading(shared.database) as cursor:
        offered = cursor.execute(_OFFERED.format(_ORDERS[by]), (VISITS, who, PAGE_SIZE)).fetchall()
        given: dict[str, Any] = {r["label"]: r["n"] for r in cursor.execute(_GIVEN, (who,))}
    return page(
        request, "scan.html", by=by, orders=tuple(_ORDERS), offered=offered, given={k: given.get(k, 0) for k in LABELS}
    )
