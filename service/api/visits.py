"""Visits over HTTP: a visit comes in (as JSON, or with its image), its state goes out."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from apdb.errors import NotFound
from service.api.problems import problem
from service.api.resources import Shared
from service.api.uploads import keep_upload
from service.errors import BadMessage
from service.intake.message import VisitMessage, decode_message
from service.intake.submit import describe, submit_visit
from service.settings import Settings

__all__ = ["visits"]

visits = APIRouter(tags=["visits"])


def _body_schema() -> dict[str, Any]:
    """The OpenAPI description of the two kinds of body."""
    parts = {
        "type": "object",
        "required": ["message", "science"],
        "properties": {"message": {"type": "string"}, "science": {"type": "string", "format": "binary"}},
    }
    content = {
        "application/json": {"schema": VisitMessage.model_json_schema()},
        "multipart/form-data": {"schema": parts},
    }
    return {"requestBody": {"required": True, "content": content}}


@visits.post("/v1/visits", status_code=202, openapi_extra=_body_schema())
async def post_visit(request: Request, shared: Shared, reprocess: str | None = None) -> Response:
    """Enter a ccdVisit: a JSON message that names files, or multipart with the parts `message` and `science`.

    `reprocess` (``never`` or ``replace``) stands for that of the message.
    """
    if request.headers.get("content-type", "").startswith("multipart/"):
        with shared.uploads.one():
            message = await _with_upload(request, shared.settings)
    else:
        message = _decode(await request.body())
    if reprocess is not None:
        message["reprocess"] = reprocess
    description, new = await run_in_threadpool(submit_visit, message, shared.settings, shared.ledger, shared.headers)
    location = f"/v1/visits/{description['visit']}/{description['detector']}"
    return JSONResponse({**description, "new": new}, 202, {"Location": location})


@visits.get("/v1/visits/{visit}/{detector}", response_model=None)
def get_visit(visit: int, detector: int, shared: Shared) -> dict[str, Any] | Response:
    """State, timings, counts and error of one ccdVisit."""
    if not (0 <= visit < 1 << 53 and 0 <= detector < 1 << 15):
        return problem(404, NotFound.code, "no such visit")
    row = shared.ledger.get(visit, detector)
    return describe(row) if row else problem(404, NotFound.code, f"visit {visit}, detector {detector} never came")


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
    message = decode_message(body or b"{")
    if not isinstance(message, dict):
        raise BadMessage("the message must be a JSON object")
    return message
