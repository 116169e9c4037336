"""The database as a service needs it: it answers, has the schema, lets us write, keeps what it took, agrees on the time."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg

from apdb import Database
from apdb.errors import DatabaseUnavailable
from apdb.operate.health import advice
from apdb.rows import single_row
from service.doctor.findings import Finding, good, warning, wrong
from service.settings import Settings
from tasks.errors import AlertProdError

__all__ = ["database_findings"]

LEAST_VERSION = 150_000
CLOCK_WARNING_S, CLOCK_WRONG_S = 1.0, 30.0
BUSY = 0.8  # of the connections that the server allows
_WRITTEN = ("VisitLedger", "VisitLease", "AlertOutbox", "DiaSource", "DiaObject", "DiaForcedSource", "DeadLetter")
# what a server must not be set to, and what follows
_DURABLE = {
    "fsync": "a power cut may lose the database",
    "full_page_writes": "a power cut may break pages of the database",
    "synchronous_commit": "a crash may lose visits that were accepted",
}


def database_findings(settings: Settings) -> Iterator[Finding]:
    """Give what was found, the first thing that stops the others last."""
    database = Database(settings.database(), statement_timeout_s=10)
    try:
        connection = database.connect()
    except DatabaseUnavailable as error:
        yield wrong("database", str(error), "start it, or correct ALERTPROD_DATABASE_URI; is the network open to it?")
        return
    with connection:
        yield from _server(connection, database.label)
        yield _clock(connection)
        try:
            database.check_schema()
        except AlertProdError as error:
            yield wrong("schema", str(error), "alertprod apdb migrate")
            return
        yield good("schema", "the one of this program")
        try:
            database.check_writable()
        except DatabaseUnavailable as error:
            todo = "name both hosts in ALERTPROD_DATABASE_URI, with target_session_attrs=read-write; or promote it"
            yield wrong("writes", str(error), todo)
            return
        yield _rights(connection)
        for advised in advice(connection):
            yield warning(f"table {advised.table}", advised.finding, advised.command)


def _server(connection: psycopg.Connection[Any], label: str) -> Iterator[Finding]:
    version = connection.info.server_version
    text = f"PostgreSQL {version // 10_000}.{version % 10_000} at {label}"
    if version < LEAST_VERSION:
        yield wrong("database", text, f"PostgreSQL {LEAST_VERSION // 10_000} or newer is needed")
    else:
        yield good("database", text)
    for name, consequence in _DURABLE.items():
        (value,) = single_row(connection.execute("SELECT current_setting(%s)", (name,)))
        if value == "off":
            yield warning("durability", f"{name} is off: {consequence}", f"ALTER SYSTEM SET {name} = on; then reload")
    (used, most) = single_row(
        connection.execute("SELECT (SELECT count(*) FROM pg_stat_activity), current_setting('max_connections')::int")
    )
    if used > BUSY * most:
        text = f"{used} of {most} connections are in use"
        yield warning("connections", text, "raise max_connections, or run fewer job processes (ALERTPROD_WORKERS)")


def _clock(connection: psycopg.Connection[Any]) -> Finding:
    """Compare the clocks: the moment of the server lies between two of ours."""
    before = time.time()
    (theirs,) = single_row(connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8"))
    after = time.time()
    ahead = max(before - theirs, theirs - after, 0.0)
    text = f"this machine and the database differ by {ahead:.1f} s"
    todo = "let both follow one NTP server: delays of alerts and limits of times are counted with both"
    if ahead > CLOCK_WRONG_S:
        return wrong("clock", text, todo)
    return warning("clock", text, todo) if ahead > CLOCK_WARNING_S else good("clock", text)


def _rights(connection: psycopg.Connection[Any]) -> Finding:
    """Look at what our user may do with the tables; partitions are made by their owner alone."""
    (user, create) = single_row(
        connection.execute("SELECT current_user, has_schema_privilege(current_schema(), 'CREATE')")
    )
    closed = connection.execute(
        "SELECT t FROM unnest(%s::text[]) t WHERE NOT (SELECT bool_and(has_table_privilege(format('%%I', t), p)) FROM "
        "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p)",
        (list(_WRITTEN),),
    ).fetchall()
    foreign = connection.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'p' AND relnamespace = current_schema()::regnamespace AND NOT "
        "pg_has_role(relowner, 'USAGE') ORDER BY 1"
    ).fetchall()
    if closed:
        names = ", ".join(name for (name,) in closed)
        return wrong("rights", f"{user} may not write {names}", f'GRANT ALL ON ALL TABLES IN SCHEMA ... TO "{user}"')
    if foreign or not create:
        text = f"{user} may not make partitions: months that nobody made go to the default partition"
        return wrong("rights", text, f'make "{user}" owner of the tables, with CREATE on their schema')
    return good("rights", f"{user} may write, and make partitions")
