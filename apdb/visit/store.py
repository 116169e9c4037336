"""Writing the rows of a visit: versions of objects, sources, forced sources, each by one COPY."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.encode import id_array, write_rows
from apdb.errors import VisitConflict
from apdb.rows import single_row
from apdb.schema.archived_rows import Stored, refuse_rows_elsewhere
from apdb.schema.columns import PublishedSchema
from apdb.schema.partitions import is_archived
from apdb.visit.source_ids import (
    free_withdrawn,
    id_ranges,
    note_uncovered,
    refuse_known_ids,
    refuse_moved,
    refuse_unknown_objects,
)
from apdb.visit_rows import VisitRows
from tasks.arrays import I64

__all__ = ["is_whole", "store_objects", "store_rows"]

_LOG = logging.getLogger("lsst.dax.apdb.alertprod")
# a version that would not begin after the one before it begins this much later (in days: 0.1 ms)
SHORTEST_VALIDITY = 1e-9


def store_rows(
    connection: psycopg.Connection[Any],
    rows: VisitRows,
    without: Collection[int] = (),
    *,
    may_reopen: bool = False,
    known: I64 | None = None,
) -> bool:
    """Write prepared rows in the open transaction; returns False, writing nothing, when they are there already.

    A store that may be a repetition is entered in the ledger first, others last: what identifies their content is
    known when all is encoded. Withdrawn sources of the visit whose ids come again are deleted.

    Parameters
    ----------
    without
        Objects whose versions the caller writes itself, afterwards.
    may_reopen
        Whether some of the objects may have been closed.
    known
        Objects that are known to be stored, shape (N,).

    Raises
    ------
    VisitConflict
        Rows with the same ids but another content are there, or the same rows were stored and are not all valid any more.
    ApdbError
        The rows do not fit the tables, or rows of the visit that may have the same ids are in the archive.
    """
    may_repeat, may_meet = _may_repeat(connection, rows)
    if may_repeat and not _enter_first(connection, rows):
        _LOG.info("visit %s, detector %s: the same rows are stored already", rows.visit, rows.detector)
        return False
    if may_meet:
        refuse_known_ids(connection, rows)
        free_withdrawn(connection, rows)
    if rows.strict:
        refuse_unknown_objects(connection, rows, known)
    try:
        own = rows.objects[~rows.objects.diaObjectId.isin(without)] if without and len(rows.objects) else rows.objects
        again = may_reopen or may_repeat or may_meet
        store_objects(connection, rows if own is rows.objects else replace(rows, objects=own), may_reopen=again)
        write_rows(connection, "DiaSource", rows.sources, meanwhile=lambda: rows.forced)
        write_rows(connection, "DiaForcedSource", rows.forced, meanwhile=lambda: rows.digest)
        if not may_repeat and not _enter(connection, rows):
            raise _conflict(rows)
    except psycopg.errors.UniqueViolation as error:
        raise _conflict(rows) from error
    return True


def _conflict(
    rows: VisitRows, what: str = "rows with the same ids and another content are stored already"
) -> VisitConflict:
    return VisitConflict(
        f"{what}: nothing was written; ask for a replacement to overwrite them",
        visit=rows.visit,
        detector=rows.detector,
    )


def _may_repeat(connection: psycopg.Connection[Any], rows: VisitRows) -> tuple[bool, bool]:
    """Whether the visit came before, and whether another visit has ids between those of its sources
    or forced sources.

    Both also where that cannot be told: rows of several visits, or under no lock of the sky.
    """
    if rows.visit is None or rows.detector is None or not rows.placed:
        return True, True
    of_sources, of_forced = id_ranges(rows)
    repeats, meets = single_row(
        connection.execute(
            'SELECT EXISTS (SELECT 1 FROM "StoreLedger" WHERE visit = %(v)s AND detector = %(d)s), '
            'EXISTS (SELECT 1 FROM "StoreLedger" WHERE "sourceIds" && %(s)s::int8range '
            "AND (visit, detector) IS DISTINCT FROM (%(v)s::bigint, %(d)s::bigint)) OR "
            'EXISTS (SELECT 1 FROM "StoreLedger" WHERE "forcedIds" && %(f)s::int8range '
            "AND (visit, detector) IS DISTINCT FROM (%(v)s::bigint, %(d)s::bigint))",
            {"v": rows.visit, "d": rows.detector, "s": of_sources, "f": of_forced},
        )
    )
    return bool(repeats), bool(meets)


def _enter(connection: psycopg.Connection[Any], rows: VisitRows) -> bool:
    """Enter the store in the ledger of stores; False when the same content is there."""
    entered = connection.execute(
        'INSERT INTO "StoreLedger" ("contentHash", visit, detector, "visitTimeMjdTai", "nObjects", "nSources", '
        '"nForcedSources", "sourceIds", "forcedIds") VALUES (%s, %s, %s, %s, %s, %s, %s, %s::int8range, %s::int8range) '
        "ON CONFLICT DO NOTHING",
        (
            rows.digest,
            rows.visit,
            rows.detector,
            rows.mjd_tai,
            len(rows.objects),
            rows.sources.count,
            rows.forced.count,
            *id_ranges(rows),
        ),
    ).rowcount
    note_uncovered(connection, rows)
    return bool(entered)


def is_whole(connection: psycopg.Connection[Any], rows: VisitRows) -> bool:
    """Whether rows that were stored are as valid as they were, their sources all there; forced sources may have left with objects."""
    sources, forced = (rows.frames.get(t) for t in ("DiaSource", "DiaForcedSource"))
    if sources is not None:
        valid = sources.timeWithdrawnMjdTai.isna() if "timeWithdrawnMjdTai" in sources else np.ones(len(sources), bool)
        ids = sources.diaSourceId.to_numpy(np.int64)[valid]
        query = (
            'SELECT count(*) FROM "DiaSource" WHERE "diaSourceId" = ANY(%s::bigint[]) AND "timeWithdrawnMjdTai" IS NULL'
        )
        if single_row(connection.execute(query, (id_array(ids),)))[0] < len(ids):
            return False
    if forced is None or ("timeWithdrawnMjdTai" in forced and forced.timeWithdrawnMjdTai.notna().any()):
        return True
    query = (
        'SELECT EXISTS (SELECT 1 FROM "DiaForcedSource" WHERE visit = %s AND detector = %s AND "diaObjectId" = ANY(%s::bigint[]) '
        'AND "timeWithdrawnMjdTai" IS NOT NULL)'
    )
    owners = id_array(forced.diaObjectId.to_numpy(np.int64))
    return not single_row(connection.execute(query, (rows.visit, rows.detector, owners)))[0]


def _enter_first(connection: psycopg.Connection[Any], rows: VisitRows) -> bool:
    """Enter what may be a repetition; False when the same content is there.

    The primary key of DiaSource holds the time (it is partitioned by it): ids that come again with another time are
    found here.
    """
    if not _enter(connection, rows):
        if not (is_whole(connection, rows) or is_archived(connection, rows.days_mjd)):
            raise _conflict(rows, "these rows were stored, and some of them are withdrawn or deleted since")
        return False
    if rows.visit is None or rows.detector is None or not rows.frames:
        return True
    of_sources, of_forced = id_ranges(rows)
    key = {"v": rows.visit, "d": rows.detector, "h": rows.digest, "s": of_sources, "f": of_forced}
    others = connection.execute(
        'SELECT "nSources", "nForcedSources", "sourceIds"::text, "forcedIds"::text, "sourceIds" && %(s)s::int8range OR "forcedIds" && '
        '%(f)s::int8range FROM "StoreLedger" WHERE visit = %(v)s AND detector = %(d)s AND "contentHash" <> %(h)s',
        key,
    ).fetchall()
    if meeting := [Stored(*other[:4]) for other in others if other[4]]:
        refuse_rows_elsewhere(connection, rows.visit, rows.detector, meeting)
    if not others or "DiaSource" not in rows.frames:
        return True
    ids = rows.frames["DiaSource"].diaSourceId.tolist()
    again = connection.execute(
        'SELECT 1 FROM "DiaSource" WHERE visit = %(v)s AND detector = %(d)s AND "diaSourceId" = ANY(%(i)s) LIMIT 1',
        {**key, "i": ids},
    ).fetchone()
    if again is not None:
        raise _conflict(rows)
    return True


def _begins_of_closed(connection: psycopg.Connection[Any], rows: VisitRows, ids: I64) -> dict[int, float]:
    """Return when new versions of objects can begin that are closed and come again, where that is after the rows' time.

    Raises
    ------
    ApdbError
        One comes again elsewhere, and the rows are held against what is stored.
    """
    if not ids.size:
        return {}
    found = connection.execute(
        'WITH closed AS MATERIALIZED (SELECT id FROM unnest(%s::bigint[]) id WHERE NOT EXISTS (SELECT 1 FROM "DiaObjectLast" l WHERE '
        'l."diaObjectId" = id)) SELECT id, greatest(max("validityEndMjdTai"), max("validityStartMjdTai") + %s), (array_agg(ra ORDER BY '
        '"validityStartMjdTai" DESC))[1], (array_agg(dec ORDER BY "validityStartMjdTai" DESC))[1] FROM closed JOIN '
        '"DiaObject" o ON o."diaObjectId" = id GROUP BY 1 ORDER BY 1',
        (id_array(ids), SHORTEST_VALIDITY),
    ).fetchall()
    if rows.strict and found:
        held, _, ra, dec = (np.array(values) for values in zip(*found, strict=True))
        refuse_moved(rows, held, ra, dec)
    return {i: begin for i, begin, _, _ in found if begin > rows.mjd_tai}


def store_objects(
    connection: psycopg.Connection[Any],
    rows: VisitRows,
    renewed_ids: Collection[int] = (),
    *,
    may_reopen: bool = False,
) -> None:
    """Close the open versions, append the new ones, and renew DiaObjectLast.

    A version never begins before the one that it supersedes, also when visits come out of order: then it begins right
    after that one.

    Parameters
    ----------
    renewed_ids
        Objects whose open version this same transaction has made: nobody has seen it, the new one takes its place.
    may_reopen
        Whether some may have been closed; where rows are held against what is stored, that is looked for anyway.
    """
    if rows.objects.empty:
        _LOG.debug("No objects to write to database.")
        return
    ids = rows.objects.diaObjectId.to_numpy(np.int64)
    named = id_array(ids)
    starts = _drop_versions(connection, ids, renewed_ids)
    with connection.pipeline():  # rows are encoded while the server works
        closed = connection.execute(
            'WITH closed AS (UPDATE "DiaObject" SET "validityEndMjdTai" = greatest(%s, "validityStartMjdTai" + %s) '
            'WHERE "diaObjectId" = ANY(%s::bigint[]) AND "validityEndMjdTai" IS NULL '
            'RETURNING "diaObjectId", "validityEndMjdTai", ra, dec) SELECT * FROM closed WHERE "validityEndMjdTai" > %s OR %s',
            (rows.mjd_tai, SHORTEST_VALIDITY, named, rows.mjd_tai, rows.strict),
            binary=True,
        )
        versions = rows.versions
        ended = closed.fetchall()
    held = ids[:0]
    if rows.strict and ended:
        ended.sort()
        held, _, ra, dec = (np.array(values) for values in zip(*ended, strict=True))
        refuse_moved(rows, held, ra, dec)
    reopened: Mapping[int, float] = {}
    if rows.strict or may_reopen:
        reopened = _begins_of_closed(connection, rows, np.setdiff1d(ids, held))
    later = {**starts, **reopened, **{number: end for number, end, _, _ in ended if end > rows.mjd_tai}}
    if later:
        start = pd.Series(ids).map(later).fillna(rows.mjd_tai).to_numpy(np.float64)
        versions = versions.with_first(start)
    write_rows(connection, "DiaObject", versions, meanwhile=lambda: rows.sources)
    _renew_last(connection, rows.schema, named)


def _drop_versions(connection: psycopg.Connection[Any], ids: I64, renewed_ids: Collection[int]) -> dict[int, float]:
    """Delete the open versions of objects that this transaction has made; returns when they began."""
    own = np.intersect1d(ids, np.fromiter(renewed_ids, np.int64, len(renewed_ids)))
    if not own.size:
        return {}
    return dict(
        connection.execute(
            'DELETE FROM "DiaObject" WHERE "diaObjectId" = ANY(%s::bigint[]) AND "validityEndMjdTai" IS NULL '
            'RETURNING "diaObjectId", "validityStartMjdTai"',
            (id_array(own),),
        ).fetchall()
    )


def _renew_last(connection: psycopg.Connection[Any], schema: PublishedSchema, named: str) -> None:
    """Copy the open versions of objects to DiaObjectLast, whose columns are some of theirs."""
    connection.execute(_last_statement(tuple(c.name for c in schema.stored_columns("DiaObjectLast"))), (named,))


@lru_cache(maxsize=8)
def _last_statement(columns: tuple[str, ...]) -> bytes:
    names = [sql.Identifier(name) for name in columns]
    statement = sql.SQL(
        'INSERT INTO "DiaObjectLast" ({0}) SELECT {0} FROM "DiaObject" WHERE "diaObjectId" = ANY(%s::bigint[]) '
        'AND "validityEndMjdTai" IS NULL ORDER BY "diaObjectId" ON CONFLICT ("diaObjectId") DO UPDATE SET {1}'
    )
    changes = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(n) for n in names)
    return statement.format(sql.SQL(", ").join(names), changes).as_bytes(None)
