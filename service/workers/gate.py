"""The gate before the work: visits run beside each other, those that may harm others alone."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Gate"]


class Gate:
    """Lets many in at a time, or one alone; who is to be alone keeps others from coming in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._alone = 0, 0

    def open(self) -> bool:
        """Whether others may begin: nobody is alone, or waits to be."""
        with self._changed:
            return self._alone == 0

    @contextmanager
    def inside(self, alone: bool, given_up: Callable[[], bool] = lambda: False) -> Iterator[bool]:
        """Be inside, `alone` or with others; yields False, at once, where it was given up before one got in."""
        with self._changed:
            self._alone += alone
            while not (free := self._inside == 0 if alone else self._alone == 0) and not given_up():
                self._changed.wait(0.2)
            self._inside += free
        try:
            yield free
        finally:
            with self._changed:
                self._inside -= free
                self._alone -= alone
                self._changed.notify_all()
