"""The gate: who is asking, whether he may, how often, and the record of what was changed or refused.

It stands before the routes, so that what has no rule (`service.access.policy`) is closed, and no body is read for nothing.
"""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apdb.access.record import Act
from service.access.acts import Acts
from service.access.keys import Keys, cookie_of
from service.access.limits import Allowance, Buckets
from service.access.listening import is_safe_host
from service.access.policy import Rule, is_page, is_public, rule_of
from service.access.principals import Principal
from service.access.sessions import is_csrf_word
from service.api.problems import RETRY_AFTER_S, problem
from service.errors import Forbidden, Unauthenticated
from service.observe.log import about
from service.observe.traces import name_request
from tasks.errors import AlertProdError

__all__ = ["Gate"]

FAILURES_PER_MINUTE = 60  # tokens that are not good, from one address
CHALLENGE = 'Bearer realm="alertprod"'
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")
UNKNOWN = "unknown:nobody"
STREAM_AGAIN_S = 5.0  # after which who follows a stream is asked again who he is
T = TypeVar("T")


class _NoLongerKnown(Exception):
    """A token was revoked, or is over, while its stream went on."""


class _Refused(Exception):
    """The request is answered here."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


class Gate:
    """ASGI application around another.

    Parameters
    ----------
    app
        What is guarded.
    keys
        By which somebody is known.
    acts
        Where what was done is entered.
    rate_limit
        Requests per minute of a principal; 0 is no limit.
    visits_per_day
        Visits that a principal may submit in a UTC day; 0 is no limit.
    """

    def __init__(self, app: ASGIApp, keys: Keys, acts: Acts, rate_limit: int, visits_per_day: int) -> None:
        self._app, self._keys, self._acts = app, keys, acts
        self._recording = CapacityLimiter(1)  # one connection: more threads would wait for each other
        self._rates, self._failures = Buckets(rate_limit), Buckets(FAILURES_PER_MINUTE)
        self._quota = visits_per_day

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        if scope["type"] == "websocket":  # there are none
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http" or is_public(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
        else:
            await self._guard(_Visit(scope), receive, send)

    async def _guard(self, visit: "_Visit", receive: Receive, send: Send) -> None:
        principal, headers = None, []
        try:
            self._from_here(visit)
            principal = await self._who(visit)
            visit.scope["state"]["principal"] = principal
            headers = self._within_rate(principal, visit)
            if principal.by_cookie and visit.changes:
                _need_word(visit)
            if not principal.may(visit.rule.scopes):
                raise _Refused(_no_scope(principal, visit.rule))
            await self._within_quota(principal, visit)
        except _Refused as refused:
            refused.answer.raw_headers.extend(headers)
            await self._enter(principal, visit, refused.answer.status_code, {})
            answer = _for_people(visit) if refused.answer.status_code == 401 and visit.is_for_people else refused.answer
            await answer(visit.scope, receive, send)
            return
        try:
            with about(principal=principal.name), suppress(_NoLongerKnown):
                await self._app(visit.scope, receive, self._noting(principal, visit, headers, send))
        finally:
            visit.release()

    def _from_here(self, visit: "_Visit") -> None:
        """Refuse what a page of another site makes a browser send."""
        host = visit.header(b"host") or ""
        if self._keys.open_to is not None and self._keys.local and host and not is_safe_host(host):
            raise _Refused(
                problem(403, Forbidden.code, f"the name {host!r} is none of this machine's: use its address")
            )
        origin = visit.header(b"origin")
        foreign = origin is not None and origin.lower().partition("://")[2] != host.lower()
        if visit.changes and (foreign or visit.header(b"sec-fetch-site") in ("cross-site", "same-site")):
            raise _Refused(problem(403, Forbidden.code, "pages of other sites may not change anything here"))

    async def _who(self, visit: "_Visit") -> Principal:
        try:
            principal = self._keys.at_once(visit.scope["headers"])
            if principal is not None:
                return principal
            if self._failures.level(visit.address) < 1 and not self._keys.was_good(visit.scope["headers"]):
                retry = self._failures.take(visit.address).retry_s
                text = f"too many tokens that are not good came from {visit.address}: try again in {retry} s"
                raise _Refused(problem(429, "too_many_requests", text, retry))
            return await run_in_threadpool(self._keys.look_up, visit.scope["headers"])
        except Unauthenticated as error:
            shown = visit.shows_something
            if shown:
                self._failures.take(visit.address)
            answer = problem(401, error.code, str(error))
            answer.headers["WWW-Authenticate"] = CHALLENGE + (', error="invalid_token"' if shown else "")
            raise _Refused(answer) from error
        except AlertProdError as error:  # who it is cannot be found out now
            raise _Refused(problem(503, error.code, str(error), RETRY_AFTER_S)) from error

    async def _is_still_known(self, visit: "_Visit") -> bool:
        """Whether who follows a stream may still: his token may have been revoked, or be over."""
        try:
            principal = self._keys.at_once(visit.scope["headers"])
            if principal is None:
                principal = await run_in_threadpool(self._keys.look_up, visit.scope["headers"])
        except Unauthenticated:
            return False
        except AlertProdError:  # who it is cannot be found out now: he was known before, and is asked again
            return True
        return principal.may(visit.rule.scopes)

    def _within_rate(self, principal: Principal, visit: "_Visit") -> list[tuple[bytes, bytes]]:
        """Count the request; returns what the answer says of it."""
        if not principal.limited:
            return []
        everybody = principal is self._keys.open_to
        allowance: Allowance = self._rates.take(f"{principal.name} at {visit.address}" if everybody else principal.name)
        headers = allowance.headers() if allowance.limit else []
        if not allowance.allowed:
            text = f"{principal.name} may ask {allowance.limit} times a minute: try again in {allowance.retry_s} s"
            answer = problem(429, "too_many_requests", text, allowance.retry_s)
            answer.raw_headers.extend(headers)
            raise _Refused(answer)
        return headers

    async def _within_quota(self, principal: Principal, visit: "_Visit") -> None:
        """Count a visit that is submitted."""
        if not (self._quota and principal.limited and visit.rule.submits):
            return
        try:
            used, left_s = await self._act(self._acts.count_visits, principal.name, 1)
            if used > self._quota:
                await self._act(self._acts.count_visits, principal.name, -1)
        except AlertProdError as error:
            raise _Refused(problem(503, error.code, str(error), RETRY_AFTER_S)) from error
        if used > self._quota:
            text = f"{principal.name} may submit {self._quota} visits in a day (UTC), which are used up"
            raise _Refused(problem(429, "quota_exceeded", text, math.ceil(left_s)))
        visit.counted = True
        visit.scope["state"]["quota_left"] = self._quota - used + 1

    def _noting(self, principal: Principal, visit: "_Visit", headers: list[tuple[bytes, bytes]], send: Send) -> Send:
        """Return a `send` that adds headers, and enters what was changed before the client is told."""

        streams, asked = False, time.monotonic()

        async def forward(message: Message) -> None:
            nonlocal streams, asked
            if streams and time.monotonic() - asked >= STREAM_AGAIN_S:
                asked = time.monotonic()
                if not await self._is_still_known(visit):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    raise _NoLongerKnown
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *headers]
                streams = any(v.startswith(b"text/event-stream") for k, v in message["headers"] if k == b"content-type")
                if visit.changes and message["status"] < 400:
                    await self._enter(principal, visit, message["status"], dict(message["headers"]))
                if visit.counted and (more := visit.entered(message["status"]) - 1):
                    with suppress(AlertProdError):  # the answer goes out nevertheless
                        await self._act(self._acts.count_visits, principal.name, more)
            await send(message)

        return forward

    async def _act(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something with the record, in a thread that nothing else waits for."""
        return await run_sync(work, *arguments, limiter=self._recording)

    async def _enter(
        self, principal: Principal | None, visit: "_Visit", status: int, headers: dict[bytes, bytes]
    ) -> None:
        location = headers.get(b"location", b"").decode("latin-1")
        act = Act(
            UNKNOWN if principal is None else principal.name,
            f"{visit.scope['method']} {visit.rule.path}"[:200],
            (location or visit.scope["path"])[:200].replace("\0", "\\0"),
            status,
            visit.address,
            visit.scope["state"].get("request_id"),
            None if principal is None or principal.token_id is None else {"token": principal.token_id},
        )
        shown = status == 401 and visit.shows_something
        if status == 429 or (principal is None and not shown):  # rows that anybody could make without end
            self._acts.tell(act)
        else:
            await self._act(self._acts.write, act)


class _Visit:
    """One request."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        name_request(scope)
        self.rule: Rule = rule_of(scope["method"], scope["path"])
        self.changes = scope["method"] in _CHANGING
        self.address = (scope.get("client") or ("", 0))[0]
        self.counted = False

    def release(self) -> None:
        """Give back the place among those who submit, where it has one."""
        if (slot := self.scope["state"].get("slot")) is not None:
            slot.release()

    def entered(self, status: int) -> int:
        """Return how many visits were entered, by the status of the answer and what the handler says."""
        return int(self.scope["state"].get("entered", 1)) if 200 <= status < 300 else 0

    @property
    def shows_something(self) -> bool:
        """Whether it comes with anything by which somebody may be known."""
        return self.header(b"authorization") is not None or cookie_of(self.scope["headers"]) is not None

    @property
    def is_for_people(self) -> bool:
        """Whether a browser asks for a page."""
        wanted = self.header(b"accept") or ""
        return not self.changes and "text/html" in wanted and is_page(self.scope["path"])

    def header(self, name: bytes) -> str | None:
        """Return a header of the request, None where it has none."""
        headers: Iterable[tuple[bytes, bytes]] = self.scope["headers"]
        return next((value.decode("latin-1") for key, value in headers if key == name), None)


def _for_people(visit: "_Visit") -> Response:
    """Return the way to the page where one signs in, and from there back."""
    asked = visit.scope["path"] + (
        f"?{visit.scope['query_string'].decode('latin-1')}" if visit.scope["query_string"] else ""
    )
    return RedirectResponse(f"/sign-in?next={quote(asked, safe='/')}", 303)


def _need_word(visit: "_Visit") -> None:
    """Refuse a change that a page may have made a browser ask for without knowing the session."""
    if not is_csrf_word(visit.header(b"x-csrf-token"), cookie_of(visit.scope["headers"]) or ""):
        text = "a change by a session needs its word in the header X-CSRF-Token: GET /v1/session tells it"
        raise _Refused(problem(403, Forbidden.code, text))


def _no_scope(principal: Principal, rule: Rule) -> Response:
    wanted = " or ".join(rule.scopes)
    answer = problem(403, Forbidden.code, f"{principal.name} may not: the scope {wanted} is needed")
    answer.headers["WWW-Authenticate"] = f'{CHALLENGE}, error="insufficient_scope", scope="{" ".join(rule.scopes)}"'
    return answer
