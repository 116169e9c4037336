"""The access log: one line and one measure for every request, and the trace in which it is answered."""

import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.policy import is_public, rule_of
from service.observe.log import about
from service.observe.measures import count_request
from service.observe.spans import record_span
from service.observe.traces import name_request, trace_id, tracing

__all__ = ["AccessLog"]

_log = logging.getLogger("alertprod.requests")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PROBES = ("/healthz", "/readyz", "/metrics")
CANCELLED = 499  # of a request whose client went away before it had an answer


class AccessLog:
    """ASGI application around another; lines have the path as it was asked, without its query, which may hold anything.

    Parameters
    ----------
    app
        What answers.
    told
        Whether lines are written; probes that went well never are.
    """

    def __init__(self, app: ASGIApp, told: bool) -> None:
        self._app, self._told = app, told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = name_request(scope)
        began, status, size = time.perf_counter(), CANCELLED, 0

        async def count(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            size += len(message.get("body", b""))
            await send(message)

        with tracing(_traceparent(scope)) as trace, about(request_id=request_id, trace_id=trace_id(trace)):
            try:
                await self._app(scope, receive, count)
            finally:
                self._tell(scope, status, size, time.perf_counter() - began)
                span = f"{scope['method'][:20]} {_route(scope['method'], scope['path'])}"
                record_span(span, trace, time.perf_counter() - began, {"http.response.status_code": status})

    def _tell(self, scope: Scope, status: int, size: int, seconds: float) -> None:
        method, path = scope["method"], scope["path"]
        is_method = method in _METHODS
        count_request(method if is_method else "other", _route(method, path), status, seconds)
        if not self._told or (path in _PROBES and status < 400):
            return
        principal = scope["state"].get("principal")
        _log.info(
            "%s %s %d", method[:20], path[:500], status,
            extra={
                "method": method[:20], "path": path[:500], "status": status, "seconds": round(seconds, 6), "bytes": size,
                "address": (scope.get("client") or ("",))[0], "principal": None if principal is None else principal.name,
            },
        )  # fmt: skip


def _route(method: str, path: str) -> str:
    """Return the path as it is routed, ``other`` for what no rule knows: measures have a bounded number of names."""
    if is_public(method, path):
        return path
    rule = rule_of(method, path)
    return "other" if rule.path == path and "admin" in rule.scopes and len(rule.scopes) == 1 else rule.path


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == b"traceparent"), None)
