"""Old months as Parquet files: written, checked, detached in one transaction; dropped by policy; restored by `apdb.operate.restore`.

A month is archived in generations: what comes late is a further one, with a file of its own; no file is written twice.
``ApdbArchive`` has a row for each, and says whether its rows are still in a detached table, in their file alone, or
restored. While a partition is written it can be read but not changed (SHARE lock), so that the file is what was detached.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.decode import stream_frames
from apdb.errors import ApdbError, DatabaseUnavailable
from apdb.operate.archive_files import check_file, read_frames, write_generation
from apdb.rows import single_row
from apdb.schema.arrow import arrow_schema
from apdb.schema.columns import SCHEMA_VERSION, published_schema
from apdb.schema.partitions import LOCK_TIMEOUT_S, Partition, lock_partitions, partitions, waiting_months
from apdb.schema.tables import REPLICATED

__all__ = [
    "Archived",
    "Progress",
    "archive_partition",
    "archived",
    "drop_archived",
    "is_attached",
    "month_alone",
    "note_table",
    "old_partitions",
    "read_archived",
    "sort_key",
]

Progress = Callable[[int], None]
DETACHED, DROPPED = "detached", "dropped"


@dataclass(frozen=True)
class Archived:
    """One generation of an archived month: where its file is, what it holds, and the detached table, where it is still there."""

    partition: str
    table: str
    begin_mjd: float
    end_mjd: float
    file: str
    rows: int
    checksum: str
    state: str
    generation: int = 1
    relation: str | None = None
    noted: bool = True  # what of each object lies in it (of a month of DiaSource)


def old_partitions(connection: psycopg.Connection[Any], before_mjd: float) -> list[Partition]:
    """Return the months that end at or before a time: those with a partition, then those of rows in the default one."""
    own = [p for p in partitions(connection) if not math.isnan(p.end_mjd)]
    return [p for p in [*own, *waiting_months(connection)] if p.end_mjd <= before_mjd]


def archived(connection: psycopg.Connection[Any], partition: str | None = None) -> list[Archived]:
    """Return what is archived and not restored (of one month, or all) in order of table, time and generation."""
    rows = connection.execute(
        'SELECT partition, "tableName", "beginMjdTai", "endMjdTai", file, rows, checksum, state, generation, relation, '
        "noted OR \"tableName\" <> 'DiaSource' FROM \"ApdbArchive\" WHERE state <> 'restored' AND (%(p)s::text IS NULL OR partition = %(p)s) "
        'ORDER BY "tableName", "beginMjdTai", generation',
        {"p": partition},
    ).fetchall()
    return [Archived(*row) for row in rows]


@contextmanager
def month_alone(connection: psycopg.Connection[Any], partition: str) -> Iterator[None]:
    """Work on one month in one transaction; nobody else archives, drops or restores it meanwhile.

    Raises
    ------
    DatabaseUnavailable
        A table was in use for longer than the lock time-out, or others waited for what is locked here.
    """
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 7004))", (partition,))
            yield
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
        raise DatabaseUnavailable(f"{partition} is in use: nothing was changed, try again") from error


def is_attached(connection: psycopg.Connection[Any], table: str, partition: str) -> bool:
    """Return whether a month has a partition of its own now."""
    row = connection.execute(
        "SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass(%s) AND inhparent = to_regclass(%s)",
        (f'"{partition}"', f'"{table}"'),
    ).fetchone()
    return row is not None


def sort_key(table: str) -> tuple[str, ...]:
    """Return the columns that name a row of a table."""
    return published_schema().keys[table]


def archive_partition(
    connection: psycopg.Connection[Any], partition: Partition, store: str, progress: Progress = lambda rows: None
) -> Archived:
    """Write a month to a new file below ``STORE/TABLE``, check the file, and take the rows out of the published table.

    The rows are those of the month's partition, which is detached, or those that wait in the default partition, which
    move to a table of their own. `drop_archived` drops that table.

    Parameters
    ----------
    store
        Directory or any fsspec URL.
    progress
        Called with the number of rows written so far.

    Raises
    ------
    ApdbError
        The month has no rows anywhere, or some that replication has not copied, or the file does not hold what was written.
    DatabaseUnavailable
        The table is in use for longer than the lock time-out: try again.
    """
    name, table = partition.name, partition.table
    with month_alone(connection, name):
        query = 'SELECT coalesce(max(generation), 0) + 1 FROM "ApdbArchive" WHERE partition = %s'
        (generation,) = single_row(connection.execute(query, (name,)))
        relation = f"{name}_g{generation}"
        attached = is_attached(connection, table, name)
        if attached:
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(name)))
        else:
            _gather(connection, partition, relation)
        _refuse_unreplicated(connection, partition)
        file, rows, checksum = _write(
            connection, partition, name if attached else relation, store, generation, progress
        )
        note_table(connection, table, name, name if attached else relation)
        if attached:
            lock_partitions(connection)
            parent, own, kept = (sql.Identifier(n) for n in (table, name, relation))
            connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, own))
            connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(own, kept))
        bounds = partition.begin_mjd, partition.end_mjd
        item = Archived(name, table, *bounds, file, rows, checksum, DETACHED, generation, relation)
        connection.execute(
            'INSERT INTO "ApdbArchive" (partition, "tableName", "beginMjdTai", "endMjdTai", file, rows, checksum, state, '
            "generation, relation, noted) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            tuple(vars(item).values()),
        )
    return item


def note_table(connection: psycopg.Connection[Any], table: str, partition: str, source: str) -> None:
    """Note what of each object lies in a month of DiaSource (`source`: the table that holds its rows)."""
    if table != "DiaSource":
        return
    query = sql.SQL(
        'INSERT INTO "ArchivedSources" (partition, "diaObjectId", count, "firstMjdTai", "lastMjdTai") SELECT %s, "diaObjectId", '
        'count(*), min("midpointMjdTai"), max("midpointMjdTai") FROM {} WHERE "diaObjectId" IS NOT NULL AND '
        '"timeWithdrawnMjdTai" IS NULL GROUP BY 2 ORDER BY 2'
    )
    connection.execute(query.format(sql.Identifier(source)), (partition,))


def _gather(connection: psycopg.Connection[Any], partition: Partition, relation: str) -> None:
    """Move the rows of a month out of the default partition to a new table."""
    new_table, default = sql.Identifier(relation), sql.Identifier(f"{partition.table}_default")
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(new_table, sql.Identifier(partition.table))
    )
    moved = connection.execute(
        sql.SQL(
            'WITH moved AS (DELETE FROM {} WHERE "midpointMjdTai" >= %s AND "midpointMjdTai" < %s RETURNING *) '
            "INSERT INTO {} SELECT * FROM moved"
        ).format(default, new_table),
        (partition.begin_mjd, partition.end_mjd),
    ).rowcount
    if not moved:
        raise ApdbError(f"{partition.name} is not attached and no row of its month waits: there is nothing to archive")


def _refuse_unreplicated(connection: psycopg.Connection[Any], partition: Partition) -> None:
    chunks = f"{partition.table}Chunks"
    if partition.table not in REPLICATED or connection.execute(
        "SELECT to_regclass(%s)", (f'"{chunks}"',)
    ).fetchone() == (None,):
        return
    waiting = connection.execute(
        sql.SQL('SELECT count(*) FROM {} WHERE "midpointMjdTai" >= %s AND "midpointMjdTai" < %s').format(
            sql.Identifier(chunks)
        ),
        (partition.begin_mjd, partition.end_mjd),
    ).fetchone()
    if waiting and waiting[0]:
        raise ApdbError(f"{waiting[0]} rows of {partition.name} have not been replicated: copy their chunks first")


def _write(
    connection: psycopg.Connection[Any],
    partition: Partition,
    source: str,
    store: str,
    generation: int,
    progress: Progress,
) -> tuple[str, int, str]:
    """Write the rows of a table in order of time and id: the same rows give the same file."""
    columns = published_schema().stored_columns(partition.table)
    order = ("midpointMjdTai", *sort_key(partition.table))
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        sql.SQL(", ").join(sql.Identifier(c.name) for c in columns),
        sql.Identifier(source),
        sql.SQL(", ").join(map(sql.Identifier, order)),
    )
    suffix = "" if generation == 1 else f".g{generation}"
    about = {
        "partition": partition.name,
        "table": partition.table,
        "generation": generation,
        "beginMjdTai": partition.begin_mjd,
        "endMjdTai": partition.end_mjd,
        "schema": SCHEMA_VERSION,
        "columns": [c.name for c in columns],
    }
    target = f"{store.rstrip('/')}/{partition.table}/{partition.name}{suffix}"
    return write_generation(stream_frames(connection, query, columns), arrow_schema(columns), target, about, progress)


def read_archived(item: Archived) -> Iterator[pd.DataFrame]:
    """Yield the rows of one generation (APDB columns and pixelId) in frames."""
    return read_frames(item.file)


def drop_archived(connection: psycopg.Connection[Any], item: Archived) -> None:
    """Drop the table of a detached generation whose file is there and whole.

    Raises
    ------
    ApdbError
        It is not detached, or its file is gone or changed.
    DatabaseUnavailable
        The table is in use for longer than the lock time-out: try again.
    """
    with month_alone(connection, item.partition):
        now = [a for a in archived(connection, item.partition) if a.generation == item.generation]
        if not now or now[0].state != DETACHED or now[0].relation is None:
            raise ApdbError(
                f"{item.partition}, generation {item.generation}, is {now[0].state if now else 'restored'}, not detached"
            )
        check_file(now[0].file, now[0].checksum, item.partition)
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(now[0].relation)))
        connection.execute(
            "UPDATE \"ApdbArchive\" SET state = 'dropped', relation = NULL WHERE partition = %s AND generation = %s",
            (item.partition, item.generation),
        )
