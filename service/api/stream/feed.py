"""One reader of the changes of state for all who follow them: each has a queue with a bound, and is let go when it is full."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import psycopg
from anyio.to_thread import run_sync

from apdb import Database
from apdb.errors import Busy
from apdb.queue.events import MOST, EventReader, VisitEvent
from tasks.errors import AlertProdError

__all__ = ["Feed", "Follower"]

EVERY_S = 0.25  # between two looks, while anybody follows
AGAIN_S = 2.0  # after a look that failed
QUEUED = 1_000  # events that one who reads slowly may be behind
_log = logging.getLogger("alertprod.api")


class Follower:
    """One who follows: what happened since he came, in a queue.

    Parameters
    ----------
    key
        Visit and detector; None for all.
    size
        Events that may wait for him.

    Attributes
    ----------
    position
        From which on he is given everything (`apdb.queue.events`); None before it is known.
    behind
        Whether his queue was full: he is to come again.
    """

    def __init__(self, key: tuple[int, int] | None, size: int = QUEUED) -> None:
        self._key = key
        self.events: asyncio.Queue[tuple[int, VisitEvent]] = asyncio.Queue(size)
        self.position: int | None = None
        self.behind = False

    def give(self, position: int, event: VisitEvent) -> None:
        """Give him an event, and a place from which it and all that follow can be had again; who has no room left gets no more."""
        if self.behind or self._key not in (None, (event.visit, event.detector)):
            return
        try:
            self.events.put_nowait((position, event))
        except asyncio.QueueFull:
            self.behind = True


class Feed:
    """Reads the database every now and then while anybody follows. For one event loop at a time.

    Parameters
    ----------
    database
        Where the events are.
    most
        How many may follow at a time.
    """

    def __init__(self, database: Database, most: int) -> None:
        self._database, self._most = database, most
        self._followers: set[Follower] = set()
        self._reading: asyncio.Task[None] | None = None
        self._ready: asyncio.Event | None = None
        self._reader: EventReader | None = None
        self.closing = False

    def close(self) -> None:
        """Let go of everybody: the process is to end. May be called from a signal's handler."""
        self.closing = True

    @contextmanager
    def following(self, key: tuple[int, int] | None = None) -> Iterator[Follower]:
        """Follow all visits, or one.

        Raises
        ------
        Busy
            Too many do.
        """
        if len(self._followers) >= self._most or self.closing:
            raise Busy(f"{self._most} follow the visits already: ask for their states instead, or come again")
        follower = Follower(key)
        self._followers.add(follower)
        if self._reading is None or self._reading.done():
            self._ready, self._reader = asyncio.Event(), None
            self._reading = asyncio.create_task(self._read_on(self._ready))
        elif self._reader is not None:
            follower.position = self._reader.position
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers and self._reading is not None:
                self._reading.cancel()
                self._reading = None

    async def begun(self, seconds: float) -> bool:
        """Wait until the reader stands somewhere: nothing is missed from then on. False where it did not in time."""
        with suppress(TimeoutError):
            if self._ready is not None:
                await asyncio.wait_for(self._ready.wait(), seconds)
                return True
        return False

    async def _read_on(self, ready: asyncio.Event) -> None:
        look = _Look(self._database)
        one = anyio.CapacityLimiter(1)  # a thread of its own: others may be waited for
        try:
            while not self.closing:
                began = time.monotonic()
                before = 0 if self._reader is None else self._reader.position
                try:
                    reader, events = await run_sync(look.take, self._reader, limiter=one)
                except (AlertProdError, psycopg.Error) as error:
                    _log.warning("changes of state cannot be read: %s", type(error).__name__)
                    await asyncio.sleep(AGAIN_S)
                    continue
                self._reader = reader
                if not ready.is_set():
                    for follower in self._followers:
                        follower.position = reader.position
                    ready.set()
                for event in events:
                    for follower in self._followers:
                        follower.give(before, event)
                if len(events) < MOST:
                    await asyncio.sleep(max(EVERY_S - (time.monotonic() - began), 0.01))
        finally:
            look.close()


class _Look:
    """Looks at the events over one connection, which is made anew when it failed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: psycopg.Connection[Any] | None = None

    def take(self, reader: EventReader | None) -> tuple[EventReader, list[VisitEvent]]:
        try:
            if self._connection is None:
                self._connection = self._database.connect()
            if reader is None:
                return EventReader.from_now(self._connection), []
            return reader, reader.read(self._connection)
        except (AlertProdError, psycopg.Error):
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
