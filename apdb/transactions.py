"""Short transactions that are repeated when the database asks for it, on pooled connections."""

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg_pool import ConnectionPool, PoolTimeout

from apdb.database import AWAY, CONNECT_TIMEOUT_S, Database, first_line, let_go_of_standby
from apdb.errors import DatabaseUnavailable
from apdb.rows import single_row
from apdb.schema.partitions import NO_MONTH_LEAVES
from apdb.sky.locks import sky_locks

__all__ = ["Transactions"]

T = TypeVar("T")
MAX_CONNECTIONS = 8
ATTEMPTS = 6
WAIT_S = 30.0
LOCKS_WAIT_S = 120.0
SPARE_WAIT_S = 0.5
_READ_ONLY = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_REPEATABLE = f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {NO_MONTH_LEAVES}"
_AGAIN = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
_WORTH_ANOTHER = (*_AGAIN, psycopg.errors.LockNotAvailable)


class Transactions:
    """Runs functions in transactions of one database. Safe to share between threads and to use after a fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._owner = 0

    def _connections(self) -> "ConnectionPool[psycopg.Connection[Any]]":
        if self._pool is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._pool = ConnectionPool(
                self._database.uri,
                kwargs=self._database.connect_arguments(),
                min_size=0,
                max_size=MAX_CONNECTIONS,
                timeout=WAIT_S,
                reconnect_timeout=CONNECT_TIMEOUT_S,
                max_idle=300.0,
                check=ConnectionPool.check_connection,
                name="apdb",
                open=True,
            )
        return self._pool

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield an autocommit connection.

        Raises
        ------
        DatabaseUnavailable
            No connection within the time-out, or it broke.
        """
        try:
            with self._connections().connection() as connection:
                with let_go_of_standby(connection):
                    yield connection
        except (*AWAY, PoolTimeout) as error:
            if isinstance(error, _WORTH_ANOTHER):
                raise
            raise DatabaseUnavailable(f"database {self._database.label}: {first_line(error)}") from error

    @contextmanager
    def shared_snapshot(self, count: int) -> Iterator[list[psycopg.Connection[Any]]]:
        """Yield up to `count` connections (at least one) whose transactions see the same rows, read only."""
        with ExitStack() as stack:
            first = stack.enter_context(self.connection())
            stack.enter_context(first.transaction())
            first.execute(_READ_ONLY)
            connections = [first]
            if count > 1:
                (snapshot,) = single_row(first.execute("SELECT pg_export_snapshot()"))
                for _ in range(count - 1):
                    try:
                        other = stack.enter_context(self._connections().connection(timeout=SPARE_WAIT_S))
                    except PoolTimeout:  # all are busy: fewer will do
                        break
                    stack.enter_context(other.transaction())
                    other.execute(_READ_ONLY)
                    other.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot)))
                    connections.append(other)
            yield connections

    def run(
        self,
        work: Callable[[psycopg.Connection[Any]], T],
        *,
        snapshot: bool = False,
        repeatable: bool = False,
        pixels: Sequence[int] | Callable[[psycopg.Connection[Any]], Sequence[int]] = (),
        meanwhile: Callable[[], object] | None = None,
    ) -> T:
        """Run `work` in one transaction, again where the database says that it could not be serialised.

        Parameters
        ----------
        snapshot
            All statements see one snapshot (REPEATABLE READ, read only).
        repeatable
            The same for a transaction that writes: where another one has changed a row since, it begins anew.
        pixels
            Lock pixels of the sky that the transaction needs for itself (`apdb.sky.locks`), or what finds them in the database.
        meanwhile
            Called while the locks are waited for.

        Raises
        ------
        DatabaseUnavailable
            No connection, the locks it waits for were not free in time, or it failed to be serialised six times.
        """
        attempt = 0
        while True:
            try:
                with self.connection() as connection, ExitStack() as stack:
                    wanted = pixels(connection) if callable(pixels) else pixels
                    if wanted:
                        stack.enter_context(sky_locks(connection, wanted, LOCKS_WAIT_S, meanwhile))
                    stack.enter_context(connection.transaction())
                    if snapshot:
                        connection.execute(_READ_ONLY)
                    elif repeatable:
                        connection.execute(_REPEATABLE)
                    return work(connection)
            except psycopg.errors.LockNotAvailable as error:
                raise DatabaseUnavailable(f"others held its place for {LOCKS_WAIT_S:.0f} s") from error
            except _AGAIN as error:
                attempt += 1
                if attempt == ATTEMPTS:
                    raise DatabaseUnavailable(
                        f"the transaction failed {ATTEMPTS} times: {first_line(error)}"
                    ) from error
                time.sleep(random.uniform(0.5, 1.5) * 0.01 * 2**attempt)

    def close(self) -> None:
        """Close all connections."""
        if self._pool is not None and self._owner == os.getpid():
            self._pool.close()
        self._pool = None
