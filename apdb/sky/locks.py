"""Sky locks: session-level advisory locks on coarse HTM pixels, in one global order.

They are taken before the transaction begins and released after its end: a REPEATABLE READ snapshot that is older than
the wait would miss what the previous holder has just committed.

A region locks its pixels exclusively, at the finest of three HTM levels at which they are at most `MAX_LOCKS`, and the parents
of these pixels at the coarser levels in shared mode. So a large region (exclusive on a parent) and a small one inside it
(shared on that parent) exclude each other, while neighbours do not.

Sessions that have to wait form a line. Each position of the line is an advisory lock, too; a session asks at intervals for the
position ahead of its own, so that sessions are served in the order in which they came and visits keep their order. Only the
first of the line waits in PostgreSQL's own queue, where it is woken at once. A statement that waits there holds a snapshot, and
VACUUM removes no row that died after it: sixteen clients that wait there let DiaObjectLast grow to three times its size. The
snapshot of the first in line is not older than the transaction that it waits for.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from lsst.sphgeom import Region

from apdb.rows import single_row
from apdb.sky.htm import HTM_LEVEL, cover, htm_ids
from tasks.arrays import F64, I64
from tasks.sphere import positions_around

__all__ = ["LEVELS", "lock_pixels", "lock_pixels_around", "pixels_of_positions", "sky_locks"]

LEVELS = (8, 5, 2)
MAX_LOCKS = 64
LINE = 32  # places in a line; who finds them all taken asks for the last one
STEP_PAUSE_S, LONGEST_STEP_S = 0.015, 0.2  # the nearer the front the shorter the pauses
LINE_PATIENCE_S = 20.0  # then whoever hangs in the line is passed
# in the queue, then the snapshot is renewed; later ones last longer: large regions must get their turn
FIRST_QUEUE_S = 1.0
_SPACE, _LINE_SPACE = 0x5EA << 48, 0x5EB << 48  # keep these keys apart from other advisory locks
_ROOTS = 8  # level 0 pixels are 8..15; each level quadruples, so that a pixel number tells its level


def lock_pixels(region: Region) -> list[int]:
    """Return the sorted pixels of a region at the finest lock level that needs at most 64 of them."""
    for level in LEVELS:
        ranges = cover(region, level, 4 * MAX_LOCKS)
        if sum(hi - lo for lo, hi in ranges) <= MAX_LOCKS or level == LEVELS[-1]:
            return sorted({p for lo, hi in ranges for p in range(lo, hi)})
    raise AssertionError("unreachable")


def pixels_of_positions(ids: I64, ids_level: int = HTM_LEVEL) -> list[int]:
    """Return the lock pixels of rows from their HTM ids, shape (N,), of a level that is not coarser than that of locks."""
    for level in LEVELS:
        pixels = np.unique(ids >> (2 * (ids_level - level)))
        if len(pixels) <= MAX_LOCKS or level == LEVELS[-1]:
            return [int(p) for p in pixels]
    raise AssertionError("unreachable")


def lock_pixels_around(ra: F64, dec: F64, radius_deg: float) -> list[int]:
    """Return the lock pixels of positions (N,) in deg and of what is within `radius_deg` of them."""
    return pixels_of_positions(htm_ids(*positions_around(ra, dec, radius_deg), LEVELS[0]), LEVELS[0])


def _level(pixel: int) -> int:
    return ((pixel // _ROOTS).bit_length() - 1) // 2


def _plan(pixels: Iterable[int]) -> list[tuple[int, bool]]:
    """Return (key, shared) in the order in which everybody takes them: coarse before fine, then by number."""
    own = set(pixels)
    parents = {p >> (2 * (_level(p) - level)) for p in own for level in LEVELS if level < _level(p)}
    return [(_SPACE + p, p not in own) for p in sorted(own | parents)]


# Takes one lock after the other and stops at the first that is taken: two who ask at the same time must not keep each other
# from what is free. What was got is given back where not all was, the front of the line, which is asked for first, in any case.
_TRY = """
WITH RECURSIVE wanted AS MATERIALIZED (
    SELECT %(line)s::bigint || %(keys)s::bigint[] AS keys, false || %(shared)s::boolean[] AS shared
),
taken (place, got) AS (
    SELECT 0, true
    UNION ALL
    SELECT place + 1, CASE WHEN shared[place + 1] THEN pg_try_advisory_lock_shared(keys[place + 1])
                           ELSE pg_try_advisory_lock(keys[place + 1]) END
    FROM taken, wanted WHERE got AND place < cardinality(keys)
),
judged AS MATERIALIZED (SELECT place, got, bool_and(got) OVER () AS all_got FROM taken)
SELECT all_got, count(CASE WHEN got AND place > 0 AND (place = 1 OR NOT all_got) THEN
    CASE WHEN shared[place] THEN pg_advisory_unlock_shared(keys[place]) ELSE pg_advisory_unlock(keys[place]) END END)
FROM judged, wanted GROUP BY all_got
"""
# Goes from a place of the line (its length: from outside) as far ahead as places are free; says where it stands.
_WALK = """
WITH RECURSIVE walk (place, got) AS (
    SELECT %(here)s::int, true
    UNION ALL
    SELECT place - 1, CASE WHEN NOT pg_try_advisory_lock(%(line)s::bigint + place - 1) THEN false
                           WHEN place = %(length)s THEN true ELSE pg_advisory_unlock(%(line)s::bigint + place) END
    FROM walk WHERE got AND place > 0
)
SELECT min(place) FROM walk WHERE got
"""
_LEAVE = "SELECT pg_advisory_unlock(%s::bigint)"
_WAIT = (
    "SELECT CASE WHEN shared THEN pg_advisory_lock_shared(key) ELSE pg_advisory_lock(key) END "
    "FROM unnest(%(keys)s::bigint[], %(shared)s::boolean[]) WITH ORDINALITY AS l(key, shared, place) ORDER BY place"
)
_RELEASE = "SELECT pg_advisory_unlock_all()"  # a statement that failed does not tell which ones it had got


@contextmanager
def sky_locks(
    connection: psycopg.Connection[Any],
    pixels: Sequence[int],
    timeout_s: float = 120,
    meanwhile: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Hold the locks of the pixels on this session (autocommit, outside of any transaction, no other advisory locks).

    Parameters
    ----------
    meanwhile
        Called once where the locks have to be waited for: work that does not need them.

    Raises
    ------
    psycopg.errors.LockNotAvailable
        They were not free within the time-out.
    """
    keys = _plan(pixels)
    gate = next((key for key, shared in keys if not shared), _SPACE)  # all who want the same place meet at one pixel
    line = _LINE_SPACE + (gate - _SPACE) * LINE
    plan = {"line": line, "keys": [key for key, _ in keys], "shared": [shared for _, shared in keys]}
    deadline = time.monotonic() + timeout_s
    try:
        if not _value(connection, _TRY, plan):
            position = _wait_in_line(connection, line, min(LINE_PATIENCE_S, timeout_s), meanwhile)
            _queue(connection, plan, deadline)
            if position < LINE:
                connection.execute(_LEAVE, (line + position,))
        yield
    finally:
        if not connection.closed:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.rollback()
            connection.execute(_RELEASE)


def _value(connection: psycopg.Connection[Any], statement: str, values: dict[str, Any]) -> Any:
    return single_row(connection.execute(statement, values))[0]


def _wait_in_line(
    connection: psycopg.Connection[Any], line: int, seconds: float, meanwhile: Callable[[], object] | None
) -> int:
    """Walk from the end of the line to its front; returns the place that was reached in time."""
    start, here = time.monotonic(), LINE
    while here := _value(connection, _WALK, {"here": here, "line": line, "length": LINE}):
        if time.monotonic() - start > seconds:
            break
        if meanwhile is not None:
            meanwhile()
            meanwhile = None
            continue
        time.sleep(min(STEP_PAUSE_S * here, LONGEST_STEP_S) * random.uniform(0.5, 1.5))
    return int(here)


def _queue(connection: psycopg.Connection[Any], plan: dict[str, Any], deadline: float) -> None:
    """Stand in PostgreSQL's queue of each lock, in order, with a new snapshot now and then.

    What was got before a time-out is kept: the order is everybody's, and a lock may be held after the error that says it is
    not.
    """
    longest = FIRST_QUEUE_S
    try:
        while True:
            left = deadline - time.monotonic()
            connection.execute(f"SET lock_timeout = {max(round(1e3 * min(left, longest)), 1)}")
            try:
                connection.execute(_WAIT, plan)
                return
            except psycopg.errors.LockNotAvailable:
                if left <= longest:
                    raise
                longest *= 2
    finally:
        if not connection.closed:
            connection.execute("SET lock_timeout = 0")
