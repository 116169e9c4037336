"""The page that says why there is, or is no, alert at a place: step by step, with pictures.

The page is there at once; the answer is made by another process and comes into it.
"""

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from apdb import Ledger
from apdb.errors import BadQuery
from service.pages.positions import position_of
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading
from service.pages.viewer import viewer_of
from service.pages.visits.page import PART
from tasks.errors import AlertProdError

__all__ = ["why_pages"]

why_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

TRIED = 12  # ccdVisits, where none is named
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


@dataclass(frozen=True)
class Question:
    """A place on the sky or in the picture of a ccdVisit, and which ccdVisit: the newest there by default."""

    visit: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None
    detector: Annotated[int | None, Query(ge=0, lt=1 << 15)] = None
    ra: Annotated[float | None, Query(ge=0, le=360)] = None
    dec: Annotated[float | None, Query(ge=-90, le=90)] = None
    at_x: Annotated[int | None, Query(alias="at.x", ge=0)] = None
    at_y: Annotated[int | None, Query(alias="at.y", ge=0, description="px from the top of the picture")] = None
    part: Annotated[str | None, Query(pattern=PART, description="of which the picture is, px; else of the whole")] = (
        None
    )
    place: Annotated[str, Query(max_length=200)] = ""
    radius: Annotated[float, Query(gt=0, le=60, description="arcsec")] = 2.0

    def position(self) -> tuple[float, float] | None:
        """Return right ascension and declination where they are given.

        Raises
        ------
        BadQuery
            The text of the place names none.
        """
        if self.ra is not None and self.dec is not None:
            return self.ra, self.dec
        if not self.place.strip():
            return None
        position = position_of(self.place)
        if position is None:
            raise BadQuery(f"{self.place!r} is no place on the sky: write it as 150.1 +2.2 or 10:00:24 +02:12:00")
        return position.ra, position.dec


Asked = Annotated[Question, Depends()]


@why_pages.get("/why")
def why(request: Request, shared: Pages, asked: Asked) -> HTMLResponse:
    """The question, and which ccdVisits may cover the place; the answer follows."""
    return _page(request, shared, asked, wanted=False)


@why_pages.get("/why/answer")
def answered(request: Request, shared: Pages, asked: Asked) -> HTMLResponse:
    """The place followed through a ccdVisit, or that the answer is being made."""
    return _page(request, shared, asked, wanted=True)


def _page(request: Request, shared: Pages, asked: Question, *, wanted: bool) -> HTMLResponse:
    position = asked.position()
    covering = [] if position is None else _covering(shared, *position)
    candidates = [(v["visit"], v["detector"]) for v in covering[:TRIED]] or [(None, None)]
    if asked.visit is not None:
        candidates = [(asked.visit, asked.detector)]
    visit, detector = candidates[0]
    complete = visit is not None and detector is not None and (asked.at_x is not None or position is not None)
    answer: dict[str, Any] | None = None
    refused = ""
    if wanted and complete:
        try:
            (visit, detector), answer = _followed(request, shared, asked, candidates)
        except AlertProdError as error:  # a part of a page that is there: no page of its own
            refused = f"{error.code}: {error}"
    if answer is not None and position is None:
        position = answer["place"]["ra"], answer["place"]["dec"]
        covering = _covering(shared, *position)
    ra, dec = position or (None, None)
    return page(
        request, "why.html", visit=visit, detector=detector, ra=ra, dec=dec, radius=asked.radius, answer=answer, covering=covering,
        titles=_TITLES, place=asked.place, reason=None if answer is None else _reason(answer["steps"]), chosen=asked.visit is None,
        waits=complete and answer is None and not refused, refused=refused, making=wanted, answer_address=_address(asked),
    )  # fmt: skip


def _followed(
    request: Request, shared: Pages, asked: Question, candidates: list[tuple[Any, Any]]
) -> tuple[tuple[Any, Any], dict[str, Any] | None]:
    """Return the ccdVisit whose image holds the place, and the answer for it, None while it is being made.

    The ledger knows outlines that are larger than images: one that turns out not to hold the place gives way to the next.
    """
    position = asked.position()
    part = None if asked.part is None else [int(n) for n in asked.part.split(",")]
    place: dict[str, Any] = {"atX": asked.at_x, "fromTop": asked.at_y or 0, "part": part}
    if position is not None:
        place = {"ra": position[0], "dec": position[1]}
    question = {"what": "place", "place": place, "radius": asked.radius}
    answers: dict[tuple[Any, Any], dict[str, Any]] = {}
    for key in candidates:
        answer = viewer_of(request).soon(Ledger(shared.database), *key, question)
        if answer is None or answer["steps"][-1]["name"] != "image":
            return key, answer
        answers[key] = answer
    return next(iter(answers.items()))


def _address(asked: Question) -> str:
    """Return where the answer is found."""
    values = {
        "visit": asked.visit, "detector": asked.detector, "ra": asked.ra, "dec": asked.dec, "at.x": asked.at_x, "at.y": asked.at_y, "part": asked.part,
        "place": asked.place or None, "radius": asked.radius,
    }  # fmt: skip
    return f"/why/answer?{urlencode({k: v for k, v in values.items() if v is not None})}"


def _covering(shared: Pages, ra: float, dec: float) -> list[dict[str, Any]]:
    """Return the ccdVisits whose coarse outline holds a place, the newest first."""
    from apdb.sky.htm import htm_ids

    pixels = [int(htm_ids([ra], [dec], level)[0]) for level in LEVELS]
    with reading(shared.database) as cursor:
        return cursor.execute(_COVERING, (pixels,)).fetchall()


def _reason(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the step that says it: the last that was not passed, else the last.

    What is not significant is not detected: then the significance is the reason.
    """
    refused = [s for s in steps if s["passed"] is False]
    if not refused or steps[-1]["passed"]:
        return steps[-1]
    faint = [s for s in refused if s["name"] == "signal"]
    return faint[0] if faint and refused[-1]["name"] == "detected" else refused[-1]
