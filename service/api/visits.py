"""Visits over HTTP: a visit comes in (as JSON, or with its image), its state goes out."""

import hashlib
import json
import os
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from apdb.errors import NotFound
from service.api.problems import problem, too_large
from service.api.resources import Shared
from service.errors import BadMessage
from service.intake.message import VisitMessage
from service.intake.submit import describe, submit_visit
from service.settings import Settings

__all__ = ["MAX_JSON", "visits"]

visits = APIRouter(tags=["visits"])

MAX_JSON = 1 << 20  # bytes of a body without an image
_CHUNK = 1 << 20


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
        message = await _with_upload(request, shared.settings)
    else:
        body = await _body_of(request)
        if body is None:
            return too_large(MAX_JSON)
        message = _decode(body)
    if reprocess is not None:
        message["reprocess"] = reprocess
    description, new = await run_in_threadpool(submit_visit, message, shared.settings, shared.ledger)
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
        decoded["science"] = await run_in_threadpool(_keep, upload, settings)
    return decoded


async def _body_of(request: Request) -> bytes | None:
    """Return the body, None when it grows beyond the limit (a chunked body has no length up front)."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON:
            return None
    return bytes(body)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the message is no JSON: {error}") from error
    if not isinstance(message, dict):
        raise BadMessage("the message must be a JSON object")
    return message


def _keep(upload: UploadFile, settings: Settings) -> str:
    """Store an upload under a name of ours (its bytes decide the name, so that the same image is the same message)."""
    digest, size, limit = hashlib.sha256(), 0, settings.max_upload_mb << 20
    partial = settings.upload_dir / f".{uuid.uuid4().hex}.part"
    try:
        with partial.open("wb") as out:
            while chunk := upload.file.read(_CHUNK):
                size += len(chunk)
                if size > limit:
                    raise BadMessage(f"the upload is larger than {limit} bytes")
                digest.update(chunk)
                out.write(chunk)
        target = settings.upload_dir.resolve() / f"{digest.hexdigest()}.fits"
        os.replace(partial, target)
        return str(target)
    finally:
        partial.unlink(missing_ok=True)
