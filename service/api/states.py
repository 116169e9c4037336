"""States of visits, which many ask for again and again: over connections and in threads that nothing else takes."""

from typing import Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync

from apdb import Ledger
from apdb.pooled import PooledDatabase

__all__ = ["States"]

AT_ONCE = 4  # a state is one row by its key: who waits for a place waits for a millisecond


class States:
    """Reads them, whatever searches, submissions and pages wait for.

    Parameters
    ----------
    uri
        Of the database.
    statement_timeout_s
        Bound of every statement.
    """

    def __init__(self, uri: str, statement_timeout_s: int) -> None:
        self._database = PooledDatabase(uri, statement_timeout_s, connections=AT_ONCE)
        self._ledger = Ledger(self._database)
        self._threads = CapacityLimiter(AT_ONCE)

    async def get(self, visit: int, detector: int) -> dict[str, Any] | None:
        """Return the row of a visit, None where it never came.

        Raises
        ------
        DatabaseUnavailable
        """
        return await run_sync(self._ledger.get, visit, detector, limiter=self._threads)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()
