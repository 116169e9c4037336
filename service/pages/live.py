"""The stream of events that keeps pages new: one look at the database for all viewers of a process, a word when it changed."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from apdb import Database
from apdb.errors import Busy
from service.media import kinds
from service.pages.shared import resources_of
from tasks.errors import AlertProdError

__all__ = ["live"]

live = APIRouter(tags=["pages"])

EVERY_S = 0.25  # between two looks: a commit is on the screen within a second
RECENT = 200  # changes of visits that are looked at: one may be committed later than others with higher numbers
ALIVE_S = 15.0  # a comment that keeps the connection open, and finds who has gone
_STATE = (  # of tables that grow with a survey only the ends of indices are read
    f'SELECT (SELECT sum(id) FROM (SELECT id FROM "VisitEvent" ORDER BY id DESC LIMIT {RECENT}) e), '
    '(SELECT concat((SELECT max("publishOrder") || \' \' || max("publishedAt")::text FROM "AlertOutbox"), \' \', '
    '(SELECT max(id) FROM "CorrectionBatch"), \' \', (SELECT count(*) FROM "CorrectionBatch" WHERE "publishedAt" IS NULL))), '
    '(SELECT count(*) || \' \' || max("updatedAt")::text FROM "DeadLetter")'
)
MOST_VIEWERS = 1000  # of one process: each takes a connection
_NAMES = ("visits", "alerts", "letters")


def look(database: Database) -> dict[str, str]:
    """Return a digest of each thing that pages show; ``database`` is there alone when it does not answer."""
    try:
        with database.session(5.0) as connection:
            row: Any = connection.execute(_STATE).fetchone()
    except (AlertProdError, psycopg.Error):
        return {"database": "away"}
    return {name: hashlib.sha256(str(v).encode()).hexdigest()[:12] for name, v in zip(_NAMES, row, strict=True)}


def words_of(state: dict[str, str]) -> str:
    """Return one text for all digests, by which a page knows whether it was made before a change; empty where there are none."""
    return "" if "database" in state else " ".join(state.values())


@dataclass
class _Watch:
    """What the viewers of one process wait for; it looks while there are viewers."""

    database: Database
    is_stopping: Callable[[], bool]
    viewers: int = 0
    state: dict[str, str] = field(default_factory=dict)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: "asyncio.Task[None] | None" = None

    async def run(self) -> None:
        while self.viewers and not self.is_stopping():
            state = await run_in_threadpool(look, self.database)
            if state != self.state:
                async with self.changed:
                    self.state = state
                    self.changed.notify_all()
            await asyncio.sleep(EVERY_S)
        self.task, self.state = None, {}  # who comes next is told what is true then
        async with self.changed:
            self.changed.notify_all()

    async def next(self, seen: dict[str, str]) -> dict[str, str] | None:
        """Return the state once it differs from what was seen, None after a while without a change."""
        async with self.changed:
            with suppress(TimeoutError):
                async with asyncio.timeout(ALIVE_S):
                    await self.changed.wait_for(lambda: self.state != seen or self.is_stopping())
                    return self.state
        return None


async def changes(watch: _Watch) -> AsyncIterator[str]:
    """Yield events in the form of Server-Sent Events: which things changed, by name."""
    watch.viewers += 1
    seen: dict[str, str] = {}
    try:
        if watch.task is None:
            watch.task = asyncio.create_task(watch.run())
        yield "retry: 2000\n\n"
        while not watch.is_stopping():
            state = await watch.next(seen)
            if state is None:
                yield ": alive\n\n"
                continue
            if not seen:
                yield f"event: connected\ndata: {words_of(state)}\n\n"
            for name in [n for n in state if state[n] != seen.get(n)] if seen or "database" in state else []:
                yield f"event: {name}\ndata: {state[name]}\n\n"
            seen = state
    finally:
        watch.viewers -= 1


@live.get("/live", response_class=Response, responses=kinds("text/event-stream"))
async def events(request: Request) -> Response:
    """Server-sent events: ``visits``, ``alerts`` and ``letters`` when one of them changed, ``database`` when it went away."""
    watch: _Watch | None = getattr(request.app.state, "watch", None)
    if watch is None:
        watch = request.app.state.watch = _Watch(
            resources_of(request).database, getattr(request.app.state, "is_stopping", lambda: False)
        )
    if watch.viewers >= MOST_VIEWERS:
        raise Busy(f"{MOST_VIEWERS} viewers follow what changes already: try again")
    return StreamingResponse(changes(watch), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
