"""The page that says why there is, or is no, alert at a place: step by step, with pictures."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from apdb import Ledger
from apdb.errors import BadQuery
from service.pages.positions import position_of
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading
from service.pages.viewer import viewer_of

__all__ = ["why_pages"]

why_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

LEVELS = range(3, 9)  # of the HTM pixels that the ledger keeps of a visit: coarser ones for larger images
_COVERING = (
    'SELECT visit, detector, state, band, "midpointMjdTai" AS mjd, "errorCode" AS code FROM "VisitLedger" WHERE region && %s::bigint[] '
    'ORDER BY "midpointMjdTai" DESC NULLS LAST LIMIT 60'
)
_TITLES = {
    "visit": "Did the visit end well?", "stored": "Is a source stored there?", "alert": "Did its alert go out?",
    "image": "Is the place on the image?", "subtraction": "Could the image be subtracted?", "mask": "Are the pixels usable?",
    "signal": "Is there a significant difference?", "detected": "Was it detected?", "measurement": "Did its measurement hold?",
    "filter": "Did it pass the filters?", "association": "Would it belong to an object?",
}  # fmt: skip


@why_pages.get("/why")
def why(
    request: Request,
    shared: Pages,
    visit: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None,
    detector: Annotated[int | None, Query(ge=0, lt=1 << 15)] = None,
    ra: Annotated[float | None, Query(ge=0, le=360)] = None,
    dec: Annotated[float | None, Query(ge=-90, le=90)] = None,
    at_x: Annotated[int | None, Query(alias="at.x", ge=0)] = None,
    at_y: Annotated[int | None, Query(alias="at.y", ge=0, description="px from the top of the picture")] = None,
    place: Annotated[str, Query(max_length=200)] = "",
    radius: Annotated[float, Query(gt=0, le=60, description="arcsec")] = 2.0,
) -> HTMLResponse:
    """Follow a place through a visit; without a visit, list those that may cover it."""
    if place.strip() and ra is None:
        position = position_of(place)
        if position is None:
            raise BadQuery(f"{place!r} is no place on the sky: write it as 150.1 +2.2 or 10:00:24 +02:12:00")
        ra, dec = position.ra, position.dec
    covering = [] if ra is None or dec is None else _covering(shared, ra, dec)
    if visit is None and covering:
        visit, detector = covering[0]["visit"], covering[0]["detector"]
    answer: dict[str, Any] | None = None
    if visit is not None and detector is not None and (at_x is not None or (ra is not None and dec is not None)):
        where = {"ra": ra, "dec": dec} if at_x is None else _pixel(request, shared, visit, detector, at_x, at_y or 0)
        answer = viewer_of(request).ask(
            Ledger(shared.database), visit, detector, what="place", place=where, radius=radius
        )
        ra, dec = answer["place"]["ra"], answer["place"]["dec"]
        covering = covering or _covering(shared, ra, dec)
    return page(
        request, "why.html", visit=visit, detector=detector, ra=ra, dec=dec, radius=radius, answer=answer, covering=covering,
        titles=_TITLES, place=place, reason=None if answer is None else _reason(answer["steps"]),
    )  # fmt: skip


def _pixel(request: Request, shared: Pages, visit: int, detector: int, x: int, from_top: int) -> dict[str, float]:
    """Return the pixel of a click on the picture; a picture that is chosen by a key says (0, 0): its middle."""
    numbers = viewer_of(request).ask(Ledger(shared.database), visit, detector, what="numbers")["numbers"]
    if (x, from_top) == (0, 0):
        x, from_top = numbers["width"] // 2, numbers["height"] // 2
    return {"x": float(numbers["x0"] + x), "y": float(numbers["y0"] + numbers["height"] - 1 - from_top)}


def _covering(shared: Pages, ra: float, dec: float) -> list[dict[str, Any]]:
    """Return the ccdVisits whose coarse outline holds a place, the newest first."""
    from apdb.sky.htm import htm_ids

    pixels = [int(htm_ids([ra], [dec], level)[0]) for level in LEVELS]
    with reading(shared.database) as cursor:
        return cursor.execute(_COVERING, (pixels,)).fetchall()


def _reason(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the step that says it: the last that was not passed, else the last."""
    refused = [s for s in steps if s["passed"] is False]
    return refused[-1] if refused and not steps[-1]["passed"] else steps[-1]
