"""What replication is told of rows that were taken back and of objects that were made anew."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from lsst.dax.apdb import DiaForcedSourceId, DiaSourceId, ReplicaChunk

from apdb.copy.encode import id_array
from apdb.replication import update_records
from apdb.replication.replica import store_chunk

__all__ = ["tell", "tell_ended", "tell_forced", "tell_versions"]

_POSITION = ("ra", "dec", "midpointMjdTai")
_FORCED = ("diaObjectId", "visit", "detector", *_POSITION)


def tell(
    connection: psycopg.Connection[Any],
    chunk: ReplicaChunk,
    sources: pd.DataFrame,
    forced: pd.DataFrame,
    closed: Mapping[int, tuple[float, float]],
    before: Sequence[update_records.Change] = (),
) -> None:
    """Enter update records of rows that left and of objects that were closed, and forget the keys of forced sources.

    Parameters
    ----------
    chunk
        Its time is when that happened.
    sources, forced
        As those of `apdb.visit.take_back.TakenBack`.
    closed
        ra, dec (deg) by diaObjectId.
    before
        Changes that are to be told before these.
    """
    mjd_tai = float(chunk.last_update_time.tai.mjd)
    gone = [DiaSourceId.from_named_tuple(row) for row in sources[["diaSourceId", *_POSITION]].itertuples(index=False)]
    gone_forced = [DiaForcedSourceId.from_named_tuple(row) for row in forced[list(_FORCED)].itertuples(index=False)]
    records = [*before, *update_records.withdrawn(gone, mjd_tai)]
    records += update_records.withdrawn(gone_forced, mjd_tai)
    records += update_records.closed(sorted(closed), closed, mjd_tai)
    update_records.enter(connection, records, chunk)
    connection.execute(
        'DELETE FROM "DiaForcedSourceChunks" k USING unnest(%s::bigint[], %s::bigint[], %s::int[]) g(o, v, d) '
        'WHERE k."diaObjectId" = g.o AND k.visit = g.v AND k.detector = g.d',
        tuple(forced[c].tolist() for c in ("diaObjectId", "visit", "detector")),
    )


def tell_versions(connection: psycopg.Connection[Any], chunk: ReplicaChunk, ids: Collection[int]) -> None:
    """Enter the newest versions of objects among the rows of a chunk."""
    if not ids:
        return
    store_chunk(connection, chunk)
    connection.execute(
        'INSERT INTO "DiaObjectChunks" SELECT %s, "diaObjectId", "validityStartMjdTai" FROM "DiaObjectLast" WHERE '
        '"diaObjectId" = ANY(%s::bigint[]) ON CONFLICT ("diaObjectId", "validityStartMjdTai") DO UPDATE SET '
        "apdb_replica_chunk = excluded.apdb_replica_chunk",
        (chunk.id, id_array(np.fromiter(ids, np.int64, len(ids)))),
    )


def tell_forced(connection: psycopg.Connection[Any], chunk: ReplicaChunk, forced: pd.DataFrame) -> None:
    """Enter forced sources (diaObjectId, visit, detector, midpointMjdTai) among the rows of a chunk."""
    if forced.empty:
        return
    store_chunk(connection, chunk)
    connection.execute(
        'INSERT INTO "DiaForcedSourceChunks" (apdb_replica_chunk, "diaObjectId", visit, detector, "midpointMjdTai") '
        "SELECT %s, k.* FROM unnest(%s::bigint[], %s::bigint[], %s::int[], %s::float8[]) k ON CONFLICT DO NOTHING",
        (chunk.id, *(forced[c].tolist() for c in ("diaObjectId", "visit", "detector", "midpointMjdTai"))),
    )


def tell_ended(connection: psycopg.Connection[Any], chunk: ReplicaChunk, ids: Collection[int]) -> None:
    """Enter the last versions of closed objects, whose validity has ended, among the rows of a chunk."""
    if not ids:
        return
    store_chunk(connection, chunk)
    connection.execute(
        'INSERT INTO "DiaObjectChunks" SELECT DISTINCT ON ("diaObjectId") %s, "diaObjectId", "validityStartMjdTai" FROM '
        '"DiaObject" WHERE "diaObjectId" = ANY(%s::bigint[]) ORDER BY "diaObjectId", "validityStartMjdTai" DESC '
        'ON CONFLICT ("diaObjectId", "validityStartMjdTai") DO UPDATE SET apdb_replica_chunk = excluded.apdb_replica_chunk',
        (chunk.id, id_array(np.fromiter(ids, np.int64, len(ids)))),
    )
