"""HTTP reads of the database: objects, light curves, visits, nights, and IVOA Simple Cone Search, as streams.

Answers are streamed from one read-only statement each; a statement has a time limit, an answer a cap on its rows, and only
a few answers are given at a time.
"""

import threading
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from fastapi.responses import Response, StreamingResponse

from apdb import ApdbError, Database, queries
from apdb.copy.decode import stream_frames
from apdb.errors import BadQuery, Busy, NotFound
from apdb.queries import Query
from service.api import formats

__all__ = ["reads_router"]

Format = Annotated[
    Literal["json", "csv", "parquet", "votable"] | None,
    Parameter(alias="format", description="else by Accept; json by default"),
]
Columns = Annotated[str | None, Parameter(description="names, separated by commas; all by default")]
Mjd = Annotated[float | None, Parameter(description="MJD, TAI")]
Limit = Annotated[int, Parameter(description=f"rows at most; up to {queries.MAX_ROWS}")]
MAX_STREAMS = 8
STREAM_TIMEOUT_S = 60
WAIT_S = 2.0
_ACCEPTED = {
    "text/csv": "csv", "application/vnd.apache.parquet": "parquet", "application/x-votable+xml": "votable",
    "application/json": "json",
}  # fmt: skip


def _names(columns: str | None) -> list[str] | None:
    return None if columns is None else [c.strip() for c in columns.split(",") if c.strip()]


class _Answers:
    """Runs queries for responses: at most a few at a time, each on a read-only connection of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._free = threading.BoundedSemaphore(MAX_STREAMS)

    def frames(self, query: Query) -> Iterator[pd.DataFrame]:
        """Yield frames of the answer; the connection lives as long as the iterator.

        Raises
        ------
        Busy
            Too many answers are being given.
        """
        if not self._free.acquire(timeout=WAIT_S):
            raise Busy(f"{MAX_STREAMS} answers are being given already: try again")
        try:
            with self._database.session() as connection:
                yield from stream_frames(connection, query.statement, query.columns, query.parameters)
        finally:
            self._free.release()

    def give(self, request: Request, query: Query, kind: str | None, *, one: bool = False) -> Response:
        """Return the streaming response for a query; `one`: an empty answer is an error.

        Raises
        ------
        NotFound
            `one`, and there is no row.
        """
        kind = kind or _ACCEPTED.get(request.headers.get("accept", "").partition(";")[0].split(",")[0].strip(), "json")
        frames = self.frames(query)
        first = next(frames)  # what fails, fails before the status is sent
        if one and first.empty:
            frames.close()  # type: ignore[attr-defined]
            raise NotFound(f"no such {query.name.rstrip('s').replace('_', ' ')}")

        def rest() -> Iterator[pd.DataFrame]:
            yield first
            yield from frames

        headers = {}
        if kind in ("csv", "parquet"):
            headers["Content-Disposition"] = f'attachment; filename="{query.name}.{kind}"'
        return StreamingResponse(
            formats.write(kind, rest(), query), media_type=formats.MEDIA_TYPES[kind], headers=headers
        )

    def time_of_visit(self, visit: int, detector: int) -> float:
        with self._database.session() as connection:
            return queries.time_of_visit(connection, visit, detector)


def reads_router(database: Database) -> APIRouter:
    """Return the routes for a database (whose connections should be read-only, with a time limit)."""
    router, answers = APIRouter(tags=["reads"]), _Answers(database)

    def as_of(mjd: float | None, visit: str | None) -> float | None:
        if visit is None:
            return mjd
        number, _, detector = visit.partition(",")
        if mjd is not None or not (number.isdigit() and detector.isdigit()):
            raise BadQuery("give either as_of (MJD, TAI) or as_of_visit (VISIT,DETECTOR)")
        return answers.time_of_visit(int(number), int(detector))

    @router.get("/v1/objects", response_class=Response)
    def objects(
        request: Request, ra: float, dec: float, radius: Annotated[float, Parameter(description="arcsec")] = 5.0,
        columns: Columns = None, as_of_mjd: Annotated[float | None, Parameter(alias="as_of", description="MJD, TAI")] = None,
        as_of_visit: Annotated[str | None, Parameter(description="VISIT,DETECTOR: as its association saw it")] = None,
        after: int | None = None, limit: Limit = 10_000, kind: Format = None,
    ) -> Response:  # fmt: skip
        """DiaObjects within a circle, in order of id; `next` of a JSON answer is the `after` of the next page."""
        when = as_of(as_of_mjd, as_of_visit)
        query = queries.cone(ra, dec, radius / 3600, wanted=_names(columns), as_of=when, after=after, limit=limit)
        return answers.give(request, query, kind)

    @router.get("/v1/objects/{object_id}", response_class=Response)
    def one_object(
        request: Request, object_id: int, columns: Columns = None,
        as_of_mjd: Annotated[float | None, Parameter(alias="as_of", description="MJD, TAI")] = None,
        as_of_visit: str | None = None, kind: Format = None,
    ) -> Response:  # fmt: skip
        """The newest version of a DiaObject, or that of an earlier time."""
        query = queries.objects_by_id([object_id], wanted=_names(columns), as_of=as_of(as_of_mjd, as_of_visit))
        return answers.give(request, query, kind, one=True)

    @router.get("/v1/objects/{object_id}/versions", response_class=Response)
    def versions(
        request: Request, object_id: int, columns: Columns = None, limit: Limit = 10_000, kind: Format = None
    ) -> Response:
        """Every version of a DiaObject, in order of time."""
        query = queries.object_versions(object_id, wanted=_names(columns), limit=limit)
        return answers.give(request, query, kind, one=True)

    @router.get("/v1/objects/{object_id}/lightcurve", response_class=Response)
    def light_curve(
        request: Request, object_id: int, band: Annotated[list[str] | None, Parameter()] = None, since: Mjd = None,
        until: Mjd = None, what: Annotated[str, Parameter(alias="kind", description="all, detection or forced")] = "all",
        withdrawn: bool = False, limit: Limit = 100_000, kind: Format = None,
    ) -> Response:  # fmt: skip
        """Detections and forced photometry of a DiaObject, in order of time."""
        query = queries.light_curve(
            object_id, bands=band, since=since, until=until, kind=what, withdrawn=withdrawn, limit=limit
        )
        return answers.give(request, query, kind)

    @router.get("/v1/visits", response_class=Response)
    def visits(
        request: Request, night: int | None = None, state: str | None = None, after: int | None = None,
        limit: Limit = 10_000, kind: Format = None,
    ) -> Response:  # fmt: skip
        """Visits with state, counts and times."""
        return answers.give(request, queries.visits(night=night, state=state, after=after, limit=limit), kind)

    @router.get("/v1/visits/{visit}/{detector}/{what}", response_class=Response)
    def rows_of_visit(
        request: Request, visit: int, detector: int, what: Literal["sources", "forced"], columns: Columns = None,
        withdrawn: bool = False, limit: Limit = 100_000, kind: Format = None,
    ) -> Response:  # fmt: skip
        """The DiaSources or the DiaForcedSources of a (visit, detector)."""
        table = {"sources": "DiaSource", "forced": "DiaForcedSource"}[what]
        query = queries.visit_rows(table, visit, detector, wanted=_names(columns), withdrawn=withdrawn, limit=limit)
        return answers.give(request, query, kind)

    @router.get("/v1/nights", response_class=Response)
    def nights(request: Request, night: int | None = None, limit: Limit = 10_000, kind: Format = None) -> Response:
        """Nights by band (night = integer part of MJD - 0.5)."""
        return answers.give(request, queries.nights(night, limit=limit), kind)

    @router.get("/v1/scs", response_class=Response)
    def simple_cone_search(request: Request) -> Response:
        """IVOA Simple Cone Search 1.03: RA, DEC, SR in degrees, VERB 1 to 3, MAXREC."""
        media = formats.MEDIA_TYPES["votable"]
        try:
            query = _cone_of(request)
            if _given(request).get("SR") is not None and float(_given(request)["SR"]) == 0:
                return Response(formats.empty_votable(query), media_type=media)
            return answers.give(request, query, "votable")
        except (ApdbError, ValueError, KeyError) as error:
            text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return Response(formats.error_votable(text), media_type=media)

    return router


def _given(request: Request) -> dict[str, Any]:
    """Parameters by upper-case name (Simple Cone Search is blind to case)."""
    return {k.upper(): v for k, v in request.query_params.items()}


_VERBOSITY: dict[int, list[str] | None] = {
    1: ["diaObjectId", "ra", "dec"],
    2: ["diaObjectId", "ra", "dec", "raErr", "decErr", "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai"],
    3: None,
}  # fmt: skip


def _cone_of(request: Request) -> Query:
    given = _given(request)
    verbosity = int(given.get("VERB", 2))
    if verbosity not in _VERBOSITY:
        raise BadQuery(f"VERB must be 1, 2 or 3, not {verbosity}")
    return queries.cone(
        float(given["RA"]), float(given["DEC"]), float(given["SR"]), wanted=_VERBOSITY[verbosity],
        limit=int(given.get("MAXREC", 10_000)),
    )  # fmt: skip
