"""How much work is taken in at a time: what would have to wait in memory for long is told to come back instead."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio.to_thread import run_sync

from apdb.errors import Busy

__all__ = ["Admission", "Slot"]

T = TypeVar("T")
THREADS = 8  # that enter visits, each over a connection of its own; reads have others
WAIT_S = 1.0  # for a place: a crowd that is refused at once comes again at once, and all others wait for its refusals
MOST_WAITING = 256  # for a place


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
    """Lets so many requests submit at a time, from when their body is there to the end of the answer.

    Others wait a moment for a place, in the order in which they came, and are refused then. For the thread of the event
    loop alone.

    Parameters
    ----------
    most
        Requests that may be under way.
    """

    def __init__(self, most: int) -> None:
        self._most, self._inside = most, 0
        self._threads = anyio.CapacityLimiter(THREADS)
        self._waiting: deque[asyncio.Future[None]] = deque()

    def full(self) -> bool:
        """Whether who would enter now has to wait."""
        return self._inside >= self._most

    async def enter(self) -> Slot:
        """Return a place, which somebody else may have to give back first.

        Raises
        ------
        Busy
            None came free in time, or too many wait already.
        """
        if not self.full():
            self._inside += 1
        elif len(self._waiting) >= MOST_WAITING or not await self._handed_over():
            raise Busy(
                f"{self._most} requests that submit visits are being answered already: nothing was taken, send it again"
            )
        return Slot(self._leave)

    async def _handed_over(self) -> bool:
        """Wait for a place; whether one was given."""
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await asyncio.wait((place,), timeout=WAIT_S)
        except asyncio.CancelledError:
            if place.done():
                self._leave()
            else:
                self._waiting.remove(place)
            raise
        if not place.done():
            self._waiting.remove(place)
        return place.done()

    def _leave(self) -> None:
        """Give a place to who waits longest, if anybody does."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            self._inside -= 1

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something in one of the threads that enter visits."""
        return await run_sync(work, *arguments, limiter=self._threads)
