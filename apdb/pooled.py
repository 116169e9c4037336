"""A database whose sessions are connections that are kept: for a process that answers many short questions."""

import math
import os
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from apdb.cutting import cut_after
from apdb.database import AWAY, CONNECT_TIMEOUT_S, Database, first_line, let_go_of_standby
from apdb.errors import DatabaseUnavailable

__all__ = ["PooledDatabase"]

WAIT_S = 10.0  # for a connection that is free
IDLE_S = 60.0  # after which one that nobody needs is closed
TRUST_S = 1.0  # after which one that was used is asked first whether it is alive


def _has_been_told(connection: "psycopg.Connection[Any]") -> bool:
    """Whether something came from the server since the last answer: most often that it is gone."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


class PooledDatabase(Database):
    """As `Database`, with sessions that begin at once: to make a connection takes longer than most questions.

    Parameters
    ----------
    uri, statement_timeout_s
        As for `Database`.
    connections
        At most; who finds none free waits for a while.
    """

    def __init__(self, uri: str, statement_timeout_s: int = 120, connections: int = 16) -> None:
        super().__init__(uri, statement_timeout_s)
        self._connections = connections
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._owner = 0
        self._used: WeakKeyDictionary[psycopg.Connection[Any], float] = WeakKeyDictionary()

    def _kept(self) -> "ConnectionPool[psycopg.Connection[Any]]":
        if self._pool is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._pool = ConnectionPool(
                self.uri,
                kwargs=self.connect_arguments(),
                min_size=0,
                max_size=self._connections,
                timeout=WAIT_S,
                reconnect_timeout=CONNECT_TIMEOUT_S,
                max_idle=IDLE_S,
                check=self._check,
                name="api",
                open=True,
            )
        return self._pool

    def _check(self, connection: psycopg.Connection[Any]) -> None:
        """Refuse a connection that is dead; one that answered a moment ago is not asked, which would double each question.

        Of a server that ended, or was told to end a session, the socket knows: there is something to read that no
        question was asked for.
        """
        if time.monotonic() - self._used.get(connection, -math.inf) > TRUST_S or _has_been_told(connection):
            ConnectionPool.check_connection(connection)

    @contextmanager
    def session(self, limit_s: float | None = None) -> Iterator[psycopg.Connection[Any]]:
        """Yield an autocommit connection that is kept afterwards; failures as for `Database.session`."""
        try:
            pool = self._kept()
            if not pool.get_stats().get("pool_size"):
                psycopg.connect(
                    self.uri, **self.connect_arguments()
                ).close()  # one that is away says so at once, a pool waits
            with pool.connection() as connection:
                with (
                    let_go_of_standby(connection),
                    nullcontext() if limit_s is None else cut_after(connection, limit_s),
                ):
                    yield connection
                self._used[connection] = time.monotonic()
        except (*AWAY, PoolTimeout) as error:
            raise DatabaseUnavailable(f"database {self.label}: {first_line(error)}") from error

    def close(self) -> None:
        """Close the connections; a session after that makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
