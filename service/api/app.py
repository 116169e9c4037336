"""The HTTP API. Handlers are synchronous and run in the thread pool; no Kafka client lives in this process."""

import json
import os
import uuid
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from apdb import Database, Ledger
from apdb.database import first_line
from apdb.errors import DatabaseUnavailable, NotFound, SchemaMismatch, VisitConflict
from service.api.metrics import render_metrics
from service.api.reads import STREAM_TIMEOUT_S, reads_router
from service.api.schema_registry import schemas_router
from service.errors import BadMessage, help_path
from service.intake.message import VisitMessage
from service.intake.submit import describe, submit_visit
from service.settings import Settings
from tasks.errors import AlertProdError

__all__ = ["create_app"]

MAX_JSON = 1 << 20
_CHUNK = 1 << 20


def _problem(status: int, code: str, text: str, retry_s: int | None = None) -> JSONResponse:
    """RFC 9457 problem details."""
    headers = {"Retry-After": str(retry_s)} if retry_s else None
    body = {
        "type": "about:blank", "title": code, "status": status, "code": code, "detail": text, "help": help_path(code),
    }  # fmt: skip
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _refusal(request: Request, error: HTTPException) -> JSONResponse:
    """What the framework refuses before any handler of ours: unknown paths, other methods, bodies that are no forms."""
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == 404:
        answer = _problem(404, NotFound.code, f"there is nothing at {path}: /docs lists what there is")
    elif error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        answer = _problem(405, "method_not_allowed", f"{path} takes {allowed}, not {request.method}")
    else:
        answer = _problem(error.status_code, BadMessage.code, str(error.detail))
    answer.headers.update(headers)
    return answer


def _status_of(error: AlertProdError) -> int:
    if isinstance(error, VisitConflict):
        return 409
    if isinstance(error, NotFound):
        return 404
    return 503 if error.retriable else 422


def create_app(settings: Settings) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="alertprod", version=version("alertprod"), description="Alert production: post a visit, read its state."
    )
    database = Database(settings.database(), statement_timeout_s=10)
    ledger = Ledger(database)
    settings.upload_dir.mkdir(parents=True, exist_ok=True)

    @app.exception_handler(AlertProdError)
    def _failed(_request: Request, error: AlertProdError) -> JSONResponse:
        return _problem(_status_of(error), error.code, str(error), 5 if error.retriable else None)

    @app.exception_handler(psycopg.DataError)
    def _unfit(_request: Request, error: psycopg.DataError) -> JSONResponse:
        return _problem(422, BadMessage.code, f"the database cannot hold it: {first_line(error)}")

    @app.exception_handler(RequestValidationError)
    def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return _problem(422, "bad_message", "; ".join(str(e["msg"]) for e in error.errors()[:10]))

    app.add_exception_handler(HTTPException, _refusal)  # type: ignore[arg-type]

    @app.middleware("http")
    async def _limits(request: Request, forward: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        multipart = request.headers.get("content-type", "").startswith("multipart/")
        limit = settings.max_upload_mb << 20 if multipart else MAX_JSON
        if not length.isdigit() or int(length) > limit:
            return _problem(413, "too_large", f"the body is larger than {limit} bytes")
        return await forward(request)

    def _accepted(description: dict[str, Any], new: bool) -> JSONResponse:
        place = f"/v1/visits/{description['visit']}/{description['detector']}"
        return JSONResponse({**description, "new": new}, 202, {"Location": place})

    @app.post("/v1/visits", status_code=202, tags=["visits"], openapi_extra=_body_schema())
    async def post_visit(request: Request) -> Response:
        """Enter a ccdVisit: a JSON message that names files, or multipart with the parts `message` and `science`."""
        from starlette.concurrency import run_in_threadpool

        if request.headers.get("content-type", "").startswith("multipart/"):
            async with request.form(max_files=1, max_fields=1) as form:
                message, upload = form.get("message"), form.get("science")
                if not isinstance(message, str) or upload is None or isinstance(upload, str):
                    raise BadMessage("multipart needs the parts 'message' (JSON) and 'science' (a FITS file)")
                data = _decode(message.encode())
                data["science"] = await run_in_threadpool(_keep, upload, settings)
        else:
            body = await _read(request)
            if body is None:
                return _problem(413, "too_large", f"the body is larger than {MAX_JSON} bytes")
            data = _decode(body)
        return _accepted(*await run_in_threadpool(submit_visit, data, settings, ledger))

    @app.get("/v1/visits/{visit}/{detector}", tags=["visits"], response_model=None)
    def get_visit(visit: int, detector: int) -> dict[str, Any] | Response:
        """State, timings, counts and error of one ccdVisit."""
        if not (0 <= visit < 1 << 53 and 0 <= detector < 1 << 15):
            return _problem(404, "not_found", "no such visit")
        row = ledger.get(visit, detector)
        return describe(row) if row else _problem(404, "not_found", f"visit {visit}, detector {detector} never came")

    app.include_router(reads_router(Database(settings.database(), STREAM_TIMEOUT_S, read_only=True)))

    app.include_router(schemas_router((settings.schema_subject, f"{settings.alert_topic}-value")))

    @app.get("/healthz", tags=["operations"])
    def healthz() -> PlainTextResponse:
        """Alive."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", tags=["operations"], response_model=None)
    def readyz() -> Response:
        """Ready: the database answers and has the right schema."""
        try:
            database.check_schema()
        except (DatabaseUnavailable, SchemaMismatch) as error:
            return _problem(503, error.code, str(error), 5)
        return PlainTextResponse("ready\n")

    @app.get("/metrics", tags=["operations"])
    def metrics() -> Response:
        """OpenMetrics."""
        return Response(
            render_metrics(database, settings.alert_topic), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return app


def _body_schema() -> dict[str, Any]:
    """The OpenAPI description of the two kinds of body."""
    message = VisitMessage.model_json_schema()
    parts = {
        "type": "object", "required": ["message", "science"],
        "properties": {"message": {"type": "string"}, "science": {"type": "string", "format": "binary"}},
    }  # fmt: skip
    content = {"application/json": {"schema": message}, "multipart/form-data": {"schema": parts}}
    return {"requestBody": {"required": True, "content": content}}


async def _read(request: Request) -> bytes | None:
    """Return the body, None when it grows beyond the limit (a chunked body has no length up front)."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON:
            return None
    return bytes(body)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the message is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise BadMessage("the message must be a JSON object")
    return data


def _keep(upload: Any, settings: Settings) -> str:
    """Store an upload under a name of ours (its bytes decide the name, so that the same image is the same message)."""
    import hashlib

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
