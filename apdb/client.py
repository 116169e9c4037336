"""`PostgresApdb`: connections, schema creation, and plain reads of one database."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa
from psycopg import sql

from apdb.errors import ApdbError, DatabaseUnavailable, SchemaMismatch
from apdb.partitions import PARTITIONED, ensure_months
from apdb.schema import SCHEMA_VERSION, make_metadata

__all__ = ["PostgresApdb", "open"]

CONNECT_TIMEOUT_S = 10
DATABASE_VERSION = "1"  # of our own tables; raised by every migration


def open(uri: str) -> "PostgresApdb":  # the published name
    """Return a client for a PostgreSQL URI (``postgresql://user@host:port/database``).

    Raises
    ------
    ApdbError
        The URI has another scheme.
    """
    return PostgresApdb(uri)


class PostgresApdb:
    """One database. Cheap to make; every worker has its own connections.

    Parameters
    ----------
    uri
        libpq URI. Its password never appears in logs or errors.
    statement_timeout_s
        Bound of every statement.
    """

    def __init__(self, uri: str, statement_timeout_s: int = 120) -> None:
        if urlsplit(uri).scheme not in ("postgresql", "postgres"):
            raise ApdbError(f"no client for a database of scheme {urlsplit(uri).scheme!r}: use postgresql://")
        self._uri = uri
        self._timeout = statement_timeout_s

    @property
    def label(self) -> str:
        """Host, port and database without credentials."""
        parts = urlsplit(self._uri)
        return f"{parts.hostname or 'local'}:{parts.port or 5432}{parts.path}"

    def connect(self, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Return a new connection.

        Raises
        ------
        DatabaseUnavailable
            No answer within the time-out.
        """
        options = f"-c statement_timeout={self._timeout}s -c idle_in_transaction_session_timeout=600s -c jit=off"
        try:
            return psycopg.connect(
                self._uri, autocommit=autocommit, connect_timeout=CONNECT_TIMEOUT_S, options=options,
                application_name="alertprod", keepalives_idle=30, tcp_user_timeout=30_000,
            )  # fmt: skip
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"database {self.label} does not answer: {_first_line(error)}") from error

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield an autocommit connection and close it; connection failures become `DatabaseUnavailable`."""
        with self.connect() as connection:
            try:
                yield connection
            except psycopg.OperationalError as error:
                raise DatabaseUnavailable(f"database {self.label}: {_first_line(error)}") from error

    def engine(self) -> sa.Engine:
        """Return an SQLAlchemy engine on the same database (schema work only)."""
        url = self._uri.replace("postgresql://", "postgresql+psycopg://", 1).replace(
            "postgres://", "postgresql+psycopg://", 1
        )
        return sa.create_engine(url, poolclass=sa.NullPool)

    def create(self) -> None:
        """Make all tables at once (tests and experiments; production uses the migrations)."""
        with self.engine().begin() as connection:
            make_metadata().create_all(connection)
        with self.session() as connection:
            finish_schema(connection)

    def check_schema(self) -> None:
        """Refuse a database whose schema this program does not know.

        Raises
        ------
        SchemaMismatch
            The message names the command to run.
        """
        with self.session() as connection:
            if connection.execute("SELECT to_regclass('metadata')").fetchone() == (None,):
                raise SchemaMismatch(f"database {self.label} is empty: run 'alertprod migrate'")
            found = dict(connection.execute("SELECT name, value FROM metadata").fetchall())
        wanted = {"version:schema": SCHEMA_VERSION, "version:alertprod": DATABASE_VERSION}
        wrong = {k: (found.get(k), v) for k, v in wanted.items() if found.get(k) != v}
        if wrong:
            detail = ", ".join(f"{k} is {have}, need {need}" for k, (have, need) in wrong.items())
            raise SchemaMismatch(f"database {self.label}: {detail}: run 'alertprod migrate'")

    def wait_ready(self, seconds: float = 30.0) -> None:
        """Wait until the database answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.session() as connection:
                    connection.execute("SELECT 1")
                return
            except DatabaseUnavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def ensure_partitions(self, mjd: float) -> None:
        """Make the partitions for the month of `mjd` and the next two."""
        with self.session() as connection:
            ensure_months(connection, mjd)


def finish_schema(connection: psycopg.Connection[Any]) -> None:
    """Make the default partitions and write the versions (idempotent)."""
    for table in PARTITIONED:
        connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} DEFAULT").format(
                sql.Identifier(f"{table}_default"), sql.Identifier(table)
            )
        )
    for name, value in (("version:schema", SCHEMA_VERSION), ("version:alertprod", DATABASE_VERSION)):
        connection.execute(
            "INSERT INTO metadata (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
