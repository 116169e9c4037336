"""Merging objects: what valid rows the duplicates have goes to the objects that stay, which are made anew; duplicates are closed."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
from psycopg import sql

from apdb.audit import audit
from apdb.operate.archive_notes import give_notes, merged_into
from apdb.queue import corrections
from apdb.schema.columns import PublishedSchema
from apdb.visit.changes import close_objects, lock_versions
from apdb.visit.corrected import of_moved
from apdb.visit.renewal import newest_versions, renew
from apdb.visit.take_back import withdraw_forced_of

if TYPE_CHECKING:
    from lsst.dax.apdb import ReplicaChunk

__all__ = ["follow_merges", "merge_objects"]

_MAP = "unnest(%(gone)s::bigint[], %(keep)s::bigint[]) m(gone, keep)"
_SOURCES = (
    f'UPDATE "DiaSource" s SET "diaObjectId" = m.keep FROM {_MAP} WHERE s."diaObjectId" = m.gone AND '
    's."timeWithdrawnMjdTai" IS NULL RETURNING s."diaSourceId", m.gone, m.keep'
)
# of each (object that stays, visit, detector) one row: its own where it has one, else that of the first duplicate
_FORCED = (
    "WITH chosen AS (SELECT DISTINCT ON (m.keep, f.visit, f.detector) m.gone, m.keep, f.visit, f.detector FROM "
    f'"DiaForcedSource" f JOIN {_MAP} ON f."diaObjectId" = m.gone WHERE f."timeWithdrawnMjdTai" IS NULL AND NOT EXISTS '
    '(SELECT 1 FROM "DiaForcedSource" k WHERE k."diaObjectId" = m.keep AND k.visit = f.visit AND k.detector = f.detector) '
    'ORDER BY m.keep, f.visit, f.detector, m.gone), flagged AS (UPDATE "DiaForcedSourceFlags" t SET "diaObjectId" = c.keep '
    'FROM chosen c WHERE t."diaObjectId" = c.gone AND t.visit = c.visit AND t.detector = c.detector) '
    'UPDATE "DiaForcedSource" t SET "diaObjectId" = c.keep FROM chosen c WHERE t."diaObjectId" = c.gone AND t.visit = c.visit '
    'AND t.detector = c.detector RETURNING c.gone, c.keep, t.visit, t.detector, t.ra, t.dec, t."midpointMjdTai"'
)
_ROW = ("gone", "diaObjectId", "visit", "detector", "ra", "dec", "midpointMjdTai")


def merge_objects(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    duplicates: Mapping[int, int],
    mjd_tai: float,
    chunk: "ReplicaChunk | None" = None,
) -> dict[int, int]:
    """Merge objects in the caller's transaction.

    Valid sources and forced sources of a duplicate get the id of the object that stays; a forced source that this one has of the
    same image already is withdrawn. Withdrawn rows stay with the duplicate, whose validity ends.

    Parameters
    ----------
    duplicates
        Object that goes -> object that stays (which does not go itself). Objects without an open version are left out.
    chunk
        Of replication, where it is on.

    Returns
    -------
    moved
        Number of sources that each staying object got.
    """
    lock_versions(connection, {*duplicates, *duplicates.values()})
    versions = newest_versions(connection, schema, {*duplicates, *duplicates.values()}).set_index("diaObjectId")
    wanted = {d: k for d, k in sorted(duplicates.items()) if d in versions.index and k in versions.index}
    if not wanted:
        return {}
    moved, forced, left = _move_rows(connection, schema, wanted, mjd_tai)
    audit(connection, "merge objects", "DiaObject", len(wanted), [[int(a), int(b)] for a, b in wanted.items()])
    closed = close_objects(connection, wanted, mjd_tai)
    give_notes(connection, wanted)  # what lies in archived months counts for the object that stays
    kept = versions.loc[sorted(set(wanted.values()))].reset_index()
    renewal = renew(connection, schema, kept, mjd_tai, close=False)
    if chunk is not None:
        positions = {k: (float(versions.ra[k]), float(versions.dec[k])) for k in closed}
        _tell(connection, chunk, moved, forced, left, positions)
        from apdb.replication.taken_back import tell_versions

        tell_versions(connection, chunk, renewal.objects)
    steps = Counter(keep for _, _, keep in moved)
    return {keep: steps.get(keep, 0) for keep in wanted.values()}


def _move_rows(
    connection: psycopg.Connection[Any], schema: PublishedSchema, wanted: Mapping[int, int], mjd_tai: float
) -> tuple[list[tuple[int, int, int]], pd.DataFrame, pd.DataFrame]:
    """Give valid rows of objects that go to those that stay; returns sources (id, gone, keep), forced sources, and those withdrawn."""
    values = {"gone": list(wanted), "keep": list(wanted.values())}
    moved = connection.execute(_SOURCES, values).fetchall()
    forced = pd.DataFrame(connection.execute(_FORCED, values).fetchall(), columns=list(_ROW))
    left = withdraw_forced_of(connection, schema, wanted, mjd_tai)
    owners = {source: (gone, keep) for source, gone, keep in moved}
    corrections.add(connection, of_moved(connection, owners), "objects merged", mjd_tai)
    return moved, forced, left


def follow_merges(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    partition: str,
    mjd_tai: float,
    chunk: "ReplicaChunk | None" = None,
) -> int:
    """Give rows of a month that was archived when their objects were merged to the objects that stayed; returns how many sources.

    These have been counted there since the merge.

    Parameters
    ----------
    partition
        The month, which is attached again.
    chunk
        Of replication, where it is on.
    """
    into = merged_into(connection)
    if not into:
        return 0
    rows = connection.execute(
        sql.SQL(
            'SELECT DISTINCT p."diaObjectId" FROM {} p WHERE p."diaObjectId" = ANY(%s::bigint[]) AND p."timeWithdrawnMjdTai" IS NULL '
            'AND NOT EXISTS (SELECT 1 FROM "DiaObjectLast" l WHERE l."diaObjectId" = p."diaObjectId") ORDER BY 1'
        ).format(sql.Identifier(partition)),
        (list(into),),
    )
    wanted = {gone: into[gone] for (gone,) in rows}
    if not wanted:
        return 0
    moved, forced, left = _move_rows(connection, schema, wanted, mjd_tai)
    detail = [[gone, keep] for gone, keep in wanted.items()]
    audit(connection, "follow merges", "DiaObject", len(wanted), detail)
    if chunk is not None:
        _tell(connection, chunk, moved, forced, left, {})
    return len(moved)


def _tell(
    connection: psycopg.Connection[Any],
    chunk: "ReplicaChunk",
    moved: list[tuple[int, int, int]],
    forced: pd.DataFrame,
    left: pd.DataFrame,
    closed: Mapping[int, tuple[float, float]],
) -> None:
    """Tell replication: sources have another object; forced sources that moved are withdrawn and come with their new key."""
    from apdb.replication import update_records
    from apdb.replication.taken_back import tell, tell_forced

    records = update_records.reassigned_by_id(connection, {source: keep for source, _, keep in moved})
    names = list(_ROW[1:])
    before = forced.assign(diaObjectId=forced.gone)[names]
    gone = pd.concat([f for f in (before, left[names]) if len(f)] or [left])
    tell(connection, chunk, left.iloc[:0].assign(diaSourceId=0), gone, closed, records)
    tell_forced(connection, chunk, forced)
