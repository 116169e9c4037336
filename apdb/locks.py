"""Sky locks: session-level advisory locks on coarse HTM pixels, in one global order.

They are taken before the transaction begins and released after its end: a REPEATABLE READ snapshot that is older than
the wait would miss what the previous holder has just committed.

A region holds its pixels exclusively at the finest of three levels at which they are few, and the parents of these
pixels at the coarser levels shared. So a large region (exclusive on a parent) and a small one inside it (shared on that
parent) exclude each other, while neighbours do not.

Who has to wait asks again and again at first, and stands in PostgreSQL's queue only after a while. A waiting statement has a
snapshot, and no row that died since may be cleaned away: sixteen clients that wait in one long row make DiaObjectLast grow
to three times its size. But only in the queue does a large region get its turn among many small ones.
"""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from lsst.sphgeom import Region
from numpy.typing import NDArray

from apdb.htm import HTM_LEVEL, cover, htm_ids, positions_around

__all__ = ["lock_pixels", "lock_pixels_around", "pixels_of_positions", "sky_locks"]

LEVELS = (8, 5, 2)
MAX_LOCKS = 64
PATIENCE_S = 3.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.002, 0.03
_SPACE = 0x5EA << 48  # keeps these keys apart from other advisory locks
_ROOTS = 8  # level 0 pixels are 8..15; each level quadruples, so that a pixel number tells its level


def lock_pixels(region: Region) -> list[int]:
    """Return the sorted pixels of a region at the finest lock level that needs at most 64 of them."""
    for level in LEVELS:
        ranges = cover(region, level, 4 * MAX_LOCKS)
        if sum(hi - lo for lo, hi in ranges) <= MAX_LOCKS or level == LEVELS[-1]:
            return sorted({p for lo, hi in ranges for p in range(lo, hi)})
    raise AssertionError("unreachable")


def pixels_of_positions(htm20: NDArray[np.int64]) -> list[int]:
    """Return the lock pixels of rows, from their level 20 ids."""
    for level in LEVELS:
        found = np.unique(htm20 >> (2 * (HTM_LEVEL - level)))
        if len(found) <= MAX_LOCKS or level == LEVELS[-1]:
            return [int(p) for p in found]
    raise AssertionError("unreachable")


def lock_pixels_around(ra: NDArray[np.float64], dec: NDArray[np.float64], radius_deg: float) -> list[int]:
    """Return the lock pixels of positions and of what is around them."""
    return pixels_of_positions(htm_ids(*positions_around(ra, dec, radius_deg)))


def _level(pixel: int) -> int:
    return ((pixel // _ROOTS).bit_length() - 1) // 2


def _plan(pixels: Iterable[int]) -> list[tuple[int, bool]]:
    """Return (key, shared) in the order in which everybody takes them: coarse before fine, then by number."""
    own = set(pixels)
    parents = {p >> (2 * (_level(p) - level)) for p in own for level in LEVELS if level < _level(p)}
    return [(_SPACE + p, p not in own) for p in sorted(own | parents)]


_TRY = (
    "SELECT CASE WHEN shared THEN pg_try_advisory_lock_shared(key) ELSE pg_try_advisory_lock(key) END "
    "FROM unnest(%s::bigint[], %s::boolean[]) WITH ORDINALITY AS l(key, shared, place) ORDER BY place"
)
_WAIT = _TRY.replace("pg_try_", "pg_")
_RELEASE = "SELECT pg_advisory_unlock_all()"  # a statement that failed does not tell which ones it had got


@contextmanager
def sky_locks(connection: psycopg.Connection[Any], pixels: Sequence[int], timeout_s: float = 120) -> Iterator[None]:
    """Hold the locks of the pixels on this session (autocommit, outside of any transaction, no other advisory locks).

    Raises
    ------
    psycopg.errors.LockNotAvailable
        They were not free within the time-out.
    """
    places = _plan(pixels)
    plan = [key for key, _ in places], [shared for _, shared in places]
    try:
        if not _ask(connection, plan, min(PATIENCE_S, timeout_s)):
            _queue(connection, plan, timeout_s - PATIENCE_S)
        yield
    finally:
        if not connection.closed:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.rollback()
            connection.execute(_RELEASE)


def _ask(connection: psycopg.Connection[Any], plan: tuple[list[int], list[bool]], seconds: float) -> bool:
    """Try to take all locks until it works, for some time; what was got is given back between two tries."""
    deadline, pause = time.monotonic() + seconds, FIRST_PAUSE_S
    while True:
        if all(row[0] for row in connection.execute(_TRY, plan).fetchall()):
            return True
        connection.execute(_RELEASE)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause * random.uniform(0.5, 1.5))
        pause = min(1.5 * pause, LONGEST_PAUSE_S)


def _queue(connection: psycopg.Connection[Any], plan: tuple[list[int], list[bool]], seconds: float) -> None:
    """Stand in the queue of each lock, in order."""
    connection.execute(f"SET lock_timeout = {max(round(1e3 * seconds), 1)}")
    try:
        connection.execute(_WAIT, plan)
    finally:
        if not connection.closed:
            connection.execute("SET lock_timeout = 0")
