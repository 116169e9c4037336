"""Sky locks: session-level advisory locks on coarse HTM pixels, in sorted order.

They are taken before the transaction begins and released after its end: a REPEATABLE READ snapshot that is older than
the wait would miss what the previous holder has just committed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from lsst.sphgeom import Region

from apdb.htm import cover

__all__ = ["lock_pixels", "sky_locks"]

LEVEL = 8
MAX_LOCKS = 64
_SPACE = 0x5EA << 48  # keeps these keys apart from other advisory locks


def lock_pixels(region: Region, margin_level: int = LEVEL) -> list[int]:
    """Return the sorted pixels of a region at the lock level, at a coarser one where there would be too many."""
    level = margin_level
    while True:
        ranges = cover(region, level, 4 * MAX_LOCKS)
        count = sum(hi - lo for lo, hi in ranges)
        if count <= MAX_LOCKS or level == 0:
            return sorted({p for lo, hi in ranges for p in range(lo, hi)})
        level -= 1


@contextmanager
def sky_locks(connection: psycopg.Connection[Any], pixels: list[int], timeout_s: int = 120) -> Iterator[None]:
    """Hold the locks of the pixels on this session (autocommit, outside of any transaction)."""
    connection.execute(f"SET lock_timeout = '{int(timeout_s)}s'")
    try:
        for pixel in pixels:
            connection.execute("SELECT pg_advisory_lock(%s)", (_SPACE + pixel,))
        connection.execute("SET lock_timeout = 0")
        yield
    finally:
        if not connection.closed:
            if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.rollback()
            for pixel in reversed(pixels):
                connection.execute("SELECT pg_advisory_unlock(%s)", (_SPACE + pixel,))
