"""Changes of state as server-sent events (WHATWG HTML, 9.2), with what happened while a client was away."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from apdb.errors import Busy
from apdb.queue.events import MOST, EventReader, VisitEvent
from service.api.resources import Resources, Shared
from service.api.stream.feed import Follower

__all__ = ["events"]

events = APIRouter(tags=["events"])

ALIVE_S = 15.0  # between two lines of a stream
LONGEST_S = 900.0  # of a stream: the client comes again by itself, and is asked again who he is
BEGIN_S = 5.0
MISSED = 10_000  # events that are given again; who missed more reads the list of visits
AGAIN_MS = 2_000
_EXAMPLE = (
    "retry: 2000\nid: 81523\nevent: begin\ndata: {}\n\n"
    'id: 81530\nevent: visit\ndata: {"number": 7, "visit": 24020103652, "detector": 3, "state": "done", "attempt": 1, '
    '"priority": 0, "errorCode": null, "at": "2026-03-01T04:05:06.7+00:00"}\n\n: alive\n\n'
)
_DESCRIBED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A stream that ends after a quarter of an hour at the latest, to be taken up with Last-Event-ID",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    }
}
LastEvent = Annotated[
    str | None,
    Header(alias="Last-Event-ID", pattern=r"^[0-9]{1,19}$", description="`id` of the last event that came"),
]
After = Annotated[str | None, Query(pattern=r"^[0-9]{1,19}$", description="as Last-Event-ID, which goes before")]


@events.get("/v1/events", response_class=StreamingResponse, responses=_DESCRIBED)
async def all_events(shared: Shared, last_event_id: LastEvent = None, after: After = None) -> StreamingResponse:
    """Changes of state of all visits: `begin` once, then `visit` for each; `missed` where more happened than is given again.

    Events of one `number` are one event, which may come twice after a break.
    """
    return await _stream(shared, None, last_event_id or after)


@events.get("/v1/visits/{visit}/{detector}/events", response_class=StreamingResponse, responses=_DESCRIBED)
async def events_of_one(
    shared: Shared,
    visit: Annotated[int, Path(ge=0, lt=1 << 53)],
    detector: Annotated[int, Path(ge=0, lt=1 << 15)],
    last_event_id: LastEvent = None,
    after: After = None,
) -> StreamingResponse:
    """Changes of state of one visit, as those of all."""
    return await _stream(shared, (visit, detector), last_event_id or after)


async def _stream(shared: Resources, key: tuple[int, int] | None, after: str | None) -> StreamingResponse:
    position = None if after is None else min(int(after), (1 << 63) - 1)
    told = _told(shared, key, position)
    first = await anext(told)  # too many followers: that is said before the status is sent
    return StreamingResponse(_from(first, told), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _from(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(rest):
        yield first
        async for text in rest:
            yield text


async def _told(shared: Resources, key: tuple[int, int] | None, position: int | None) -> AsyncGenerator[str]:
    feed = shared.feed
    with feed.following(key) as follower:
        if not await feed.begun(BEGIN_S) or follower.position is None:
            raise Busy("the changes of state cannot be read now")
        yield f"retry: {AGAIN_MS}\n" + _event(follower.position if position is None else position, "begin", {})
        given: set[int] = set()
        if position is not None:
            async for text in _caught_up(shared, key, position, given):
                yield text
        async for text in _live(shared, follower, given):
            yield text


async def _caught_up(
    shared: Resources, key: tuple[int, int] | None, position: int, given: set[int]
) -> AsyncGenerator[str]:
    """Tell what happened since a place; `given` gets the numbers."""
    reader = EventReader(position)
    while len(given) < MISSED:
        before = reader.position
        page = await run_in_threadpool(_page, shared, reader)
        for event in page:
            given.add(event.number)
            if key in (None, (event.visit, event.detector)):
                yield _event(before, "visit", event.as_json())
        if len(page) < MOST:
            return
    yield _event(reader.position, "missed", {"after": position})


def _page(shared: Resources, reader: EventReader) -> list[VisitEvent]:
    with shared.database.session() as connection:
        return reader.read(connection)


async def _live(shared: Resources, follower: Follower, given: set[int]) -> AsyncGenerator[str]:
    """Tell what happens; who cannot follow is let go, and gets the rest when he comes again."""
    feed, began = shared.feed, time.monotonic()
    said = began
    while not (feed.closing or follower.behind) and time.monotonic() - began < LONGEST_S:
        try:
            position, event = await asyncio.wait_for(follower.events.get(), 1.0)
        except TimeoutError:
            if time.monotonic() - said >= ALIVE_S:
                said = time.monotonic()
                yield ": alive\n\n"
            continue
        if event.number not in given:
            said = time.monotonic()
            yield _event(position, "visit", event.as_json())


def _event(position: int, name: str, data: dict[str, Any]) -> str:
    return f"id: {position}\nevent: {name}\ndata: {json.dumps(data)}\n\n"
