"""How much work is taken in at a time: what would have to wait in memory is told to come back instead."""

from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from apdb.errors import Busy

__all__ = ["Admission", "Slot"]

T = TypeVar("T")
THREADS = 8  # that enter visits, each over a connection of its own; reads have others


class Slot:
    """One place among those who submit; to give it back twice does no harm."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        """Give it back."""
        if self._release is not None:
            self._release()
            self._release = None


class Admission:
    """Lets so many requests submit at a time, from when their body is there to the end of the answer; the others are refused.

    Parameters
    ----------
    most
        Requests that may be under way.
    """

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0
        self._threads = anyio.CapacityLimiter(THREADS)

    def enter(self) -> Slot:
        """Return a place; for the thread of the event loop alone.

        Raises
        ------
        Busy
            All are taken.
        """
        if (full := self.full()) is not None:
            raise full
        self._inside += 1
        return Slot(self._leave)

    def full(self) -> Busy | None:
        """Return what refuses whoever would enter now, None where there is a place."""
        if self._inside < self._most:
            return None
        return Busy(
            f"{self._most} requests that submit visits are being answered already: nothing was taken, send it again"
        )

    def _leave(self) -> None:
        self._inside -= 1

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something in one of the threads that enter visits."""
        return await run_sync(work, *arguments, limiter=self._threads)
