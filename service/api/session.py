"""A session for pages: begun with a token, known by a cookie, ended at any time."""

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from apdb.access.tokens import StoredToken
from service.access.keys import cookie_of
from service.access.principals import Principal
from service.access.sessions import (
    COOKIE,
    begin_session,
    csrf_word,
    end_own_session,
    end_session,
    own_sessions,
)
from service.api.problems import problem
from service.api.resources import Shared
from service.errors import BadMessage, Forbidden

__all__ = ["session"]

session = APIRouter(tags=["session"])


@session.post("/v1/session", status_code=201, response_model=None)
def begin(request: Request, shared: Shared) -> Response:
    """Begin a session with the token of this request: a cookie, and the word for the header X-CSRF-Token of changes."""
    principal: Principal = request.state.principal
    if shared.settings.access != "tokens":
        return problem(422, BadMessage.code, "nobody is asked for a token here: there is nothing to begin")
    if principal.by_cookie:
        return problem(422, BadMessage.code, "a session cannot begin another: show the token")
    token, seconds = begin_session(shared.database, principal)
    answer = JSONResponse({**_told(principal), "csrf": csrf_word(token), "seconds": int(seconds)}, 201)
    answer.set_cookie(COOKIE, token, max_age=int(seconds), path="/", secure=True, httponly=True, samesite="strict")
    return answer


@session.get("/v1/session", response_model=None)
def look(request: Request) -> dict[str, Any]:
    """Who is asking, and what he may do; of a session also the word for the header X-CSRF-Token."""
    cookie = cookie_of(request.scope["headers"])
    principal: Principal = request.state.principal
    return {**_told(principal), **({"csrf": csrf_word(cookie)} if principal.by_cookie and cookie else {})}


@session.delete("/v1/session", status_code=204, response_model=None)
def end(request: Request, shared: Shared) -> Response:
    """End the session; its cookie is good for nothing from then on."""
    if request.state.principal.by_cookie:
        end_session(shared.database, request.state.principal)
    answer = Response(status_code=204, headers={"Clear-Site-Data": '"cookies", "storage"'})
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer


@session.get("/v1/sessions", response_model=None)
def list_own(request: Request, shared: Shared) -> dict[str, Any]:
    """The sessions of whoever asks that have not ended."""
    principal: Principal = request.state.principal
    return {"sessions": [_session(s, principal) for s in own_sessions(shared.database, principal)]}


@session.delete("/v1/sessions/{session_id}", status_code=204, response_model=None)
def end_one(session_id: str, request: Request, shared: Shared) -> Response:
    """End one of one's own sessions, such as one that was left open elsewhere: it takes the token, a session does not do."""
    principal: Principal = request.state.principal
    if principal.by_cookie:
        return problem(403, Forbidden.code, "show the token: a session ends no other (DELETE /v1/session ends itself)")
    end_own_session(shared.database, principal, session_id)
    return Response(status_code=204)


def _session(stored: StoredToken, principal: Principal) -> dict[str, Any]:
    return {
        "id": stored.token_id,
        "createdAt": stored.created_at.isoformat(),
        "lastUsedAt": None if stored.last_used_at is None else stored.last_used_at.isoformat(),
        "secondsLeft": int(stored.seconds_left),
        "scopes": stored.scopes,
        "current": stored.token_id == principal.token_id,
    }


def _told(principal: Principal) -> dict[str, Any]:
    return {"principal": principal.name, "scopes": sorted(principal.scopes)}
