"""The page that says why there is, or is no, alert at a place: step by step, with pictures.

The page is there at once; the answer is made by another process and comes into it.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field

from apdb import Ledger
from apdb.errors import BadQuery
from service.pages.positions import position_of
from service.pages.render import PageRoute, page
from service.pages.shared import Pages, reading
from service.pages.viewer import Viewer, viewer_of
from service.pages.visits.page import PART
from tasks.errors import AlertProdError

__all__ = ["why_pages"]

why_pages = APIRouter(include_in_schema=False, route_class=PageRoute)

MOST_DETECTORS = 200  # of a visit
LEVELS = range(3, 9)  # of the HTM pixels that the ledger keeps of a visit: coarser ones for larger images
_COLUMNS = (
    'SELECT visit, detector, state, band, "midpointMjdTai" AS mjd, "errorCode" AS code, message FROM "VisitLedger" '
)
_ORDER = ' ORDER BY "midpointMjdTai" DESC NULLS LAST, visit DESC, detector LIMIT %s'
_COVERING = f"{_COLUMNS} WHERE region && %s::bigint[] {_ORDER}"
_OF_VISIT = f"{_COLUMNS} WHERE visit = %s {_ORDER}"
MOST = 60  # ccdVisits around a place
_TITLES = {
    "visit": "Did the visit end well?", "stored": "Is a source stored there?", "alert": "Did its alert go out?",
    "image": "Is the place on the image?", "subtraction": "Could the image be subtracted?", "mask": "Are the pixels usable?",
    "signal": "Is there a significant difference?", "detected": "Was it detected?", "measurement": "Did its measurement hold?",
    "filter": "Did it pass the filters?", "association": "Would it belong to an object?",
}  # fmt: skip

_BLANK = BeforeValidator(lambda value: None if value == "" else value)  # a field of the form that was left empty


@dataclass(frozen=True)
class Question:
    """A place on the sky or in the picture of a ccdVisit, and which ccdVisit: the newest there by default."""

    visit: Annotated[Annotated[int, Field(ge=0, lt=1 << 53)] | None, _BLANK, Query()] = None
    detector: Annotated[Annotated[int, Field(ge=0, lt=1 << 15)] | None, _BLANK, Query()] = None
    ra: Annotated[float | None, Query(ge=0, le=360)] = None
    dec: Annotated[float | None, Query(ge=-90, le=90)] = None
    at_x: Annotated[int | None, Query(alias="at.x", ge=0)] = None
    at_y: Annotated[int | None, Query(alias="at.y", ge=0, description="px from the top of the picture")] = None
    part: Annotated[str | None, Query(pattern=PART, description="of which the picture is, px; else of the whole")] = (
        None
    )
    place: Annotated[str, Query(max_length=200)] = ""
    radius: Annotated[float, Query(gt=0, le=60, description="arcsec")] = 2.0

    @property
    def is_of_one(self) -> bool:
        """Whether a ccdVisit is named."""
        return self.visit is not None and self.detector is not None

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
def why(request: Request, shared: Pages, asked: Asked) -> Response:
    """The question, and which ccdVisits may cover the place; the answer follows."""
    return _page(request, shared, asked, wanted=False)


@why_pages.get("/why/answer")
def answered(request: Request, shared: Pages, asked: Asked) -> Response:
    """The place followed through a ccdVisit, or that the answer is being made."""
    return _page(request, shared, asked, wanted=True)


def _page(request: Request, shared: Pages, asked: Question, *, wanted: bool) -> Response:
    position = asked.position()
    complete = position is not None or (asked.is_of_one and asked.at_x is not None)
    found = _Found(visit=asked.visit, detector=asked.detector)
    if position is not None:
        found.near, found.cut = _near(shared, *position, None if asked.is_of_one else asked.visit)
        complete = asked.is_of_one or bool(found.near)
        if asked.visit is not None and not complete:
            found.refused = f"visit {asked.visit} never came: nobody sent a message for it"
    if wanted and complete:
        try:
            _follow(request, shared, asked, found)
        except AlertProdError as error:  # a part of a page that is there: no page of its own
            found.refused = f"{error.code}: {error}"
    ra, dec = position or (None, None)
    answer = found.answer
    if answer is not None and position is None:
        ra, dec = answer["place"]["ra"], answer["place"]["dec"]
    return page(
        request, "why.html", visit=found.visit, detector=found.detector, ra=ra, dec=dec, radius=asked.radius, answer=answer,
        covering=found.covering(), sure=found.where is not None, near=found.near, cut=found.cut, most=MOST, said=found.said, titles=_TITLES,
        place=asked.place, reason=None if answer is None else _reason(answer["steps"]), asked=asked, refused=found.refused,
        waits=complete and answer is None and not found.refused and not found.said, making=wanted, answer_address=_address(asked),
    )  # fmt: skip


@dataclass
class _Found:
    """What a page of a place shows: the ccdVisit that is followed, and those around the place."""

    visit: int | None
    detector: int | None
    near: list[dict[str, Any]] = field(default_factory=list)
    cut: bool = False  # whether there are more than those
    where: dict[str, Any] | None = None
    answer: dict[str, Any] | None = None
    said: str = ""
    refused: str = ""

    def keys(self, kind: str) -> set[tuple[int, int]]:
        """Return the ccdVisits whose image holds the place (``images``), or cannot be asked (``unread``)."""
        if self.where is None:
            return set()
        return {(i["visit"], i["detector"]) for i in self.where[kind] if kind == "unread" or i["holds"]}

    def covering(self) -> list[dict[str, Any]]:
        """Return the ccdVisits around the place, without those whose image does not hold it, as far as that is known."""
        if self.where is None:
            return self.near
        unread = self.keys("unread")
        listed = self.keys("images") | unread
        keyed = [((v["visit"], v["detector"]), v) for v in self.near]
        return [{**v, "unread": key in unread} for key, v in keyed if key in listed]


def _follow(request: Request, shared: Pages, asked: Question, found: _Found) -> None:
    """Find the ccdVisit whose image holds the place, where none is named, and its answer; what is being made stays None."""
    viewer, ledger, position = viewer_of(request), Ledger(shared.database), asked.position()
    part = None if asked.part is None else [int(n) for n in asked.part.split(",")]
    known = True
    place: dict[str, Any] = {"atX": asked.at_x, "fromTop": asked.at_y or 0, "part": part}
    if position is not None:
        place = {"ra": position[0], "dec": position[1]}
        known = _ask_where(viewer, ledger, place, found)
        if not asked.is_of_one:
            if not known:
                return
            _choose(asked, found)
    if not found.said and found.visit is not None and found.detector is not None:
        question = {"what": "place", "place": place, "radius": asked.radius}
        found.answer = viewer.soon(ledger, found.visit, found.detector, question)
    if found.answer is not None and position is None:  # the place of a click
        found.near, found.cut = _near(shared, found.answer["place"]["ra"], found.answer["place"]["dec"], None)
        known = _ask_where(viewer, ledger, found.answer["place"], found)
    if not known:
        found.answer = None


def _ask_where(viewer: Viewer, ledger: Ledger, place: dict[str, Any], found: _Found) -> bool:
    """Ask which of the images around a place hold it; return whether that is known."""
    if not found.near:
        return True
    first = found.near[0]
    images = [{k: v[k] for k in ("visit", "detector", "message")} for v in found.near]
    question = {"what": "where", "ra": place["ra"], "dec": place["dec"], "images": images}
    found.where = viewer.soon(ledger, first["visit"], first["detector"], question)
    return found.where is not None


def _choose(asked: Question, found: _Found) -> None:
    """Take the newest ccdVisit, of the visit that is asked for, whose image holds the place; else say how it lies to them.

    An image that cannot be read may still have stored sources there: it is taken where no other holds the place.
    """
    assert found.where is not None
    keys = [(v["visit"], v["detector"]) for v in found.near if asked.visit in (None, v["visit"])]
    for kind in ("images", "unread"):
        if held := [key for key in keys if key in found.keys(kind)]:
            found.visit, found.detector = held[0]
            return
    found.said = found.where["said"].get(str(asked.visit if asked.visit is not None else found.near[0]["visit"]), "")


def _address(asked: Question) -> str:
    """Return where the answer is found."""
    values = {
        "visit": asked.visit, "detector": asked.detector, "ra": asked.ra, "dec": asked.dec, "at.x": asked.at_x, "at.y": asked.at_y, "part": asked.part,
        "place": asked.place or None, "radius": asked.radius,
    }  # fmt: skip
    return f"/why/answer?{urlencode({k: v for k, v in values.items() if v is not None})}"


def _near(shared: Pages, ra: float, dec: float, visit: int | None) -> tuple[list[dict[str, Any]], bool]:
    """Return the newest ccdVisits whose coarse outline holds a place, and all of a visit that is asked for; the newest first.

    And whether there are more than `MOST` around the place: older ones, that are not asked.
    """
    from apdb.sky.htm import htm_ids

    pixels = [int(htm_ids([ra], [dec], level)[0]) for level in LEVELS]
    with reading(shared.database) as cursor:
        around = cursor.execute(_COVERING, (pixels, MOST + 1)).fetchall()
        around, cut = around[:MOST], len(around) > MOST
        if visit is None:
            return around, cut
        of_visit = cursor.execute(_OF_VISIT, (visit, MOST_DETECTORS)).fetchall()
    if not of_visit:
        return [], cut
    both = {(v["visit"], v["detector"]): v for v in [*around, *of_visit]}
    return sorted(both.values(), key=lambda v: (-(v["mjd"] or 0.0), -v["visit"], v["detector"])), cut


def _reason(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the step that says it: the last that was not passed, else the last.

    What is not significant is not detected: then the significance is the reason.
    """
    refused = [s for s in steps if s["passed"] is False]
    if not refused or steps[-1]["passed"]:
        return steps[-1]
    faint = [s for s in refused if s["name"] == "signal"]
    return faint[0] if faint and refused[-1]["name"] == "detected" else refused[-1]
