"""Asynchronous TAP: jobs of the Universal Worker Service (IVOA UWS 1.1), kept in the database with their answers."""

import asyncio
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args
from xml.sax.saxutils import escape, quoteattr

import psycopg
from fastapi import APIRouter, Path, Request
from fastapi import Query as Parameter
from fastapi.responses import PlainTextResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from apdb import ApdbError, Database
from apdb.errors import BadQuery, DatabaseUnavailable
from apdb.tap_jobs import (
    ACTIVE,
    change_job,
    create_job,
    delete_job,
    end_job,
    is_executing,
    job_of,
    jobs_of,
    keep_waiting,
    leave_job,
    move_job,
    result_of,
    session_name,
    stop_statement,
)
from service.api.documentation.described import form_of
from service.api.resources import Resources, Shared
from service.api.vo.tap import QUERY, Given, asked, refusal
from service.media import ROWS, VOTABLE, XML, kinds

__all__ = ["stop_jobs", "tap_jobs"]

tap_jobs = APIRouter(prefix="/v1/tap/async", tags=["reads"])

QUERY_THREADS = 2  # in one process
STATEMENT_S = 600
MOST_BYTES = 64 << 20  # of an answer
LONGEST_WAIT_S = 60.0
_POLL_S = 0.25
PARTS = ("phase", "owner", "quote", "executionduration", "destruction")
_PHASE = {"type": "string", "enum": ["RUN", "ABORT"], "description": "RUN starts the query, ABORT gives it up"}
_DELETE = {"type": "string", "enum": ["DELETE"], "required": True, "description": "deletes query and answer"}
Part = Annotated[
    str, Path(description="which part", json_schema_extra={"enum": [*PARTS, "error", "parameters", "results"]})
]
_MOVED = kinds(XML, words="What lies where the client is sent") | {303: {"description": "It was done: look there"}}
Phase = Literal["PENDING", "QUEUED", "EXECUTING", "COMPLETED", "ERROR", "ABORTED"]
_PHASES: dict[str, Any] = {"enum": list(get_args(Phase))}
_TIME = {"type": "string", "description": "when query and answer are deleted, UTC; a week after it was made at most"}
_SECONDS = {"type": "string", "description": "is not changed: each query may take as long"}
_FREE = {name: {**schema, "required": False} for name, schema in QUERY.items()}
_CHANGED = ("destruction", "executionduration", "parameters")
_KEPT = (*QUERY, "FORMAT", "REQUEST", "VERSION", "RUNID")  # parameters of a query
_UWS = 'xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"'
_POOL = ThreadPoolExecutor(QUERY_THREADS, "tap")
_JOBS: dict[str, tuple[Resources, "Future[None]"]] = {}  # that wait or run in this process
_log = logging.getLogger("alertprod.api")


def _owner(request: Request) -> str:
    name: str = request.state.principal.name
    return name


@tap_jobs.post("", response_class=Response, responses=_MOVED, openapi_extra=form_of(**QUERY, PHASE=_PHASE))
def create(request: Request, shared: Shared, given: Given) -> Response:
    """Enter a query; with PHASE=RUN it is started at once."""
    kept = {name: given[name] for name in _KEPT if name in given}  # whatever else came has no meaning here, nor a bound
    with shared.database.session() as connection:
        number = create_job(connection, _owner(request), kept)
    if given.get("PHASE", "").upper() == "RUN":
        _start(shared, number, kept)
    return RedirectResponse(f"/v1/tap/async/{number}", 303)


@tap_jobs.get("", response_class=Response, responses=kinds(XML))
def listed(
    request: Request,
    shared: Shared,
    phase: Annotated[
        list[Phase] | None, Parameter(alias="PHASE", description="only those in one of these phases")
    ] = None,
    after: Annotated[
        datetime | None, Parameter(alias="AFTER", description="only those made after this time, UTC")
    ] = None,
    last: Annotated[
        int | None, Parameter(alias="LAST", ge=1, le=1 << 31, description="only so many, the newest")
    ] = None,
) -> Response:
    """The queries of whoever asks, the newest first."""
    since = after.replace(tzinfo=UTC) if after is not None and after.tzinfo is None else after
    with shared.database.session() as connection:
        rows = jobs_of(connection, _owner(request), phase or (), since, last)
    each = "".join(
        f"<uws:jobref id={quoteattr(r['jobId'])} xlink:href={quoteattr('/v1/tap/async/' + r['jobId'])}>"
        f"<uws:phase>{r['phase']}</uws:phase><uws:creationTime>{_time(r['createdAt'])}</uws:creationTime></uws:jobref>"
        for r in rows
    )
    return _xml(f"<uws:jobs {_UWS}>{each}</uws:jobs>")


@tap_jobs.get("/{job}", response_class=Response, responses=kinds(XML))
async def show(
    job: str,
    request: Request,
    shared: Shared,
    wait: Annotated[
        int, Parameter(alias="WAIT", ge=-1, description="seconds to wait for another phase, 60 at most (-1 is 60)")
    ] = 0,
    phase: Annotated[
        str | None, Parameter(alias="PHASE", description="wait while it is in this one", json_schema_extra=_PHASES)
    ] = None,
) -> Response:
    """One query and where its answer lies; waits, when asked to, until its phase is another."""
    row = await run_in_threadpool(_job, shared, _owner(request), job)
    first, until = phase or row["phase"], time.monotonic() + min(LONGEST_WAIT_S if wait < 0 else wait, LONGEST_WAIT_S)
    while row["phase"] == first and row["phase"] in ("PENDING", *ACTIVE) and time.monotonic() < until:
        await asyncio.sleep(_POLL_S)
        row = await run_in_threadpool(_job, shared, _owner(request), job)
    return _xml(_described(row))


@tap_jobs.post("/{job}", response_class=Response, responses=_MOVED, openapi_extra=form_of(ACTION=_DELETE))
def act(job: str, request: Request, shared: Shared, given: Given) -> Response:
    """ACTION=DELETE deletes it, as DELETE does."""
    if given.get("ACTION", "").upper() != "DELETE":
        raise BadQuery("a query takes ACTION=DELETE here, and PHASE below /phase")
    return remove(job, request, shared)


@tap_jobs.delete("/{job}", response_class=Response, responses=_MOVED)
def remove(job: str, request: Request, shared: Shared) -> Response:
    """Delete a query and its answer."""
    with shared.database.session() as connection:
        delete_job(connection, _owner(request), job)
        stop_statement(connection, job)
    return RedirectResponse("/v1/tap/async", 303)


@tap_jobs.post(
    "/{job}/phase", response_class=Response, responses=_MOVED, openapi_extra=form_of(PHASE=_PHASE | {"required": True})
)
def move(job: str, request: Request, shared: Shared, given: Given) -> Response:
    """PHASE=RUN starts it, PHASE=ABORT gives it up."""
    row, wanted = _job(shared, _owner(request), job), given.get("PHASE", "").upper()
    if wanted == "RUN":
        if row["phase"] == "PENDING":
            _start(shared, job, row["parameters"])
    elif wanted == "ABORT":
        with shared.database.session() as connection:
            if move_job(connection, job, ("PENDING", *ACTIVE), "ABORTED"):
                stop_statement(connection, job)
    else:
        raise BadQuery("PHASE is RUN or ABORT")
    return RedirectResponse(f"/v1/tap/async/{job}", 303)


@tap_jobs.post(
    "/{job}/{part}",
    response_class=Response,
    responses=_MOVED,
    openapi_extra=form_of(DESTRUCTION=_TIME, EXECUTIONDURATION=_SECONDS, **_FREE),
)
def change(
    job: str,
    part: Annotated[str, Path(description="which part", json_schema_extra={"enum": list(_CHANGED)})],
    request: Request,
    shared: Shared,
    given: Given,
) -> Response:
    """DESTRUCTION below /destruction, parameters below /parameters before it is started; the time a query may take stays as it is."""
    row = _job(shared, _owner(request), job)
    if part not in _CHANGED:
        raise BadQuery(f"of a query {', '.join(_CHANGED)} can be changed, and its phase")
    parameters = {name: given[name] for name in _KEPT if name in given} if part == "parameters" else None
    moment = None
    if part == "destruction":
        try:
            moment = datetime.fromisoformat(given.get("DESTRUCTION", ""))
        except ValueError as error:
            raise BadQuery("DESTRUCTION is a time as 2026-01-31T12:00:00Z") from error
        moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    with shared.database.session() as connection:
        change_job(connection, row["owner"], job, parameters=parameters, destroy_at=moment)
    return RedirectResponse(f"/v1/tap/async/{job}", 303)


@tap_jobs.get("/{job}/results/result", response_class=Response, responses=ROWS)
def result(job: str, request: Request, shared: Shared) -> Response:
    """The answer of a query that is over."""
    with shared.database.session() as connection:
        content, media_type = result_of(connection, _owner(request), job)
    return Response(content, media_type=media_type)


@tap_jobs.get("/{job}/{part}", response_class=Response, responses=kinds("text/plain", XML, VOTABLE))
def part_of(job: str, part: Part, request: Request, shared: Shared) -> Response:
    """One part of a query: phase, owner, quote, executionduration, destruction, error, parameters or results."""
    from service.api import formats

    row = _job(shared, _owner(request), job)
    if part == "error":
        return Response(formats.error_votable(row["error"] or ""), media_type=formats.MEDIA_TYPES["votable"])
    if part in ("parameters", "results"):
        return _xml((_parameters if part == "parameters" else _results)(row, _UWS))
    values = (row["phase"], row["owner"], "", str(STATEMENT_S), _time(row["destroyAt"]))
    words = dict(zip(PARTS, values, strict=True))
    if part not in words:
        raise BadQuery(f"a query has {', '.join([*words, 'error', 'parameters', 'results'])}")
    return PlainTextResponse(words[part])


def _job(shared: Resources, owner: str, number: str) -> dict[str, Any]:
    with shared.database.session() as connection:
        return job_of(connection, owner, number)


def _start(shared: Resources, number: str, given: dict[str, str]) -> None:
    """Queue a job for the threads of this process, unless somebody did already."""
    with shared.database.session() as connection:
        started = move_job(connection, number, ("PENDING",), "QUEUED")
    if started:
        future = _POOL.submit(_run, shared, number, given)
        _JOBS[number] = shared, future
        if future.done():
            _JOBS.pop(number, None)


def stop_jobs(shared: Resources) -> None:
    """Give up what waits or runs for an application that is closed: nothing of it is waited for."""
    own = [(number, future) for number, (whose, future) in list(_JOBS.items()) if whose is shared and not future.done()]
    if not own:
        return
    try:
        with shared.database.session() as connection:
            for number, future in own:
                future.cancel()
                leave_job(connection, number)
                stop_statement(connection, number)
    except DatabaseUnavailable as error:  # they are found to have been left in a while
        _log.warning("queries that wait or run cannot be ended: %s", error)
    for number, _ in own:
        _JOBS.pop(number, None)


def _run(shared: Resources, number: str, given: dict[str, str]) -> None:
    from service.api import formats

    with shared.database.session() as connection:
        keep_waiting(connection, [n for n, (whose, _) in list(_JOBS.items()) if whose is shared])
        if not move_job(connection, number, ("QUEUED",), "EXECUTING"):
            _JOBS.pop(number, None)
            return
    content, media_type, error = None, None, None
    try:
        query, kind = asked(given)
        content, media_type = _answer(shared, number, query, kind), formats.MEDIA_TYPES[kind]
    except (psycopg.Error, ApdbError, DatabaseUnavailable) as wrong:
        error = refusal(wrong, STATEMENT_S)[0]
    except Exception as wrong:  # of a thread that has nobody else to tell
        _log.exception("query %s", number)
        error = f"a fault of this program: {type(wrong).__name__}"
    with shared.database.session() as connection:
        end_job(connection, number, content, media_type, error)
    _JOBS.pop(number, None)


def _answer(shared: Resources, number: str, query: Any, kind: str) -> bytes:
    from apdb.copy.decode import stream_frames
    from service.api import formats

    out = bytearray()
    database = Database(shared.settings.database(), STATEMENT_S, read_only=True)
    with database.session() as connection:
        connection.execute("SELECT set_config('application_name', %s, false)", (session_name(number),))
        if not is_executing(connection, number):  # given up before anybody could find this connection
            return b""
        frames = stream_frames(connection, query.statement, query.columns, query.parameters)
        for piece in formats.write(kind, frames, query):
            out += piece
            if len(out) > MOST_BYTES:
                raise BadQuery(f"the answer is larger than {MOST_BYTES >> 20} MB: ask /sync, which streams it")
    return bytes(out)


def _xml(text: str) -> Response:
    return Response(f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n', media_type="application/xml")


def _time(value: datetime | None) -> str:
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _moment(name: str, value: datetime | None) -> str:
    return f'<uws:{name} xsi:nil="true"/>' if value is None else f"<uws:{name}>{_time(value)}</uws:{name}>"


def _parameters(row: dict[str, Any], names: str = "") -> str:
    each = "".join(
        f"<uws:parameter id={quoteattr(k)}>{escape(str(v))}</uws:parameter>" for k, v in row["parameters"].items()
    )
    return f"<uws:parameters {names}>{each}</uws:parameters>"


def _results(row: dict[str, Any], names: str = "") -> str:
    link = quoteattr(f"/v1/tap/async/{row['jobId']}/results/result")
    result = f'<uws:result id="result" xlink:href={link}/>' if row["phase"] == "COMPLETED" else ""
    return f"<uws:results {names}>{result}</uws:results>"


def _described(row: dict[str, Any]) -> str:
    error = ""
    if row["error"]:
        message = f"<uws:message>{escape(row['error'])}</uws:message>"
        error = f'<uws:errorSummary type="fatal" hasDetail="true">{message}</uws:errorSummary>'
    return (
        f'<uws:job {_UWS} xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><uws:jobId>{row["jobId"]}</uws:jobId>'
        f"<uws:ownerId>{escape(row['owner'])}</uws:ownerId><uws:phase>{row['phase']}</uws:phase>"
        f"{_moment('quote', None)}<uws:creationTime>{_time(row['createdAt'])}</uws:creationTime>{_moment('startTime', None if row['phase'] == 'QUEUED' else row['startedAt'])}"
        f"{_moment('endTime', row['endedAt'])}<uws:executionDuration>{STATEMENT_S}</uws:executionDuration>"
        f"<uws:destruction>{_time(row['destroyAt'])}</uws:destruction>{_parameters(row)}{_results(row)}{error}</uws:job>"
    )
