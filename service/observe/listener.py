"""The port of a role for what watches over it: alive, ready, metrics. It tells numbers and states, and takes nothing."""

import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any

from service.errors import PortInUse

__all__ = ["Listener"]

IDLE_S, MOST = 5.0, 16  # seconds that a client may be silent; clients at a time
_PLAIN, _METRICS = "text/plain; charset=utf-8", "text/plain; version=0.0.4; charset=utf-8"


class Listener(ThreadingHTTPServer):
    """Answers ``/healthz``, ``/readyz`` and ``/metrics`` from a thread.

    Parameters
    ----------
    address
        Host and port; port 0 takes a free one.
    problems
        What the process needs and does not have now, by name.
    metrics
        The text of the metrics.

    Raises
    ------
    PortInUse
        Another program listens there.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, address: tuple[str, int], problems: Callable[[], dict[str, str]], metrics: Callable[[], bytes]
    ) -> None:
        self.problems, self.metrics = problems, metrics
        self._slots = threading.BoundedSemaphore(MOST)
        try:
            super().__init__(address, _Answers)
        except OSError as error:
            where = f"ALERTPROD_METRICS_HOST={address[0]}, ALERTPROD_METRICS_PORT={address[1]}"
            raise PortInUse(f"{where}: {error.strerror}: name another place, or 0 for none") from error

    def start(self) -> "Listener":
        """Answer from now on."""
        threading.Thread(target=self.serve_forever, daemon=True, name="listener").start()
        return self

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Answer in a thread, where one is free; else close the connection."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Answer one client; the end of a connection by the client is no error."""
        try:
            with suppress(OSError):
                super().process_request_thread(request, client_address)
        finally:
            self._slots.release()


class _Answers(BaseHTTPRequestHandler):
    timeout = IDLE_S
    server_version, sys_version = "alertprod", ""
    server: Listener

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            self._say(200, b"ok\n")
        elif path == "/readyz":
            problems = self.server.problems()
            text = "".join(f"{name}: {said}\n" for name, said in problems.items()) or "ready\n"
            self._say(503 if problems else 200, text.encode())
        elif path == "/metrics":
            self._say(200, self.server.metrics(), _METRICS)
        else:
            self._say(404, b"/healthz, /readyz, /metrics\n")

    def _say(self, status: int, body: bytes, kind: str = _PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: probes come every few seconds."""
