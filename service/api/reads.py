"""HTTP reads of the database: objects, light curves, visits, nights, and IVOA Simple Cone Search, as streams.

Answers are streamed from one read-only statement each; a statement has a time limit, an answer a cap on its rows, and only
a few answers are given at a time (`service.api.answers`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi import Query as Parameter
from fastapi.responses import Response

from apdb import ApdbError, VisitState, queries
from apdb.errors import BadQuery
from apdb.queries import Query, VisitFilter
from service.api.answers import Answers, format_of
from service.api.documentation.described import parameters_of
from service.api.parameters import (
    ROWS_AT_MOST,
    After,
    Bands,
    Columns,
    Detector,
    Format,
    Limit,
    Mjd,
    Night,
    ObjectId,
    Radius,
    Right,
    Up,
    Visit,
    Withdrawn,
)
from service.api.resources import Shared
from service.media import ROWS, VOTABLE, kinds

__all__ = ["reads"]

reads = APIRouter(tags=["reads"])

_VISITS = {
    "description": "Rows in the format that was asked for; `next` is the `after` of the next page",
    "content": {
        "application/json": {
            "schema": {"type": "object"},
            "example": {"columns": [{"name": "visit", "datatype": "long", "unit": ""}],
                        "rows": [{"visit": 24020103652, "detector": 3, "state": "failed", "errorCode": "no_psf"}],
                        "count": 1, "next": "24020103652,3"},
        },
        **{kind: {} for kind in ROWS[200]["content"] if kind != "application/json"},
    },
}  # fmt: skip
_CONE = parameters_of(
    RA={"type": "number", "required": True, "description": "of the centre, ICRS degrees"},
    DEC={"type": "number", "required": True, "description": "of the centre, ICRS degrees"},
    SR={"type": "number", "required": True, "description": "radius, degrees, 10 at most; 0 describes the columns"},
    VERB={
        "type": "integer",
        "enum": [1, 2, 3],
        "description": "how many columns: id and position, those and counts and times (default), all",
    },
    MAXREC={"type": "integer", "description": "rows at most; 10000 by default", **ROWS_AT_MOST},
)


@dataclass(frozen=True)
class _Reply:
    """How one request is answered: from which database, in which format."""

    answers: Answers
    kind: str

    def give(self, query: Query, *, one: bool = False) -> Response:
        return self.answers.give(query, self.kind, one=one)


async def _reply_of(request: Request, shared: Shared, kind: Format = None) -> _Reply:
    return _Reply(shared.answers, format_of(request, kind))


@dataclass(frozen=True)
class _Moment:
    """When the database is looked at: a time, or that of a visit's association; now, where neither is given."""

    mjd: float | None
    visit: str | None

    def as_of(self, answers: Answers) -> float | None:
        """Return the time (MJD, TAI), None for now.

        Raises
        ------
        BadQuery
            Both are given, or no VISIT,DETECTOR.
        NotFound
            Nothing of the visit is stored.
        """
        if self.visit is None:
            return self.mjd
        visit, _, detector = self.visit.partition(",")
        if self.mjd is not None or not (visit.isdigit() and detector.isdigit()):
            raise BadQuery("give either as_of (MJD, TAI) or as_of_visit (VISIT,DETECTOR)")
        return answers.time_of_visit(int(visit), int(detector))


async def _moment_of(
    as_of_mjd: Annotated[
        float | None,
        Parameter(alias="as_of", description="MJD, TAI; as_of_visit is not given then", allow_inf_nan=False),
    ] = None,
    as_of_visit: Annotated[
        str | None,
        Parameter(
            description="VISIT,DETECTOR: as its association saw it; together with as_of it is refused (bad_query)",
            json_schema_extra={"pattern": r"^\d{1,16},\d{1,5}$"},
        ),
    ] = None,
) -> _Moment:
    return _Moment(as_of_mjd, as_of_visit)


@dataclass(frozen=True)
class _Page:
    """Which rows of a long answer are given."""

    after: int | None
    limit: int


async def _page_of(after: After = None, limit: Limit = 10_000) -> _Page:
    return _Page(after, limit)


Reply = Annotated[_Reply, Depends(_reply_of)]
Moment = Annotated[_Moment, Depends(_moment_of)]
Page = Annotated[_Page, Depends(_page_of)]


def _names(columns: str | None) -> list[str] | None:
    return None if columns is None else [c.strip() for c in columns.split(",") if c.strip()]


@reads.get("/v1/objects", response_class=Response, responses=ROWS)
def objects(
    ra: Right,
    dec: Up,
    moment: Moment,
    page: Page,
    reply: Reply,
    radius: Radius = 5.0,
    columns: Columns = None,
) -> Response:
    """DiaObjects within a circle, in order of id; `next` of a JSON answer is the `after` of the next page."""
    query = queries.cone(
        ra,
        dec,
        radius / 3600,
        as_of=moment.as_of(reply.answers),
        wanted=_names(columns),
        after=page.after,
        limit=page.limit,
    )
    return reply.give(query)


@reads.get("/v1/objects/{object_id}", response_class=Response, responses=ROWS)
def one_object(object_id: ObjectId, moment: Moment, reply: Reply, columns: Columns = None) -> Response:
    """The newest version of a DiaObject, or that of an earlier time."""
    query = queries.objects_by_id([object_id], wanted=_names(columns), as_of=moment.as_of(reply.answers))
    return reply.give(query, one=True)


@reads.get("/v1/objects/{object_id}/versions", response_class=Response, responses=ROWS)
def versions(object_id: ObjectId, reply: Reply, columns: Columns = None, limit: Limit = 10_000) -> Response:
    """Every version of a DiaObject, in order of time."""
    return reply.give(queries.object_versions(object_id, wanted=_names(columns), limit=limit), one=True)


@reads.get("/v1/objects/{object_id}/lightcurve", response_class=Response, responses=ROWS)
def light_curve(
    object_id: ObjectId,
    reply: Reply,
    band: Bands = None,
    since: Mjd = None,
    until: Mjd = None,
    what: Annotated[
        str,
        Parameter(alias="kind", description="which rows", json_schema_extra={"enum": ["all", "detection", "forced"]}),
    ] = "all",
    withdrawn: Withdrawn = False,
    limit: Limit = 100_000,
) -> Response:
    """Detections and forced photometry of a DiaObject, in order of time."""
    query = queries.light_curve(
        object_id, bands=band, since=since, until=until, kind=what, withdrawn=withdrawn, limit=limit
    )
    return reply.give(query)


async def _period_of(since: Mjd = None, until: Mjd = None) -> tuple[float | None, float | None]:
    return since, until


async def _which(
    period: Annotated[tuple[float | None, float | None], Depends(_period_of)],
    night: Night = None,
    state: Annotated[VisitState | None, Parameter(description="in this state only")] = None,
    visit: Annotated[int | None, Parameter(description="of this visit only")] = None,
    detector: Annotated[int | None, Parameter(description="of this detector only")] = None,
    instrument: Annotated[str | None, Parameter(description="of this instrument only")] = None,
    band: Annotated[str | None, Parameter(description="of this band only")] = None,
    error: Annotated[str | None, Parameter(description="with this code of an error only")] = None,
) -> VisitFilter:
    given = None if state is None else state.value
    return VisitFilter(night, given, visit, detector, instrument, band, error, *period)


@reads.get("/v1/visits", response_class=Response, responses={200: _VISITS})
def visits(
    which: Annotated[VisitFilter, Depends(_which)],
    reply: Reply,
    after: Annotated[
        str | None, Parameter(pattern=r"^\d{1,18}(,\d{1,5})?$", description="`next` of the page before: VISIT,DETECTOR")
    ] = None,
    order: Annotated[
        Literal["visit", "newest"], Parameter(description="by visit and detector, or what came last first")
    ] = "visit",
    limit: Limit = 10_000,
) -> Response:
    """Visits with state, counts and times."""
    last_key = None
    if after is not None:
        visit, _, detector = after.partition(",")
        last_key = int(visit), int(detector) if detector else None
        if order == "newest" and not detector:
            raise BadQuery("after=VISIT,DETECTOR is needed with order=newest")
    return reply.give(queries.visits(which, after=last_key, newest=order == "newest", limit=limit))


async def _rows_of(
    visit: Visit, detector: Detector, columns: Columns = None, withdrawn: Withdrawn = False, limit: Limit = 100_000
) -> Callable[[str], Query]:
    def of(table: str) -> Query:
        return queries.visit_rows(table, visit, detector, wanted=_names(columns), withdrawn=withdrawn, limit=limit)

    return of


RowsOf = Annotated[Callable[[str], Query], Depends(_rows_of)]


@reads.get("/v1/visits/{visit}/{detector}/sources", response_class=Response, responses=ROWS)
def sources_of_visit(rows_of: RowsOf, reply: Reply) -> Response:
    """The DiaSources of a (visit, detector)."""
    return reply.give(rows_of("DiaSource"))


@reads.get("/v1/visits/{visit}/{detector}/forced", response_class=Response, responses=ROWS)
def forced_of_visit(rows_of: RowsOf, reply: Reply) -> Response:
    """The DiaForcedSources of a (visit, detector)."""
    return reply.give(rows_of("DiaForcedSource"))


@reads.get("/v1/nights", response_class=Response, responses=ROWS)
def nights(reply: Reply, night: Night = None, limit: Limit = 10_000) -> Response:
    """Nights by band (night = integer part of MJD - 0.5)."""
    return reply.give(queries.nights(night, limit=limit))


@reads.get("/v1/scs", response_class=Response, responses=kinds(VOTABLE), openapi_extra=_CONE)
def simple_cone_search(request: Request, shared: Shared) -> Response:
    """IVOA Simple Cone Search 1.03: RA, DEC, SR in degrees, VERB 1 to 3, MAXREC."""
    from service.api import formats

    media = formats.MEDIA_TYPES["votable"]
    try:
        query = _cone_of(request)
        if _given(request).get("SR") is not None and float(_given(request)["SR"]) == 0:
            return Response(formats.empty_votable(query), media_type=media)
        return shared.answers.give(query, "votable")
    except (ApdbError, ValueError, KeyError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        return Response(formats.error_votable(text), media_type=media)


def _given(request: Request) -> dict[str, Any]:
    """Parameters by upper-case name (Simple Cone Search is blind to case)."""
    return {k.upper(): v for k, v in request.query_params.items()}


_VERBOSITY: dict[int, list[str] | None] = {
    1: ["diaObjectId", "ra", "dec"],
    2: ["diaObjectId", "ra", "dec", "raErr", "decErr", "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai"],
    3: None,
}


def _cone_of(request: Request) -> Query:
    given = _given(request)
    verbosity = int(given.get("VERB", 2))
    if verbosity not in _VERBOSITY:
        raise BadQuery(f"VERB must be 1, 2 or 3, not {verbosity}")
    ra, dec, radius = (float(given[name]) for name in ("RA", "DEC", "SR"))
    return queries.cone(ra, dec, radius, wanted=_VERBOSITY[verbosity], limit=int(given.get("MAXREC", 10_000)))
