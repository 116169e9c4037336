"""Months come back from the archive: all generations and what came late as one partition."""

from typing import Any

import psycopg
from psycopg import sql

from apdb.copy.encode import copy_in
from apdb.errors import ApdbError
from apdb.operate.archive import Archived, Progress, archived, is_attached, month_alone, sort_key
from apdb.operate.archive_files import check_file, read_frames
from apdb.rows import single_row
from apdb.schema.columns import published_schema
from apdb.schema.partitions import attach, lock_partitions

__all__ = ["restore_partition"]

_STAGE, _CHECK = "apdb_restore_stage", "apdb_restore_month"


def restore_partition(
    connection: psycopg.Connection[Any], item: Archived, progress: Progress = lambda rows: None
) -> int:
    """Attach a month again, made of all of its generations and of what came since; returns its rows.

    Rows come from the detached tables, and from the files where these were dropped. Where two generations hold a row of
    one id, the later one's is kept. The files stay as they are; the month's next archive is a further generation.

    Parameters
    ----------
    item
        Any generation of the month.
    progress
        Called with the number of rows read from files so far.

    Raises
    ------
    ApdbError
        Nothing of the month is in the archive, or a file is gone or changed; nothing was changed.
    DatabaseUnavailable
        A table was in use for longer than the lock time-out: try again.
    """
    with month_alone(connection, item.partition):
        generations = archived(connection, item.partition)
        if not generations:
            raise ApdbError(f"{item.partition} is not in the archive: there is nothing to restore")
        build = f"{item.partition}_restored"
        counter = _Counter(progress)
        for k, generation in enumerate(generations):
            _add(connection, generation, build, counter, first=k == 0)
        _check_times(connection, item, build)
        built, name, check = (sql.Identifier(n) for n in (build, item.partition, _CHECK))
        (count,) = single_row(connection.execute(sql.SQL("SELECT count(*) FROM {}").format(built)))
        # from here on for a moment only: nobody attaches, detaches or writes meanwhile. A merge of objects that has begun ends first,
        # and is followed; one that waits (`NO_MONTH_LEAVES`) sees the rows: a snapshot from between would do neither.
        lock_partitions(connection)
        connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(item.table)))
        count += _add_what_is_there(connection, item, build)
        connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(built, name))
        attach(connection, item.table, item.partition, item.begin_mjd, item.end_mjd)
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(name, check))
        connection.execute(
            "UPDATE \"ApdbArchive\" SET state = 'restored', relation = NULL WHERE partition = %s", (item.partition,)
        )
        connection.execute('DELETE FROM "ArchivedSources" WHERE partition = %s', (item.partition,))
        return int(count)


class _Counter:
    """Adds up the rows of several files for one report of progress."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._rows = progress, 0

    def add(self, rows: int) -> None:
        """Count further rows."""
        self._rows += rows
        self._progress(self._rows)


def _add(connection: psycopg.Connection[Any], item: Archived, build: str, counter: _Counter, *, first: bool) -> None:
    """Add the rows of a generation to the table that becomes the partition."""
    target = build if first else _STAGE
    if item.relation is not None:
        target = item.relation
        if first and _column_names(connection, target) == _column_names(connection, item.table):
            connection.execute(
                sql.SQL("ALTER TABLE {} RENAME TO {}").format(sql.Identifier(target), sql.Identifier(build))
            )
            return
        if first:
            _make_like(connection, build, item.table)
    else:
        _make_like(connection, target, item.table)
        _fill(connection, item, target, counter)
    if target != build:
        _merge(connection, item.table, build, target)
        connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(target)))


def _fill(connection: psycopg.Connection[Any], item: Archived, target: str, counter: _Counter) -> None:
    """Copy the rows of a generation's file to a table."""
    check_file(item.file, item.checksum, item.partition)
    columns, count = published_schema().stored_columns(item.table), 0
    for frame in read_frames(item.file):
        count += copy_in(connection, target, frame, columns, check=False)
        counter.add(len(frame))
    if count != item.rows:
        raise ApdbError(f"{item.file} holds {count} rows, not {item.rows}: nothing was restored")


def _check_times(connection: psycopg.Connection[Any], item: Archived, build: str) -> None:
    """Look through the rows' times now: to attach a table that has this constraint holds nobody up."""
    connection.execute(
        sql.SQL('ALTER TABLE {} ADD CONSTRAINT {} CHECK ("midpointMjdTai" >= {} AND "midpointMjdTai" < {})').format(
            sql.Identifier(build), sql.Identifier(_CHECK), sql.Literal(item.begin_mjd), sql.Literal(item.end_mjd)
        )
    )


def _make_like(connection: psycopg.Connection[Any], name: str, table: str) -> None:
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(sql.Identifier(name), sql.Identifier(table))
    )


def _merge(connection: psycopg.Connection[Any], table: str, build: str, source: str) -> int:
    """Add the rows of a table; where both have a row of one id, that of `source` is kept. Returns how many rows more there are."""
    target, given = sql.Identifier(build), sql.Identifier(source)
    same = sql.SQL(" AND ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(k)) for k in sort_key(table))
    gone = connection.execute(sql.SQL("DELETE FROM {} t USING {} s WHERE {}").format(target, given, same)).rowcount
    # by name: a table that was detached before a column was added lacks it
    listed = sql.SQL(", ").join(map(sql.Identifier, _column_names(connection, source)))
    insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(target, listed, listed, given)
    return connection.execute(insert).rowcount - gone


def _column_names(connection: psycopg.Connection[Any], table: str) -> list[str]:
    rows = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (f'"{table}"',),
    )
    return [name for (name,) in rows]


def _add_what_is_there(connection: psycopg.Connection[Any], item: Archived, build: str) -> int:
    """Add the rows of the month that are in the published table now: in a partition of the same month, or in the default one.

    Returns how many rows more there are.
    """
    more = 0
    parent, own, default = (sql.Identifier(n) for n in (item.table, item.partition, f"{item.table}_default"))
    if is_attached(connection, item.table, item.partition):
        connection.execute(sql.SQL("ALTER TABLE {} DETACH PARTITION {}").format(parent, own))
        more += _merge(connection, item.table, build, item.partition)
        connection.execute(sql.SQL("DROP TABLE {}").format(own))
    connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(default))
    _make_like(connection, _STAGE, item.table)
    connection.execute(
        sql.SQL(
            'WITH moved AS (DELETE FROM {} WHERE "midpointMjdTai" >= %s AND "midpointMjdTai" < %s RETURNING *) '
            "INSERT INTO {} SELECT * FROM moved"
        ).format(default, sql.Identifier(_STAGE)),
        (item.begin_mjd, item.end_mjd),
    )
    more += _merge(connection, item.table, build, _STAGE)
    connection.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(_STAGE)))
    return more
