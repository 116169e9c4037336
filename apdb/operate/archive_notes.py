"""What of each object lies in archived months: noted by the archive, here for months that were archived by older versions.

Of an object whose rows change, the number of its valid sources, the first and the last time are those of the rows that are in the
tables and of these notes (`apdb.visit.valid_rows`): a month that is a file cannot be asked.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from apdb.copy.encode import id_array, number_array
from apdb.operate.archive import Archived, archived, month_alone, note_table
from apdb.operate.archive_files import check_file, read_frames

__all__ = ["give_notes", "merged_into", "note_missing"]

_log = logging.getLogger("alertprod.archive")


def note_missing(connection: psycopg.Connection[Any]) -> list[str]:
    """Note what is in archived months of which there are no notes; returns the names of those whose files cannot be read.

    Raises
    ------
    DatabaseUnavailable
        Somebody else works on a month: try again.
    """
    left: list[str] = []
    for month in [a for a in archived(connection) if not a.noted]:
        with month_alone(connection, month.partition):
            for item in archived(connection, month.partition):
                if item.generation == month.generation and not item.noted and not _note(connection, item):
                    left.append(item.partition)
    return sorted(set(left))


def _note(connection: psycopg.Connection[Any], item: Archived) -> bool:
    """Note one generation; False where its file cannot be read."""
    if item.relation is not None:
        note_table(connection, item.table, item.partition, item.relation)
    elif not _note_file(connection, item):
        return False
    into = merged_into(connection)
    is_open = connection.execute(
        'SELECT "diaObjectId" FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s)', (list(into),)
    )
    kept = {i for (i,) in is_open}
    give_notes(connection, {gone: keep for gone, keep in into.items() if gone not in kept}, item.partition)
    connection.execute(
        'UPDATE "ApdbArchive" SET noted = true WHERE partition = %s AND generation = %s',
        (item.partition, item.generation),
    )
    return True


def _note_file(connection: psycopg.Connection[Any], item: Archived) -> bool:
    """Note what a file holds; False where it cannot be read or is not whole."""
    parts, rows = [], 0
    try:
        check_file(item.file, item.checksum, item.partition)
        for frame in read_frames(item.file, ["diaObjectId", "midpointMjdTai", "timeWithdrawnMjdTai"]):
            rows += len(frame)
            valid = frame[frame.timeWithdrawnMjdTai.isna() & frame.diaObjectId.notna()]
            parts.append(valid.groupby("diaObjectId").midpointMjdTai.agg(["size", "min", "max"]))
    except Exception as error:  # gone, changed, no Parquet: each store of files has errors of its own
        _log.warning("%s of %s cannot be read: %s", item.file, item.partition, error)
        return False
    if rows != item.rows:
        return False
    if parts:
        of = pd.concat(parts).groupby(level=0).agg({"size": "sum", "min": "min", "max": "max"})
        connection.execute(
            'INSERT INTO "ArchivedSources" (partition, "diaObjectId", count, "firstMjdTai", "lastMjdTai") SELECT %s, n.* FROM '
            "unnest(%s::bigint[], %s::int[], %s::float8[], %s::float8[]) n",
            (
                item.partition,
                id_array(of.index.to_numpy(np.int64)),
                id_array(of["size"].to_numpy(np.int64)),
                number_array(of["min"].to_numpy(np.float64)),
                number_array(of["max"].to_numpy(np.float64)),
            ),
        )
    return True


def give_notes(connection: psycopg.Connection[Any], into: Mapping[int, int], partition: str | None = None) -> None:
    """Give what is noted of objects that go to those that stay (by those that go), of one month or of all."""
    if into:
        connection.execute(
            'UPDATE "ArchivedSources" a SET "diaObjectId" = m.keep FROM unnest(%(gone)s::bigint[], %(keep)s::bigint[]) m(gone, keep) '
            'WHERE a."diaObjectId" = m.gone AND (%(month)s::text IS NULL OR a.partition = %(month)s)',
            {"gone": list(into), "keep": list(into.values()), "month": partition},
        )


def merged_into(connection: psycopg.Connection[Any]) -> dict[int, int]:
    """Return, of every object that was merged into another, the one that it went into in the end."""
    into: dict[int, int] = {}
    query = "SELECT detail FROM \"ApdbAudit\" WHERE action = 'merge objects' ORDER BY id"
    for (pairs,) in connection.execute(query):
        into.update((int(gone), int(keep)) for gone, keep in pairs)
    return {gone: _stays(into, gone) for gone in into}


def _stays(into: Mapping[int, int], gone: int) -> int:
    seen: set[int] = set()
    while gone in into and gone not in seen:
        seen.add(gone)
        gone = into[gone]
    return gone
