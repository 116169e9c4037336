"""Ctrl-C, SIGTERM and SIGHUP as one exception that comes where it can do no harm.

A signal that raised wherever the program happens to be would leave servers half started. Here it is remembered, and raised
where the program asks (`Signals.check`), and inside of `Signals.at_once` immediately: that is for computing alone.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupted", "Signals"]

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asked the program to end: no ``except Exception`` holds it up."""

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        super().__init__(f"ended by {self.name}")
        self.exit_status = 128 + number


class Signals:
    """While its context is entered, the three signals wait here; a second one changes nothing.

    A signal that was ignored before (``nohup``) stays ignored. Only the main thread of a process can receive signals: in
    another thread nothing is changed.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._raises = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in STOPPING:
            if signal.getsignal(number) is signal.SIG_IGN:
                continue
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        first = self._received is None
        self._received = number if self._received is None else self._received
        if first and self._raises:
            self.check()

    def check(self) -> None:
        """Raise when a signal has come.

        Raises
        ------
        Interrupted
        """
        if self._received is not None:
            raise Interrupted(self._received)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal raise wherever the body is: no server or process may be started in it."""
        self._raises = True
        try:
            self.check()
            yield
        finally:
            self._raises = False
        self.check()
