"""The record of who did what: a line of the log and a row of the database for each act."""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

import psycopg

from apdb import Database
from apdb.access.record import Act, count_visits, record
from apdb.database import AWAY
from apdb.errors import DatabaseUnavailable

__all__ = ["Acts"]

WAIT_S, AWAY_S = 2.0, 5.0
T = TypeVar("T")
_log = logging.getLogger("alertprod.access")


class Acts:
    """Writes acts over one connection, which is made anew when it fails. For several threads.

    Parameters
    ----------
    database
        Where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._away_until = -math.inf

    def tell(self, act: Act) -> None:
        """Tell the log alone of an act."""
        _log.warning("act", extra={k: v for k, v in asdict(act).items() if v is not None})

    def write(self, act: Act) -> None:
        """Enter an act; where the database does not answer, the line of the log is all there is, and says so."""
        facts = {k: v for k, v in asdict(act).items() if v is not None}
        _log.info("act", extra=facts)
        try:
            self._with_connection(lambda connection: record(connection, act))
        except (psycopg.Error, DatabaseUnavailable) as error:
            _log.error("an act could not be entered in the database: %s", type(error).__name__, extra=facts)

    def count_visits(self, principal: str, visits: int) -> tuple[int, float]:
        """Add to what a principal submitted today (`apdb.access.record.count_visits`).

        Raises
        ------
        DatabaseUnavailable
        """
        try:
            return self._with_connection(lambda connection: count_visits(connection, principal, visits))
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"the use of {principal} could not be counted: {type(error).__name__}") from error

    def _with_connection(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Do something with the connection; a database that is away is left alone for a while, so that nobody waits in line."""
        if not self._lock.acquire(timeout=WAIT_S):
            raise DatabaseUnavailable("the database is slow: acts wait for it")
        try:
            if time.monotonic() < self._away_until:
                raise DatabaseUnavailable("the database did not answer a moment ago")
            try:
                return self._tried(work)
            except (*AWAY, DatabaseUnavailable):
                self._away_until = time.monotonic() + AWAY_S
                raise
        finally:
            self._lock.release()

    def _tried(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        if self._connection is not None and not self._connection.closed:
            try:
                return work(self._connection)
            except AWAY:
                self._connection.close()  # the server was restarted meanwhile, or another has the writes
        self._connection = self._database.connect()
        return work(self._connection)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
