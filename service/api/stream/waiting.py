"""An answer that waits for the end of a visit, for a while."""

import asyncio
import time
from contextlib import suppress
from typing import Annotated, Any

from fastapi import Query

from apdb.errors import Busy
from apdb.queue.states import FINAL_STATES
from service.api.resources import Resources
from service.api.stream.feed import Follower

__all__ = ["LONGEST_S", "Wait", "row_at_end"]

LONGEST_S = 60.0
LOOK_S = 2.0  # between two looks where nothing is heard
Wait = Annotated[
    float,
    Query(ge=0, le=LONGEST_S, allow_inf_nan=False, description="seconds that the answer may wait for the visit's end"),
]


async def row_at_end(shared: Resources, visit: int, detector: int, seconds: float) -> dict[str, Any] | None:
    """Return the row of a visit when it has ended, or as it is after so many seconds; None where it never came.

    Where too many wait already, as it is now.
    """
    deadline = time.monotonic() + seconds
    if seconds > 0:
        with suppress(Busy), shared.feed.following((visit, detector)) as follower:
            await shared.feed.begun(seconds)
            return await _row_followed(shared, follower, (visit, detector), deadline)
    return await shared.states.get(visit, detector)


async def _row_followed(
    shared: Resources, follower: Follower, key: tuple[int, int], deadline: float
) -> dict[str, Any] | None:
    """Look at a row whenever something happened to it, and now and then, until it has ended or the time is over."""
    while True:
        row = await shared.states.get(*key)
        left = deadline - time.monotonic()
        if row is None or row["state"] in FINAL_STATES or left <= 0 or shared.feed.closing:
            return row
        with suppress(TimeoutError):
            await asyncio.wait_for(follower.events.get(), min(left, LOOK_S))
