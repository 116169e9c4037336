"""What a new database needs besides its tables: default partitions, triggers, versions, the frozen configuration, the views."""

import json
from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from apdb.schema.columns import PublishedSchema, published_schema
from apdb.schema.tables import PARTITIONED

__all__ = ["APDB_SQL_VERSION", "DATABASE_VERSION", "drop_tables", "finish_schema", "make_views"]

DATABASE_VERSION = "15"  # of our own tables: the number of the newest migration
APDB_SQL_VERSION = "1.2.1"  # of the layout that lsst.dax.apdb's SQL client expects
TALLY_TRIGGERS = (
    "tally_entered", "tally_changed", "tally_deleted", "tally_emptied", "tally_stored", "tally_delivered",
)  # fmt: skip
APDB_REPLICA_VERSION = "1.0.0"


def finish_schema(
    connection: psycopg.Connection[Any], schema: PublishedSchema | None = None, *, replica: bool | None = None
) -> None:
    """Make the default partitions, triggers and views, and write versions and frozen configuration (idempotent).

    Parameters
    ----------
    replica
        Whether replication is on; None keeps what the database says (off for a new one).
    """
    schema = schema or published_schema()
    for table in PARTITIONED:
        connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} DEFAULT").format(
                sql.Identifier(f"{table}_default"), sql.Identifier(table)
            )
        )
    _make_triggers(connection, "other_writers.sql", ("other_writer",), len(PARTITIONED))
    _make_triggers(connection, "visit_events.sql", ("visit_entered", "visit_changed"), 2)
    _make_triggers(connection, "delivery_totals.sql", ("delivered",), 1)
    _make_triggers(connection, "tallies.sql", TALLY_TRIGGERS, len(TALLY_TRIGGERS))
    if replica is None:
        row = connection.execute("SELECT 1 FROM metadata WHERE name = 'version:ApdbSqlReplica'").fetchone()
        replica = row is not None
    items = {
        "version:schema": schema.version,
        "version:ApdbSql": APDB_SQL_VERSION,
        "version:alertprod": DATABASE_VERSION,
        "config:apdb-sql.json": json.dumps(frozen_configuration(replica)),
    }
    if replica:
        items["version:ApdbSqlReplica"] = APDB_REPLICA_VERSION
    for name, value in items.items():
        connection.execute(
            "INSERT INTO metadata (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )
    if schema is published_schema():
        make_views(connection)


def _make_triggers(connection: psycopg.Connection[Any], name: str, triggers: tuple[str, ...], count: int) -> None:
    """Run a file of SQL beside this module, unless so many of its triggers are there: to make them locks their tables."""
    present = connection.execute(
        "SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE t.tgname = ANY(%s) "
        "AND c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())",
        (list(triggers),),
    ).fetchone()
    if present != (count,):
        connection.execute((files("apdb.schema") / name).read_text(encoding="utf-8"))


def frozen_configuration(replica: bool) -> dict[str, Any]:
    """Return the parameters that a client reads from the database, whatever its own configuration says."""
    return {
        "enable_replica": replica,
        "dia_object_index": "last_object_table",
        "htm_level": 20,
        "htm_index_column": "pixelId",
        "ra_dec_columns": ["ra", "dec"],
    }


def make_views(connection: psycopg.Connection[Any]) -> None:
    """Make or replace the read-only views of ``views.sql``."""
    connection.execute((files("apdb.schema") / "views.sql").read_text(encoding="utf-8"))


def drop_tables(connection: psycopg.Connection[Any]) -> None:
    """Drop every table and view of the current PostgreSQL schema."""
    rows = connection.execute(
        "SELECT c.relname, c.relkind FROM pg_class c WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) "
        "AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition"
    ).fetchall()
    for name, kind in rows:
        what = sql.SQL("VIEW" if kind == "v" else "TABLE")
        connection.execute(sql.SQL("DROP {} IF EXISTS {} CASCADE").format(what, sql.Identifier(name)))
