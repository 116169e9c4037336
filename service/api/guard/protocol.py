"""One connection with limits that the server itself lacks: sizes and times of heads, of idleness, and of slow readers."""

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.api.problems import RETRY_AFTER_S, problem
from service.errors import BadMessage

__all__ = ["ConnectionLimits", "protocol_with"]

LINGER_S = 2.0  # for an answer to reach a client that is still sending


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of one connection, and of their number.

    Parameters
    ----------
    header_s
        Seconds from the beginning (of the connection, or of the first byte of a later request) to the end of the head.
    stalled_s
        Seconds for which an answer may wait for its reader.
    header_bytes, headers
        Size of the head and number of its fields.
    connections
        Open at a time.
    """

    header_s: float = 10.0
    stalled_s: float = 30.0
    header_bytes: int = 32 << 10
    headers: int = 100
    connections: int = 1000


class _TooMuchHead(Exception):
    """The head of a request is over a limit."""


class _Protocol(HttpToolsProtocol):
    limits = ConnectionLimits()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._head_bytes = 0
        self._reading_body = False
        self._begun = False
        self._refusal = (400, BadMessage.code, "this is no HTTP request")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm("head", self.limits.header_s, self._head_too_slow)
        if len(self.connections) > self.limits.connections:
            self._refusal = (503, "busy", f"{self.limits.connections} connections are open: try again")
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        for name in list(self._timers):
            self._disarm(name)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes, self._begun = 0, True
        if "head" not in self._timers:
            self._arm("head", self.limits.header_s, self._head_too_slow)

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._disarm("head")
        self._reading_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._reading_body = False
        self._disarm("linger")  # the rest came: the connection is good for the next request
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._reading_body:  # it was answered before all of it came: what comes now is of no use
            self._arm("linger", LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._arm("stalled", self.limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._disarm("stalled")

    def send_400_response(self, msg: str) -> None:
        """Answer what never becomes a request with a problem document, and close."""
        status, code, text = self._refusal
        answer = problem(status, code, text, RETRY_AFTER_S if status == 503 else None)
        fields = [*answer.raw_headers, (b"connection", b"close"), (b"cache-control", b"no-store")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self.transport.write(STATUS_LINE[status] + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.limits.header_bytes or len(self.headers) > self.limits.headers:
            text = f"the head of a request may have {self.limits.header_bytes} bytes and {self.limits.headers} fields"
            self._refusal = (431, "headers_too_large", text)
            raise _TooMuchHead

    def _head_too_slow(self) -> None:
        self._timers.pop("head", None)
        if self._begun:
            self._refusal = (
                408,
                "request_timeout",
                f"the head of the request took longer than {self.limits.header_s:g} s",
            )
            self.send_400_response("")
        else:
            self.transport.close()

    def _arm(self, name: str, seconds: float, act: Any) -> None:
        self._disarm(name)
        self._timers[name] = self.loop.call_later(seconds, act)

    def _disarm(self, name: str) -> None:
        if (timer := self._timers.pop(name, None)) is not None:
            timer.cancel()


def protocol_with(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return the class of connections with these limits."""
    return type("GuardedProtocol", (_Protocol,), {"limits": limits})
