"""The hot reads: objects of a region, history of objects or of a region, and whether a visit is stored."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from lsst.sphgeom import Region
from psycopg import sql

from apdb.copy.decode import select_frame, select_frame_in_parts
from apdb.copy.encode import id_array
from apdb.queue.states import VisitState
from apdb.rows import single_row
from apdb.schema.columns import Column, PublishedSchema
from apdb.sky.htm import HTM_LEVEL, cover, htm_ids
from tasks.arrays import F64, I64
from tasks.sphere import positions_around

__all__ = [
    "IN_RANGES",
    "OTHER_WRITERS",
    "history_in_region",
    "history_of_objects",
    "objects_around",
    "objects_in_region",
    "pixel_ranges",
    "repeated_sources",
    "sources_of_visit",
    "visit_is_stored",
]

AROUND_LEVEL = 12
OTHER_WRITERS = "status:other-writers"  # a key of the metadata: rows are stored that the ledgers do not know
IN_RANGES = sql.SQL('JOIN unnest(%s::bigint[], %s::bigint[]) r(lo, hi) ON t."pixelId" >= r.lo AND t."pixelId" < r.hi')


def pixel_ranges(region: Region, max_ranges: int = 64) -> tuple[list[int], list[int]]:
    """Return lower (included) and upper (excluded) bounds of the pixels that cover a region, without overlaps."""
    ranges = cover(region, max_ranges=max_ranges)
    return [lo for lo, _ in ranges], [hi for _, hi in ranges]


def objects_in_region(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    region: Region,
    *,
    columns: Sequence[Column] | None = None,
    nullable: bool = False,
    max_ranges: int = 64,
) -> pd.DataFrame:
    """Return the newest versions whose pixel covers the region (a superset of the region), in order of id."""
    chosen = schema.columns("DiaObjectLast") if columns is None else columns
    frame = select_frame(
        connection, "DiaObjectLast", chosen, IN_RANGES, pixel_ranges(region, max_ranges), nullable=nullable
    )
    if "diaObjectId" in frame.columns:
        frame = frame.sort_values("diaObjectId", kind="stable")
    return frame.reset_index(drop=True)


def history_of_objects(
    connection: psycopg.Connection[Any] | Sequence[psycopg.Connection[Any]],
    schema: PublishedSchema,
    table: str,
    object_ids: Sequence[int] | I64,
    start_mjd: float,
    *,
    withdrawn: bool = True,
    nullable: bool = False,
) -> pd.DataFrame:
    """Return the rows of objects whose midpoint is at or after `start_mjd` (MJD, TAI).

    Parameters
    ----------
    connection
        One connection, or several that share a snapshot: then each reads a part of the objects.
    object_ids
        Shape (N,), in any order.
    withdrawn
        False leaves withdrawn rows out.
    """
    valid = sql.SQL("" if withdrawn else ' AND t."timeWithdrawnMjdTai" IS NULL')
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[]) AND t."midpointMjdTai" >= %s') + valid
    ids = np.unique(np.asarray(object_ids, dtype=np.int64))
    columns = schema.columns(table)
    connections = [connection] if isinstance(connection, psycopg.Connection) else connection
    # neighbouring ids are in neighbouring pages: every part gets its share of the recent, busy ones
    parts = [(id_array(ids[k :: len(connections)]), start_mjd) for k in range(len(connections))]
    return select_frame_in_parts(connections, table, columns, rest, parts, nullable=nullable)


def history_in_region(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    region: Region,
    start_mjd: float,
    *,
    max_ranges: int = 64,
) -> pd.DataFrame:
    """Return the DiaSources whose pixel covers the region and whose midpoint is at or after `start_mjd`."""
    rest = IN_RANGES + sql.SQL(' WHERE t."midpointMjdTai" >= %s')
    bounds = pixel_ranges(region, max_ranges)
    return select_frame(connection, "DiaSource", schema.columns("DiaSource"), rest, (*bounds, start_mjd), nullable=True)


def objects_around(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    ra: F64,
    dec: F64,
    radius_deg: float,
) -> pd.DataFrame:
    """Return every newest version within a small radius of any position (and some more around), in order of id.

    Positions have shape (N,) in deg (ICRS). The radius must be small against the pixels of `AROUND_LEVEL` (0.02 degrees).
    """
    pixels = np.unique(htm_ids(*positions_around(ra, dec, radius_deg), AROUND_LEVEL))
    shift = 2 * (HTM_LEVEL - AROUND_LEVEL)
    bounds = ((pixels << shift).tolist(), ((pixels + 1) << shift).tolist())
    frame = select_frame(connection, "DiaObjectLast", schema.columns("DiaObjectLast"), IN_RANGES, bounds)
    return frame.sort_values("diaObjectId", ignore_index=True)


def sources_of_visit(
    connection: psycopg.Connection[Any], schema: PublishedSchema, visit: int, detector: int
) -> pd.DataFrame:
    """Return the DiaSources of a (visit, detector) that are not withdrawn, in order of id."""
    rest = sql.SQL('WHERE t.visit = %s AND t.detector = %s AND t."timeWithdrawnMjdTai" IS NULL')
    frame = select_frame(connection, "DiaSource", schema.columns("DiaSource"), rest, (visit, detector), nullable=True)
    return frame.sort_values("diaSourceId", ignore_index=True)


def repeated_sources(
    connection: psycopg.Connection[Any], object_ids: Sequence[int], before_mjd: float
) -> dict[int, int]:
    """Return, of objects that have any, how many valid sources before a time are of a visit that has another one of the object.

    The rest of the caller's transaction scans no table where there is an index.
    """
    # as in `apdb.visit.valid_rows`: no scan of a month of which the planner knows nothing, no look at each id for each month
    connection.execute("SELECT set_config('enable_seqscan', 'off', true)")
    rows = connection.execute(
        'SELECT "diaObjectId", count(*) - count(DISTINCT visit) FROM "DiaSource" WHERE "diaObjectId" = '
        'ANY(ARRAY(SELECT unnest(%s::bigint[]))) AND "midpointMjdTai" < %s AND "timeWithdrawnMjdTai" IS NULL GROUP BY 1 HAVING count(*) > count(DISTINCT visit)',
        (list(object_ids), before_mjd),
    ).fetchall()
    return {int(number): int(count) for number, count in rows}


def visit_is_stored(connection: psycopg.Connection[Any], visit: int, detector: int) -> bool:
    """Return whether the (visit, detector) was stored, also when it had no row at all or its rows are archived.

    The ledgers know what was stored here. The tables, which have many partitions, are looked through only where another
    client has written to them.
    """
    key = {"v": visit, "d": detector, "done": VisitState.DONE, "others": OTHER_WRITERS}
    stored, others = single_row(
        connection.execute(
            'SELECT EXISTS (SELECT 1 FROM "StoreLedger" WHERE visit = %(v)s AND detector = %(d)s) OR EXISTS '
            '(SELECT 1 FROM "VisitLedger" WHERE visit = %(v)s AND detector = %(d)s AND state = %(done)s), '
            "EXISTS (SELECT 1 FROM metadata WHERE name = %(others)s)",
            key,
        )
    )
    if stored or not others:
        return bool(stored)
    row = connection.execute(
        'SELECT EXISTS (SELECT 1 FROM "DiaSource" WHERE visit = %(v)s AND detector = %(d)s) OR EXISTS '
        '(SELECT 1 FROM "DiaForcedSource" WHERE visit = %(v)s AND detector = %(d)s)',
        key,
    ).fetchone()
    return row == (True,)
