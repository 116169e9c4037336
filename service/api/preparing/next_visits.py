"""Announcements of next visits over HTTP."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from apdb.announcements import announce, announced
from service.api.resources import Resources, Shared
from service.intake.announcement import Announcement, describe_announcement, parse_announcement
from service.intake.message import decode_message

__all__ = ["next_visits"]

next_visits = APIRouter(tags=["next visits"], prefix="/v1/next-visits")

_SENT = {"ra": 150.1, "dec": 2.2, "radiusDeg": 0.2, "band": "r", "templates": "deep"}
_TOLD = {"id": 7, "createdAt": "2026-03-01T04:05:06+00:00", "expiresAt": "2026-03-01T04:20:06+00:00", **_SENT}


def _json(status: int, description: str, example: Any) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {status: {"description": description, "content": content}}


_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Announcement.model_json_schema(), "example": _SENT}},
    }
}


@next_visits.post(
    "", status_code=202, openapi_extra=_BODY, responses=_json(202, "Workers without a visit prepare it", _TOLD)
)
async def post_announcement(request: Request, shared: Shared) -> Response:
    """Say where the telescope will look: workers that are free read templates and history of that place beforehand."""
    announcement = parse_announcement(decode_message(await request.body()))
    return JSONResponse(await run_in_threadpool(_enter, shared, announcement), 202)


@next_visits.get("", responses=_json(200, "Those that have not expired, the newest first", {"nextVisits": [_TOLD]}))
def list_announcements(shared: Shared) -> dict[str, Any]:
    """Announcements that workers look at."""
    with shared.database.session() as connection:
        return {"nextVisits": [describe_announcement(row) for row in announced(connection)]}


def _enter(shared: Resources, announcement: Announcement) -> dict[str, Any]:
    with shared.database.session() as connection:
        content = announcement.model_dump(mode="json", exclude_none=True, exclude={"expiresS"})
        return describe_announcement(announce(connection, content, announcement.expiresS))
