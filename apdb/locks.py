"""Sky locks: session-level advisory locks on coarse HTM pixels, in one global order.

They are taken before the transaction begins and released after its end: a REPEATABLE READ snapshot that is older than
the wait would miss what the previous holder has just committed.

A region holds its pixels exclusively at the finest of three levels at which they are few, and the parents of these
pixels at the coarser levels shared. So a large region (exclusive on a parent) and a small one inside it (shared on that
parent) exclude each other, while neighbours do not.

Who has to wait does so in short turns. A waiting statement has a snapshot, and no row that died since may be cleaned
away: sixteen clients that wait for their place in one long row make DiaObjectLast grow to three times its size.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from lsst.sphgeom import Region
from numpy.typing import NDArray

from apdb.htm import HTM_LEVEL, cover, htm_ids, positions_around

__all__ = ["lock_pixels", "lock_pixels_around", "pixels_of_positions", "sky_locks", "transaction_locks"]

LEVELS = (8, 5, 2)
MAX_LOCKS = 64
TURN_MS = 100
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


@contextmanager
def sky_locks(connection: psycopg.Connection[Any], pixels: list[int], timeout_s: float = 120) -> Iterator[None]:
    """Hold the locks of the pixels on this session (autocommit, outside of any transaction).

    Raises
    ------
    psycopg.errors.LockNotAvailable
        They were not free within the time-out.
    """
    held: list[tuple[int, bool]] = []
    deadline = time.monotonic() + timeout_s
    connection.execute(f"SET lock_timeout = {TURN_MS}")
    try:
        for key, shared in _plan(pixels):
            _wait_for(connection, key, shared, deadline)
            held.append((key, shared))
        connection.execute("SET lock_timeout = 0")
        yield
    finally:
        if not connection.closed:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.rollback()
            for key, shared in reversed(held):
                connection.execute(f"SELECT pg_advisory_unlock{'_shared' if shared else ''}(%s)", (key,))
            connection.execute("SET lock_timeout = 0")


def _wait_for(connection: psycopg.Connection[Any], key: int, shared: bool, deadline: float) -> None:
    while True:
        try:
            connection.execute(f"SELECT pg_advisory_lock{'_shared' if shared else ''}(%s)", (key,))
            return
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise


def transaction_locks(connection: psycopg.Connection[Any], pixels: list[int]) -> None:
    """Hold the locks until the end of a READ COMMITTED transaction, whose later statements see what came before.

    Raises
    ------
    psycopg.errors.LockNotAvailable
        They are not free within one turn: the transaction is to be begun again (`Transactions.run` does).
    """
    keys = _plan(pixels)
    connection.execute(f"SET LOCAL lock_timeout = {TURN_MS}")
    connection.execute(
        "SELECT CASE WHEN shared THEN pg_advisory_xact_lock_shared(key) ELSE pg_advisory_xact_lock(key) END "
        "FROM unnest(%s::bigint[], %s::boolean[]) WITH ORDINALITY AS l(key, shared, place) ORDER BY place",
        ([k for k, _ in keys], [s for _, s in keys]),
    )
    connection.execute("SET LOCAL lock_timeout = 0")
