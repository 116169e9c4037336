"""`Database`: connections of one PostgreSQL database, its creation, and the check of its schema."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlsplit

import psycopg
import sqlalchemy as sa
from psycopg import sql

from apdb.cutting import cut_after
from apdb.errors import ApdbError, DatabaseUnavailable, SchemaMismatch
from apdb.rows import single_row
from apdb.schema.columns import SCHEMA_VERSION, PublishedSchema
from apdb.schema.partitions import ensure_months
from apdb.schema.presence import check_tables
from apdb.schema.setup import DATABASE_VERSION, drop_tables, finish_schema
from apdb.schema.tables import make_metadata

__all__ = ["AWAY", "CONNECT_TIMEOUT_S", "Database", "first_line", "let_go_of_standby"]

CONNECT_TIMEOUT_S = 10
# what a server says that does not serve now: it is gone, or slow; it takes no writes, which others after a failover do; it
# ended a session that stood still in a transaction
AWAY = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
)


@contextmanager
def let_go_of_standby(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Close a pooled connection whose server takes no writes: another may have them by now, and the next one asks anew where."""
    try:
        yield
    except psycopg.errors.ReadOnlySqlTransaction:
        connection.close()
        raise


class Database:
    """One database. Cheap to make; every worker has its own connections.

    Parameters
    ----------
    uri
        libpq URI. Its password never appears in logs or errors.
    statement_timeout_s
        Bound of every statement.
    namespace
        PostgreSQL schema of the tables; None is the database's default.
    read_only
        Connections cannot write.
    """

    def __init__(
        self, uri: str, statement_timeout_s: int = 120, namespace: str | None = None, *, read_only: bool = False
    ) -> None:
        _check_uri(uri)
        self._uri = uri
        self._timeout = statement_timeout_s
        self.namespace = namespace
        self._read_only = read_only

    @property
    def uri(self) -> str:
        """The URI with its password: never to be shown."""
        return self._uri

    def connect_arguments(self) -> dict[str, Any]:
        """Return what every connection is made with: time-outs, name, search path."""
        options = f"-c statement_timeout={self._timeout}s -c idle_in_transaction_session_timeout=600s -c jit=off"
        if self._read_only:
            options += " -c default_transaction_read_only=on"
        return {
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": options + self._search_path(),
            "application_name": "alertprod",
            "keepalives_idle": 30,
            "tcp_user_timeout": 30_000,
        }

    @property
    def label(self) -> str:
        """Host, port and database without credentials."""
        parts = urlsplit(self._uri)
        hosts = parts.netloc.rpartition("@")[2] or "local"
        return f"{hosts}{'' if hosts.rpartition(']')[2].count(':') else ':5432'}{parts.path}"

    def connect(self, autocommit: bool = True) -> psycopg.Connection[Any]:
        """Return a new connection.

        Raises
        ------
        DatabaseUnavailable
            No answer within the time-out.
        """
        try:
            return psycopg.connect(self._uri, **{**self.connect_arguments(), "autocommit": autocommit})
        except psycopg.OperationalError as error:
            raise DatabaseUnavailable(f"database {self.label} does not answer: {first_line(error)}") from error

    @contextmanager
    def session(self, limit_s: float | None = None) -> Iterator[psycopg.Connection[Any]]:
        """Yield an autocommit connection and close it; connection failures become `DatabaseUnavailable`.

        With `limit_s` one failure is that the body takes longer: a server, or a network, that stands still with its
        sockets open says nothing by itself.
        """
        with self.connect() as connection:
            try:
                with nullcontext() if limit_s is None else cut_after(connection, limit_s):
                    yield connection
            except AWAY as error:
                raise DatabaseUnavailable(f"database {self.label}: {first_line(error)}") from error

    def _search_path(self) -> str:
        """The option that makes every unqualified name one of the namespace."""
        if self.namespace is None:
            return ""
        quoted = '"' + self.namespace.replace('"', '""') + '"'
        return " -c search_path=" + quoted.replace("\\", "\\\\").replace(" ", "\\ ")

    def engine(self) -> sa.Engine:
        """Return an SQLAlchemy engine on the same database (schema work and metadata only)."""
        url = self._uri.replace("postgresql://", "postgresql+psycopg://", 1).replace(
            "postgres://", "postgresql+psycopg://", 1
        )
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT_S}
        if self.namespace is not None:
            arguments["options"] = self._search_path().strip()
        if "," in urlsplit(self._uri).netloc:  # several hosts with ports, which SQLAlchemy cannot read

            def connect() -> psycopg.Connection[Any]:
                return psycopg.connect(self._uri, **arguments)

            return sa.create_engine("postgresql+psycopg://", poolclass=sa.NullPool, creator=connect)
        return sa.create_engine(url, poolclass=sa.NullPool, connect_args=arguments)

    def create(self, schema: PublishedSchema | None = None, *, replica: bool = False, drop: bool = False) -> None:
        """Make all tables at once (tests and namespaces of their own; production uses the migrations).

        Parameters
        ----------
        schema
            Tables to make, by default those of the standard APDB schema.
        replica
            Also make the tables of replication.
        drop
            Drop the tables that are there first.
        """
        with self.session() as connection:
            if self.namespace is not None:
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.namespace)))
            if drop:
                drop_tables(connection)
        engine = self.engine()
        with engine.begin() as work:
            make_metadata(schema, replica=replica).create_all(work)
        engine.dispose()
        with self.session() as connection:
            finish_schema(connection, schema, replica=replica)

    def metadata(self) -> dict[str, str] | None:
        """Return what the metadata table holds, None where there are no tables."""
        with self.session() as connection:
            if connection.execute("SELECT to_regclass('metadata')").fetchone() == (None,):
                return None
            return dict(connection.execute("SELECT name, value FROM metadata").fetchall())

    def check_schema(self, *, newer_is_good: bool = False) -> None:
        """Refuse a database whose schema this program does not know.

        Parameters
        ----------
        newer_is_good
            For one that has begun already: it works on while, and after, a newer program migrates the database.

        Raises
        ------
        SchemaMismatch
            The message names the command to run.
        InconsistentSchemaError
            A table or column is missing or has another type.
        """
        versions = self.metadata()
        if versions is None:
            raise SchemaMismatch(f"database {self.label} is empty: run 'alertprod apdb migrate'")
        wanted = {"version:schema": SCHEMA_VERSION, "version:alertprod": DATABASE_VERSION}
        wrong = {k: (versions.get(k), v) for k, v in wanted.items() if versions.get(k) != v}
        if wrong:
            detail = ", ".join(f"{k} is {have}, need {need}" for k, (have, need) in wrong.items())
            newer = any(_parts(have) > _parts(need) for have, need in wrong.values())
            if newer and newer_is_good:
                return
            todo = "made by a newer program: update alertprod" if newer else "run 'alertprod apdb migrate'"
            raise SchemaMismatch(f"database {self.label}: {detail}: {todo}")
        self.check_tables()

    def check_tables(self, schema: PublishedSchema | None = None) -> None:
        """Refuse a database without the tables and columns of a schema, by default the standard one.

        Raises
        ------
        InconsistentSchemaError
            See `apdb.schema.presence.check_tables`.
        """
        with self.session() as connection:
            check_tables(connection, schema)

    def takes_writes(self) -> bool:
        """Whether the server takes writes: False of a standby, or of one that is set to read only."""
        with self.session() as connection:
            (setting,) = single_row(connection.execute("SELECT current_setting('transaction_read_only')"))
        return bool(setting == "off")

    def check_writable(self) -> None:
        """Refuse a server that takes no writes.

        Raises
        ------
        DatabaseUnavailable
            It is a standby, or set to read only.
        """
        if not self.takes_writes():
            raise DatabaseUnavailable(f"database {self.label} takes no writes: it is a standby, or set to read only")

    def ensure_partitions(self, mjd: float) -> None:
        """Make the partitions for the month of `mjd` and the next two."""
        with self.session() as connection:
            ensure_months(connection, mjd)


def _parts(version: str | None) -> list[int]:
    return [int(part) for part in (version or "").split(".") if part.isdigit()]


def _check_uri(uri: str) -> None:
    """Refuse a URI that cannot be parsed as it was meant; nothing of it is shown, its password may be anywhere in it."""
    parts = urlsplit(uri)
    if parts.scheme not in ("postgresql", "postgres"):
        shown = f"scheme {parts.scheme!r}" if "://" in uri else "no scheme"
        raise ApdbError(f"no client for a database of {shown}: use postgresql://user:password@host:port/name")
    hosts = parts.netloc.rpartition("@")[2].split(",")
    ports = [h.rpartition("]")[2].partition(":")[2] for h in hosts]
    clear = parts.netloc.count("@") <= 1 and "@" not in parts.path and not parts.fragment
    try:
        psycopg.conninfo.conninfo_to_dict(uri)
    except psycopg.ProgrammingError:
        clear = False
    if not clear or not all(p == "" or (p.isdigit() and 0 < int(p) < 65536) for p in ports):
        raise ApdbError(
            "the URI of the database cannot be read (it is not shown, for its password): expected "
            "postgresql://user:password@host:port/name, with @ : / ? # % in a password as %40 %3A %2F %3F %23 %25"
        )


def first_line(error: Exception) -> str:
    """Return the first line of what an error says (libpq's are long)."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
