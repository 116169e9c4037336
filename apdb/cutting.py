"""Cut connections whose answer does not come in time: a server, or a network, that stands still says nothing by itself."""

import heapq
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

__all__ = ["cut_after"]


class _Cutter:
    """One thread that looks after all deadlines of a process: a thread for each costs more than most questions."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._changed = threading.Condition()
        self._line: list[tuple[float, int]] = []  # (deadline, number), the next first
        self._open: dict[int, psycopg.Connection[Any]] = {}  # by number: what has not ended
        self._last = 0
        threading.Thread(target=self._watch, name="cutter", daemon=True).start()

    def begin(self, connection: psycopg.Connection[Any], seconds: float) -> int:
        """Cut a connection after so many seconds, unless `end` is called with the number that is returned."""
        with self._changed:
            self._last += 1
            self._open[self._last] = connection
            entry = (time.monotonic() + seconds, self._last)
            heapq.heappush(self._line, entry)
            if self._line[0] is entry:
                self._changed.notify()
            return self._last

    def end(self, number: int) -> None:
        """Forget a deadline: its connection is not cut after this."""
        with self._changed:
            self._open.pop(number, None)

    def _watch(self) -> None:
        with self._changed:
            while True:
                while self._line and self._line[0][1] not in self._open:
                    heapq.heappop(self._line)
                if not self._line:
                    self._changed.wait()
                    continue
                left = self._line[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                else:
                    _, number = heapq.heappop(self._line)
                    _cut(self._open.pop(number))


_cutter: _Cutter | None = None
_making = threading.Lock()


def _cutter_here() -> _Cutter:
    """Return the one of this process: a thread does not outlive a fork."""
    global _cutter
    with _making:
        if _cutter is None or _cutter.owner != os.getpid():
            _cutter = _Cutter()
        return _cutter


@contextmanager
def cut_after(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Shut the socket of a connection when the body takes longer: the statement that waits fails."""
    cutter = _cutter_here()
    number = cutter.begin(connection, seconds)
    try:
        yield
    finally:
        cutter.end(number)


def _cut(connection: psycopg.Connection[Any]) -> None:
    with suppress(OSError, psycopg.Error):
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            same.shutdown(socket.SHUT_RDWR)
