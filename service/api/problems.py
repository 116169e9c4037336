"""The HTTP problem document (RFC 9457): one form for every answer that is an error, and what becomes one."""

import errno

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from apdb.database import first_line
from apdb.errors import NotFound, VisitConflict
from service.errors import BadMessage, QuotaExceeded, StorageFull, help_path
from tasks.errors import AlertProdError

__all__ = ["RETRY_AFTER_S", "add_problem_handlers", "problem", "too_large"]

RETRY_AFTER_S = 5
_MOST_REASONS = 10  # of a request that breaks its schema


def problem(status: int, code: str, text: str, retry_s: int | None = None) -> JSONResponse:
    """Return a problem document.

    Parameters
    ----------
    status
        HTTP status.
    code
        Code of the error, the name of its page under ``docs/errors``.
    text
        What is wrong and what to do.
    retry_s
        Seconds after which to try again; None where trying again does not help.
    """
    headers = {"Retry-After": str(retry_s)} if retry_s else None
    body = {
        "type": "about:blank",
        "title": code,
        "status": status,
        "code": code,
        "detail": text,
        "help": help_path(code),
    }
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def too_large(limit: int) -> JSONResponse:
    """Return the problem document of a body that is larger than `limit` bytes."""
    return problem(413, "too_large", f"the body is larger than {limit} bytes")


def add_problem_handlers(app: FastAPI) -> None:
    """Let an application answer every error with a problem document."""
    app.exception_handler(AlertProdError)(_own_error)
    app.exception_handler(psycopg.DataError)(_value_without_room)
    app.exception_handler(OSError)(_no_room_on_disk)
    app.exception_handler(RequestValidationError)(_invalid_request)
    app.exception_handler(HTTPException)(_framework_refusal)


def _own_error(_request: Request, error: AlertProdError) -> JSONResponse:
    return problem(_status_of(error), error.code, str(error), RETRY_AFTER_S if error.retriable else None)


def _status_of(error: AlertProdError) -> int:
    if isinstance(error, VisitConflict):
        return 409
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, QuotaExceeded):
        return 429
    return 503 if error.retriable else 422


def _value_without_room(_request: Request, error: psycopg.DataError) -> JSONResponse:
    return problem(422, BadMessage.code, f"the database cannot hold it: {first_line(error)}")


def _no_room_on_disk(_request: Request, error: OSError) -> JSONResponse:
    """A disk that is full: nothing was entered, and it may be freed. What else a system refuses is a fault."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return problem(503, StorageFull.code, "no room is left for what came in: nothing was taken", RETRY_AFTER_S)


def _invalid_request(_request: Request, error: RequestValidationError) -> JSONResponse:
    return problem(422, BadMessage.code, "; ".join(str(e["msg"]) for e in error.errors()[:_MOST_REASONS]))


def _framework_refusal(request: Request, error: HTTPException) -> JSONResponse:
    """What the framework refuses before any handler of ours: unknown paths, other methods, bodies that are no forms."""
    path, headers = request.url.path, dict(error.headers or {})
    if error.status_code == 404:
        answer = problem(404, NotFound.code, f"there is nothing at {path}: /docs lists what there is")
    elif error.status_code == 405:
        allowed = headers.get("Allow", headers.get("allow", "another method"))
        answer = problem(405, "method_not_allowed", f"{path} takes {allowed}, not {request.method}")
    else:
        answer = problem(error.status_code, BadMessage.code, str(error.detail))
    answer.headers.update(headers)
    return answer
