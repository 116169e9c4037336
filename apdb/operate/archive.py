"""Old partitions as Parquet files: written, checked, detached in one transaction; dropped by policy; read back, restored.

While a partition is written it can be read but not changed (SHARE lock), so that the file is what was detached.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from apdb.copy.decode import stream_frames
from apdb.copy.encode import copy_in
from apdb.errors import ApdbError, DatabaseUnavailable
from apdb.schema.arrow import arrow_schema
from apdb.schema.columns import Column, published_schema
from apdb.schema.partitions import LOCK_TIMEOUT_S, Partition, attach, partitions
from apdb.schema.tables import REPLICATED

__all__ = [
    "Archived",
    "archive_partition",
    "archived",
    "drop_archived",
    "old_partitions",
    "read_archived",
    "restore_partition",
]

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Archived:
    """One archived partition: where its file is, what it holds, and whether the table is still there."""

    partition: str
    table: str
    begin_mjd: float
    end_mjd: float
    file: str
    rows: int
    checksum: str
    state: str


def old_partitions(connection: psycopg.Connection[Any], before_mjd: float) -> list[Partition]:
    """Return the attached monthly partitions that end at or before a time."""
    return [p for p in partitions(connection) if not math.isnan(p.end_mjd) and p.end_mjd <= before_mjd]


def archived(connection: psycopg.Connection[Any]) -> list[Archived]:
    """Return what is archived, in order of table and time."""
    rows = connection.execute(
        'SELECT partition, "tableName", "beginMjdTai", "endMjdTai", file, rows, checksum, state FROM "ApdbArchive" '
        'ORDER BY "tableName", "beginMjdTai"'
    ).fetchall()
    return [Archived(*row) for row in rows]


def archive_partition(
    connection: psycopg.Connection[Any], partition: Partition, store: str, progress: Progress = lambda rows: None
) -> Archived:
    """Write a partition to ``STORE/TABLE/PARTITION.parquet``, check the file, and detach the partition.

    Parameters
    ----------
    store
        Directory or any fsspec URL.
    progress
        Called with the number of rows written so far.

    Raises
    ------
    ApdbError
        The partition has rows that replication has not copied, or the file does not hold what was written.
    DatabaseUnavailable
        The table is in use for longer than the lock time-out: try again.
    """
    target = f"{store.rstrip('/')}/{partition.table}/{partition.name}.parquet"
    name = sql.Identifier(partition.name)
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(name))
            _refuse_unreplicated(connection, partition)
            rows, checksum = _write(connection, partition, target, progress)
            _verify(target, rows, partition)
            connection.execute(
                'INSERT INTO "ApdbArchive" (partition, "tableName", "beginMjdTai", "endMjdTai", file, rows, checksum, state) '
                "VALUES (%s, %s, %s, %s, %s, %s, %s, 'detached') ON CONFLICT (partition) DO UPDATE SET file = excluded.file, "
                'rows = excluded.rows, checksum = excluded.checksum, state = excluded.state, "archivedAt" = now()',
                (partition.name, partition.table, partition.begin_mjd, partition.end_mjd, target, rows, checksum),
            )
            connection.execute(
                sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(sql.Identifier(partition.table), name)
            )
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnavailable(f"{partition.name} is in use: nothing was changed, try again") from error
    return Archived(
        partition.name, partition.table, partition.begin_mjd, partition.end_mjd, target, rows, checksum, "detached"
    )


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


def _columns(table: str) -> tuple[Column, ...]:
    return published_schema().stored_columns(table)


def _write(
    connection: psycopg.Connection[Any], partition: Partition, target: str, progress: Progress
) -> tuple[int, str]:
    """Write the rows in order of time; returns their number and the digest of the file as it reads back."""
    columns, schema = _columns(partition.table), arrow_schema(_columns(partition.table))
    query = sql.SQL('SELECT {} FROM {} ORDER BY "midpointMjdTai"').format(
        sql.SQL(", ").join(sql.Identifier(c.name) for c in columns), sql.Identifier(partition.name)
    )
    count = 0
    with suppress(OSError):
        fsspec.core.url_to_fs(target)[0].makedirs(target.rsplit("/", 1)[0], exist_ok=True)
    with fsspec.open(target, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for frame in stream_frames(connection, query, columns):
            writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
            count += len(frame)
            progress(count)
    return count, _digest(target)


def _digest(file: str) -> str:
    digest = hashlib.sha256()
    with fsspec.open(file, "rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _check_file(item: Archived) -> None:
    """Refuse a file that is gone, short or changed."""
    try:
        digest = _digest(item.file)
    except OSError as error:
        raise ApdbError(f"the archive file of {item.partition} cannot be read: {error}") from error
    if digest != item.checksum:
        raise ApdbError(f"{item.file} is not the file that was written for {item.partition}: its checksum differs")


def _read(file: str) -> Iterator[pd.DataFrame]:
    types = {
        pa.int64(): pd.Int64Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }
    with fsspec.open(file, "rb") as opened:
        for batch in pq.ParquetFile(opened).iter_batches(50_000):
            yield batch.to_pandas(types_mapper=types.get)


def _verify(target: str, rows: int, partition: Partition) -> None:
    """Read the file's row count back: a store that lost the end of a file must not cost us the table."""
    with fsspec.open(target, "rb") as opened:
        held = pq.ParquetFile(opened).metadata.num_rows
    if held != rows:
        raise ApdbError(f"{target} holds {held} rows, {partition.name} has {rows}: the partition was left in place")


def read_archived(item: Archived) -> Iterator[pd.DataFrame]:
    """Yield the rows of an archived partition (APDB columns and pixelId) in frames."""
    return _read(item.file)


def drop_archived(connection: psycopg.Connection[Any], item: Archived) -> None:
    """Drop the table of a detached partition whose file is there and whole.

    Raises
    ------
    ApdbError
        It is not detached, or its file is gone or changed.
    """
    if item.state != "detached":
        raise ApdbError(f"{item.partition} is {item.state}, not detached")
    _check_file(item)
    with connection.transaction():
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(item.partition)))
        connection.execute("UPDATE \"ApdbArchive\" SET state = 'dropped' WHERE partition = %s", (item.partition,))


def restore_partition(
    connection: psycopg.Connection[Any], item: Archived, progress: Progress = lambda rows: None
) -> int:
    """Attach an archived partition again, filled from its file when its table was dropped; returns the rows.

    Raises
    ------
    ApdbError
        It is attached, or the file does not hold what was archived.
    """
    if item.state not in ("detached", "dropped"):
        raise ApdbError(f"{item.partition} is {item.state}: there is nothing to restore")
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        if item.state == "dropped":
            _refill(connection, item, progress)
        connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        attach(connection, item.table, item.partition, item.begin_mjd, item.end_mjd)
        connection.execute('DELETE FROM "ApdbArchive" WHERE partition = %s', (item.partition,))
    return item.rows


def _refill(connection: psycopg.Connection[Any], item: Archived, progress: Progress) -> None:
    _check_file(item)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(
            sql.Identifier(item.partition), sql.Identifier(item.table)
        )
    )
    count = 0
    for frame in _read(item.file):
        count += copy_in(connection, item.partition, frame, _columns(item.table), check=False)
        progress(count)
    if count != item.rows:
        raise ApdbError(f"{item.file} holds {count} rows, not {item.rows}: nothing was restored")
