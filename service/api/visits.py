"""Visits over HTTP: they come in (as JSON, with an image, many at once), their states go out; cancelled, tried again."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from apdb import VisitState
from apdb.errors import NotFound
from apdb.queue.changes import cancel_visit, retry_visit
from apdb.queue.keys import RequestKey
from service.api.problems import problem
from service.api.resources import Resources, Shared
from service.api.stream.waiting import Wait, row_at_end
from service.api.uploads import keep_upload
from service.crash import crash_at
from service.errors import BadMessage, QuotaExceeded
from service.intake.message import VisitMessage, decode_message
from service.intake.submit import Answer, Submission, content_digest, describe
from service.settings import Settings

__all__ = ["visits"]

visits = APIRouter(tags=["visits"])

MOST = 2_000  # visits of a batch
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[!-~]{1,255}$",
        description="of the client's choice: with it the same request gets the same answer for three days",
    ),
]
Reprocess = Annotated[
    str | None,
    Query(
        json_schema_extra={"enum": ["never", "replace"]},
        description="stands for that of the message: never refuses a visit that came before with another message, replace takes it back",
    ),
]
Visit = Annotated[int, Path(description="visit number")]
Detector = Annotated[int, Path(description="detector number")]

_EXAMPLE = {"instrument": "mycam", "science": "/data/frame.fits", "visit": 24020103652, "detector": 3}
_STATE: dict[str, Any] = {
    "visit": 24020103652, "detector": 3, "state": "queued", "attempt": 0, "priority": 0, "instrument": "mycam", "band": None,
    "midpointMjdTai": None, "release": 0, "counts": None, "seconds": None, "error": None, "waitUntil": None,
    "createdAt": "2026-03-01T04:05:06+00:00", "updatedAt": "2026-03-01T04:05:06+00:00", "finishedAt": None,
}  # fmt: skip
_RESULTS: dict[str, Any] = {
    "accepted": 1, "refused": 1,
    "results": [
        {"visit": 24020103652, "detector": 3, "state": "queued", "new": True},
        {"error": {"code": "bad_message", "message": "science: Field required", "help": "docs/errors/bad_message.md"}},
    ],
}  # fmt: skip


_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["visit", "detector", "state"],
    "properties": {
        "visit": {"type": "integer"},
        "detector": {"type": "integer"},
        "state": {"type": "string", "enum": [s.value for s in VisitState]},
    },
}
_LINKS: dict[str, Any] = {
    name: {
        "operationRef": f"#/paths/~1v1~1visits~1{{visit}}~1{{detector}}{path}/{method}",
        "parameters": {"visit": "$response.body#/visit", "detector": "$response.body#/detector"},
        "description": words,
    }
    for name, path, method, words in (
        ("state", "", "get", "What became of it"), ("cancel", "~1cancel", "post", "Give it up"),
        ("retry", "~1retry", "post", "Try it again"), ("sources", "~1sources", "get", "What was detected"),
    )
}  # fmt: skip


def _json(description: str, example: Any, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": schema or {"type": "object"}, "example": example}},
    }


_CONFLICT = {"description": "The visit came before with another message, or its state does not allow it"}
_ENTERED = _json("Entered, now or before", {**_STATE, "new": True}, _SCHEMA) | {"links": _LINKS}
_SEEN = _json("The visit", _STATE, _SCHEMA)


def _body_schema() -> dict[str, Any]:
    """The OpenAPI description of the two kinds of body."""
    parts = {
        "type": "object",
        "required": ["message", "science"],
        "properties": {
            "message": {"type": "string", "description": "the JSON of a message, whose `science` is the other part"},
            "science": {"type": "string", "format": "binary", "description": "the FITS file"},
        },
        "additionalProperties": False,
    }
    content = {
        "application/json": {"schema": VisitMessage.model_json_schema(), "example": _EXAMPLE},
        "multipart/form-data": {"schema": parts},
    }
    return {"requestBody": {"required": True, "content": content}}


def _batch_schema() -> dict[str, Any]:
    several = {
        "type": "array",
        "description": "messages, each as that of POST /v1/visits",
        "items": VisitMessage.model_json_schema(),
        "minItems": 1,
        "maxItems": MOST,
    }
    schema = {
        "type": "object",
        "required": ["visits"],
        "properties": {"visits": several},
        "additionalProperties": False,
    }
    content = {"application/json": {"schema": schema, "example": {"visits": [_EXAMPLE]}}}
    return {"requestBody": {"required": True, "content": content}}


@visits.post("/v1/visits", status_code=202, openapi_extra=_body_schema(), responses={202: _ENTERED, 409: _CONFLICT})
async def post_visit(
    request: Request,
    shared: Shared,
    reprocess: Reprocess = None,
    wait: Wait = 0.0,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Enter a ccdVisit: a JSON message that names files, or multipart with the parts `message` and `science`.

    `reprocess` (``never`` or ``replace``) stands for that of the message.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        with shared.uploads.one():
            message = await _with_upload(request, shared.settings)
        await _take_place(request, shared)
    else:
        body = await request.body()
        await _take_place(request, shared)
        message = _decode(body)
    if reprocess is not None:
        message["reprocess"] = reprocess
    submission = _submission(request, shared, idempotency_key, message)
    (status, answer), replayed = await shared.admission.run(submission.one, message)
    crash_at("accepted", shared.settings.crash_point)
    if wait > 0:
        request.state.slot.release()  # who waits takes no place from those who submit
        row = await row_at_end(shared, answer["visit"], answer["detector"], wait)
        answer = answer if row is None else {**describe(row), "new": answer["new"]}
    return _answer((status, answer), replayed, f"/v1/visits/{answer['visit']}/{answer['detector']}")


@visits.post(
    "/v1/visits/batch", status_code=202, openapi_extra=_batch_schema(),
    responses={202: _json("All were entered, now or before", {"accepted": 1, "refused": 0, "results": [_RESULTS["results"][0]]}),
               207: _json("Some or all were refused: their results say why", _RESULTS)},
)  # fmt: skip
async def post_visits(request: Request, shared: Shared, idempotency_key: IdempotencyKey = None) -> Response:
    """Enter many ccdVisits at once: one that cannot be entered does the others no harm, its result says why.

    Where something fails that may pass (503), none was entered.
    """
    raw = await request.body()
    await _take_place(request, shared)
    body = _decode(raw)
    messages = body.get("visits")
    if set(body) != {"visits"} or not isinstance(messages, list) or not 1 <= len(messages) <= MOST:
        raise BadMessage(f'expected {{"visits": [...]}} with 1 to {MOST} messages')
    if len(messages) > getattr(request.state, "quota_left", len(messages)):
        raise QuotaExceeded(
            f"{len(messages)} visits are more than what is left of today's: send fewer, or send them tomorrow"
        )
    submission = _submission(request, shared, idempotency_key, messages)
    answer, replayed = await shared.admission.run(submission.many, messages)
    crash_at("accepted", shared.settings.crash_point)
    request.state.entered = 0 if replayed else answer[1]["accepted"]
    return _answer(answer, replayed, None)


@visits.get("/v1/visits/{visit}/{detector}", response_model=None, responses={200: _SEEN})
async def get_visit(visit: int, detector: int, shared: Shared, wait: Wait = 0.0) -> Response:
    """State, timings, counts and error of one ccdVisit."""
    if not _is_key(visit, detector):
        return problem(404, NotFound.code, "no such visit")
    row = await row_at_end(shared, visit, detector, wait)
    if row is None:
        return problem(404, NotFound.code, f"visit {visit}, detector {detector} never came")
    return JSONResponse(describe(row))


@visits.post("/v1/visits/{visit}/{detector}/cancel", responses={200: _SEEN, 409: _CONFLICT})
async def cancel(visit: Visit, detector: Detector, shared: Shared) -> Response:
    """Cancel a visit that has not ended; an attempt that goes on cannot commit any more. What was stored before stays."""
    return await _changed(shared, cancel_visit, visit, detector)


@visits.post("/v1/visits/{visit}/{detector}/retry", responses={200: _SEEN, 409: _CONFLICT})
async def retry(visit: Visit, detector: Detector, shared: Shared) -> Response:
    """Queue a visit again that failed, had no work or was cancelled, with its failures forgotten; one that pauses goes on."""
    return await _changed(shared, retry_visit, visit, detector)


async def _changed(shared: Resources, change: Any, visit: int, detector: int) -> Response:
    if not _is_key(visit, detector):
        return problem(404, NotFound.code, "no such visit")
    return JSONResponse(describe(await run_in_threadpool(change, shared.database, visit, detector)))


def _is_key(visit: int, detector: int) -> bool:
    return 0 <= visit < 1 << 53 and 0 <= detector < 1 << 15


async def _take_place(request: Request, shared: Resources) -> None:
    """Take a place among those who submit, unless it was given with the request: it waited for it."""
    if getattr(request.state, "slot", None) is None:
        request.state.slot = await shared.admission.enter()


def _submission(request: Request, shared: Resources, key: str | None, content: Any) -> Submission:
    """Return what enters the messages of a request."""
    named = None
    if key is not None:
        named = RequestKey(request.state.principal.name, key, content_digest(request.url.path, content))
    return Submission(shared.settings, shared.headers, shared.database, named)


def _answer(answer: Answer, replayed: bool, location: str | None) -> Response:
    status, body = answer
    headers = {"Location": location} if location else {}
    if replayed:
        headers["Idempotency-Replayed"] = "true"
    return JSONResponse(body, status, headers)


async def _with_upload(request: Request, settings: Settings) -> dict[str, Any]:
    """Return the message of a multipart body, whose image is kept and named in it."""
    async with request.form(max_files=1, max_fields=1) as form:
        message, upload = form.get("message"), form.get("science")
        if not isinstance(message, str) or not isinstance(upload, UploadFile):
            raise BadMessage("multipart needs the parts 'message' (JSON) and 'science' (a FITS file)")
        decoded = _decode(message.encode())
        decoded["science"] = await run_in_threadpool(keep_upload, upload.file, settings)
    return decoded


def _decode(body: bytes) -> dict[str, Any]:
    if not body:
        raise BadMessage("the body is empty: a JSON object is wanted")
    message = decode_message(body)
    if not isinstance(message, dict):
        raise BadMessage("the message must be a JSON object")
    return message
