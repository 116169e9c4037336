"""The shield: sizes, times and types of what comes in, one form of every answer, and the headers that browsers obey."""

import asyncio
import logging
import re
import time
from collections import deque
from dataclasses import dataclass

from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apdb.errors import Busy
from service.api.guard.admission import Admission, Slot
from service.api.problems import RETRY_AFTER_S, problem, too_large
from service.errors import BadMessage
from service.observe.traces import name_request

__all__ = ["MAX_JSON", "BodyLimits", "Shield"]

MAX_JSON = 1 << 20  # bytes of a body without an image
MOST_HELD = 64 << 20  # bytes of bodies without images that are in memory at a time
BUSY_S = 2  # after which one whose body had no room may come again
SLOWEST = 10_000  # bytes per second: what comes more slowly holds a connection for nothing
_TYPES = ("application/json", "multipart/form-data")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")  # what clients of the protocols below send
_SUBMITTING = ("/v1/visits", "/v1/visits/batch")
_PROTOCOLS = ("/v1/tap/sync", "/v1/tap/async", "/v1/soda/", "/v1/datalink")
_NUL = re.compile(rb"%00", re.IGNORECASE)
_log = logging.getLogger("alertprod.api")

_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
_HSTS = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")


@dataclass(frozen=True)
class BodyLimits:
    """How large bodies may be, and how slow.

    Parameters
    ----------
    upload
        Bytes of a body with an image.
    idle_s
        Seconds without a byte, and seconds that a body has at least; beyond these it must come at 10 kB/s on average.
    """

    upload: int
    idle_s: float


class _BodyRefused(Exception):
    """What comes in is not read on."""

    def __init__(self, answer: Response) -> None:
        super().__init__(answer.status_code)
        self.answer = answer


class Shield:
    """ASGI application around another.

    Parameters
    ----------
    app
        What is shielded.
    limits
        Of bodies.
    admission
        Places of those who submit visits: who finds none waits here, and is told so here, for a part of what it costs
        further inside.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits, admission: Admission) -> None:
        self._app, self._limits, self._admission = app, limits, admission
        self._held = _Held()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name_request(scope)
        answer = _Answer(scope, send)
        held = None if _media_type(scope) == "multipart/form-data" else self._held  # images go to the disk
        body = _Body(receive, self._most(scope), self._limits.idle_s, answer, held)
        slot: Slot | None = None
        try:
            refusal = self._refusal(scope)
            if refusal is None and self._finds_no_place(scope):
                await body.keep()  # who waits keeps no other waiting when there is a place, nor the next request
                try:
                    slot = scope["state"]["slot"] = await self._admission.enter()
                except Busy as full:
                    refusal = problem(503, full.code, str(full), RETRY_AFTER_S)
            if refusal is None:
                await self._app(scope, body.receive, answer.send)
            else:
                await refusal(scope, receive, answer.send)
        except _BodyRefused as refused:
            if answer.started:
                raise
            answer.instead = None
            refused.answer.headers["Connection"] = "close"
            await refused.answer(scope, receive, answer.send)
        except ClientDisconnect:  # whoever went away in the middle of a body gets no answer, and it is nobody's fault
            _log.info("a client went away", extra={"request_id": scope["state"]["request_id"]})
        except Exception:
            _log.exception("a request failed", extra={"request_id": scope["state"]["request_id"]})
            if answer.started:
                raise
            text = "a fault of this program: the log of the service has more under the X-Request-ID of this answer"
            await problem(500, "internal", text)(scope, receive, answer.send)
        finally:
            body.forget()
            if slot is not None:
                slot.release()

    def _most(self, scope: Scope) -> int:
        return self._limits.upload if _media_type(scope) == "multipart/form-data" else MAX_JSON

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request whose head is enough to refuse it."""
        if "\0" in scope["path"] or _NUL.search(scope["query_string"]):
            return problem(400, BadMessage.code, "the address holds a NUL character")
        length = _header(scope, b"content-length")
        has_body = length not in (None, "0") or _header(scope, b"transfer-encoding") is not None
        if length is not None and (not length.isdigit() or int(length) > self._most(scope)):
            answer = too_large(self._most(scope))
            answer.headers["Connection"] = "close"
            return answer
        coding = _header(scope, b"content-encoding")
        if has_body and coding is not None and coding.strip().lower() != "identity":
            text = f"Content-Encoding {coding[:100]!r}: bodies are taken as they are, without compression"
            return problem(415, "unsupported_media_type", text)
        types = _FORMS if scope["path"].startswith(_PROTOCOLS) else _TYPES
        if has_body and (given := _media_type(scope)) is not None and given not in types:
            return problem(
                415, "unsupported_media_type", f"Content-Type {given[:100]!r}: expected {' or '.join(types)}"
            )
        return None

    def _finds_no_place(self, scope: Scope) -> bool:
        """Whether a request that submits visits has to wait; one with an image waits when the image is there."""
        submits = scope["method"] == "POST" and scope["path"] in _SUBMITTING
        return submits and self._admission.full() and _media_type(scope) != "multipart/form-data"


class _Answer:
    """What is sent, with the headers that every answer has."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._more = [*_HEADERS, (b"x-request-id", scope["state"]["request_id"].encode())]
        if scope["scheme"] == "https":
            self._more.append(_HSTS)
        self.started = False
        self.instead: _BodyRefused | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            if self.instead is not None:  # whatever a handler made of the body that it did not get
                raise self.instead
            self.started = True
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            message["headers"] = given + [h for h in self._more if h[0] not in names]
        await self._send(message)


class _Held:
    """Bytes of bodies that are in memory, of all requests."""

    def __init__(self) -> None:
        self.size = 0


class _Body:
    """What is received: counted, for itself and with all others, and timed while it comes."""

    def __init__(self, receive: Receive, most: int, idle_s: float, answer: _Answer, held: _Held | None) -> None:
        self._receive, self._most, self._idle_s, self._answer = receive, most, idle_s, answer
        self._held = held
        self._begin = time.monotonic()
        self._size = 0
        self._whole = False
        self._kept: deque[Message] = deque()

    async def keep(self) -> None:
        """Receive all of it, to be received again."""
        parts: deque[Message] = deque()
        while not self._whole:
            parts.append(await self.receive())
        self._kept = parts

    async def receive(self) -> Message:
        if self._kept:
            return self._kept.popleft()
        if self._whole:  # what comes now is that the client goes away
            return await self._receive()
        left = self._begin + self._idle_s + self._size / SLOWEST - time.monotonic()
        try:
            async with asyncio.timeout(min(self._idle_s, max(left, 0.0))):
                message = await self._receive()
        except TimeoutError:
            text = f"the body came too slowly: {self._size} bytes in {time.monotonic() - self._begin:.0f} s"
            raise self._refused(problem(408, "request_timeout", text)) from None
        size = len(message.get("body", b""))
        self._size += size
        if self._held is not None:
            self._held.size += size
            if self._held.size > MOST_HELD:
                text = "the bodies of other requests fill the memory that there is for them: nothing was taken, send it again"
                raise self._refused(problem(503, Busy.code, text, BUSY_S))
        self._whole = not message.get("more_body", False)
        if self._size > self._most:
            raise self._refused(too_large(self._most))
        return message

    def forget(self) -> None:
        """The request is answered: what was received is in memory no longer."""
        if self._held is not None:
            self._held.size -= self._size

    def _refused(self, answer: Response) -> _BodyRefused:
        self._answer.instead = _BodyRefused(answer)
        return self._answer.instead


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)


def _media_type(scope: Scope) -> str | None:
    value = _header(scope, b"content-type")
    return None if value is None else value.partition(";")[0].strip().lower()
