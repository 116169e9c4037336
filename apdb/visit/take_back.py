"""Taking a visit back: one way for replacement, withdrawal and `Apdb.store(replace=True)`.

DiaSources stay, marked as withdrawn; DiaForcedSources with their flags move to ``DiaForcedSourceWithdrawn``, for their keys are
needed again; SSSources and entries of the ledger of stores leave; alerts that are held are dropped. Then the objects are made anew
from what is left (`apdb.visit.renewal`), and audit and replication are told.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.audit import audit
from apdb.copy.decode import query_frame
from apdb.copy.encode import id_array
from apdb.errors import ApdbError
from apdb.id_layouts import note_instrument
from apdb.queue import corrections
from apdb.rows import single_row
from apdb.schema.archived_rows import Stored, refuse_archived_rows
from apdb.schema.columns import Column, PublishedSchema
from apdb.sky.htm import HTM_LEVEL
from apdb.sky.locks import LEVELS
from apdb.visit.corrected import of_withdrawn
from apdb.visit.forced_means import in_means, renew_forced_means
from apdb.visit.late import Measured, earliest, renew_late
from apdb.visit.renewal import Renewal, newest_versions, renew, write_pending
from apdb.visit.source_ids import free_ids, has_ids_of, id_ranges, refuse_moved
from apdb.visit.store import is_whole, store_rows
from apdb.visit_rows import VisitRows
from tasks.arrays import I64

if TYPE_CHECKING:
    from lsst.dax.apdb import ReplicaChunk

__all__ = [
    "TakenBack",
    "pixels_of_visit",
    "renew_objects",
    "renew_rest",
    "replace_stored",
    "settle",
    "take_back",
    "withdraw_forced_of",
]

# The rows stay, withdrawn, with their ids: an entry of no visit tells a later store that these may meet its own. None is needed
# where what comes instead has them all.
_LEAVE = (
    'WITH gone AS (DELETE FROM "StoreLedger" WHERE visit = %(v)s AND detector = %(d)s RETURNING *), kept AS (INSERT INTO '
    '"StoreLedger" ("contentHash", "visitTimeMjdTai", "nObjects", "nSources", "nForcedSources", "sourceIds") SELECT '
    '\'withdrawn \' || "contentHash", "visitTimeMjdTai", 0, "nSources", 0, "sourceIds" FROM gone WHERE "sourceIds" IS NOT NULL AND NOT '
    'coalesce("sourceIds" <@ %(new)s::int8range, false) ON CONFLICT DO NOTHING) SELECT "nSources", "nForcedSources", '
    '"sourceIds"::text, "forcedIds"::text, instrument FROM gone'
)
_SOURCE = ("diaSourceId", "diaObjectId", "ra", "dec", "midpointMjdTai")
_WITHDRAW = (
    'UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = %s WHERE visit = %s AND detector = %s AND "timeWithdrawnMjdTai" IS NULL '
    'RETURNING "' + '", "'.join(_SOURCE) + '"'
)
# which forced sources, and which flags are theirs by the primary key of flags: a join could be planned as a scan of all
_OF_VISIT = (
    "visit = %s AND detector = %s",
    'visit = %s AND detector = %s AND "diaObjectId" = ANY(ARRAY(SELECT "diaObjectId" FROM gone))',
)
_OF_OBJECTS = ('"diaObjectId" = ANY(%s::bigint[])',) * 2
_FORCED_KEY = ("diaObjectId", "visit", "detector")
_FORCED = (*_FORCED_KEY, "ra", "dec", "midpointMjdTai", "band", "psfFlux", "psfFluxErr")


@dataclass(frozen=True)
class TakenBack:
    """What left: sources and forced sources that were valid until now, and why.

    Parameters
    ----------
    sources
        diaSourceId, diaObjectId (0: none), ra, dec (deg), midpointMjdTai.
    forced
        diaObjectId, visit, detector, ra, dec, midpointMjdTai, band, psfFlux, psfFluxErr (nJy).
    is_part
        Whether others of the visit were withdrawn before, one by one: objects may be closed that come again.
    renewal
        What became of their objects.
    instrument
        Of which the visit was noted to be.
    """

    visit: int
    detector: int
    mjd_tai: float
    sources: pd.DataFrame
    forced: pd.DataFrame
    is_part: bool = False
    renewal: Renewal = field(default_factory=Renewal)
    instrument: str | None = None

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.sources) + len(self.forced)

    @property
    def owners(self) -> set[int]:
        """The objects that lost sources."""
        return set(np.unique(self.sources.diaObjectId.to_numpy(np.int64)).tolist()) - {0}


def pixels_of_visit(connection: psycopg.Connection[Any], visit: int, detector: int) -> list[int]:
    """Return the pixels of the finest lock level that hold valid sources of a visit, or the objects of these."""
    rows = connection.execute(
        'WITH s AS MATERIALIZED (SELECT "pixelId", "diaObjectId" FROM "DiaSource" WHERE visit = %(v)s AND detector = %(d)s AND '
        '"timeWithdrawnMjdTai" IS NULL) SELECT "pixelId" >> %(shift)s FROM s UNION '
        'SELECT l."pixelId" >> %(shift)s FROM "DiaObjectLast" l JOIN s USING ("diaObjectId")',
        {"v": visit, "d": detector, "shift": 2 * (HTM_LEVEL - LEVELS[0])},
    ).fetchall()
    return [int(p) for (p,) in rows]


def take_back(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    visit: int,
    detector: int,
    mjd_tai: float,
    rows: VisitRows | None = None,
) -> TakenBack:
    """Withdraw what is valid of a (visit, detector), free its keys, and drop its alerts that are held; objects stay as they are.

    `rows`, which are to be stored in its place, are encoded while the server works, and their ids are freed.
    """
    key = {"v": visit, "d": detector, "at": mjd_tai}
    of_visit = "WHERE visit = %(v)s AND detector = %(d)s"
    query, columns = sql.SQL(_WITHDRAW), _columns(schema, "DiaSource", _SOURCE)
    values = (mjd_tai, visit, detector)
    first = None if rows is None else lambda: rows.sources
    then = None if rows is None else lambda: rows.digest
    sources = query_frame(connection, query, columns, values, first)
    forced = _withdraw_forced(connection, schema, _OF_VISIT, (visit, detector), mjd_tai, then)
    with connection.pipeline():  # one way to the server and back
        if "SSSource" in schema.tables and len(sources):
            ids = id_array(sources.diaSourceId.to_numpy(np.int64))
            connection.execute('DELETE FROM "SSSource" WHERE "diaSourceId" = ANY(%s::bigint[])', (ids,))
        left = connection.execute(_LEAVE, {**key, "new": None if rows is None else id_ranges(rows)[0]})
        connection.execute(f'DELETE FROM "VisitQuality" {of_visit}', key)
        # a relay that would set them aside meanwhile waits, and then finds what it held taken back
        connection.execute(f'SELECT 1 FROM "AlertOutbox" {of_visit} AND "publishedAt" IS NULL FOR NO KEY UPDATE', key)
        connection.execute(
            f'UPDATE "AlertOutbox" SET "droppedAt" = now() {of_visit} AND "heldReason" IS NOT NULL AND "droppedAt" IS NULL',
            key,
        )
        meets = None if rows is None else connection.execute(*has_ids_of(rows, visit, detector))
    if rows is not None and meets is not None and single_row(meets)[0]:
        free_ids(connection, rows, visit, detector)
    times = np.concatenate([f.midpointMjdTai.to_numpy(np.float64) for f in (sources, forced)])
    of_stores = left.fetchall()
    stores = [Stored(*s[:4]) for s in of_stores]
    refuse_archived_rows(connection, visit, detector, times, stores)
    is_part = len(sources) < sum(s.sources for s in stores)
    instrument = next((s[4] for s in of_stores if s[4] is not None), None)
    return TakenBack(visit, detector, mjd_tai, sources, forced, is_part, instrument=instrument)


def _columns(schema: PublishedSchema, table: str, names: tuple[str, ...]) -> list[Column]:
    by_name = {c.name: c for c in schema.columns(table)}
    return [by_name[n] for n in names if n in by_name]


def _withdraw_forced(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    which: tuple[str, str],
    values: tuple[object, ...],
    mjd_tai: float,
    meanwhile: Callable[[], object] | None = None,
) -> pd.DataFrame:
    """Move forced sources and their flags to the withdrawn ones; returns those that were valid until now.

    Parameters
    ----------
    which, values
        Conditions for forced sources and for flags, and the parameters of each.
    """
    names, wanted = [c.name for c in schema.columns("DiaForcedSource")], _columns(schema, "DiaForcedSource", _FORCED)
    query = _withdrawal(which, tuple(names), tuple(c.name for c in wanted))
    forced = query_frame(connection, query, wanted, (*values, *values, mjd_tai), meanwhile)
    return forced.assign(detector=forced.detector.to_numpy(np.int64))


@lru_cache(maxsize=16)
def _withdrawal(which: tuple[str, str], names: tuple[str, ...], wanted: tuple[str, ...]) -> sql.SQL:
    """Return the statement that moves forced sources with the columns `names`, and answers with those that are `wanted`."""
    chosen = [
        sql.SQL("coalesce(g.{}, %s)").format(sql.Identifier(n))
        if n == "timeWithdrawnMjdTai"
        else sql.Identifier("g", n)
        for n in names
    ]
    statement = sql.SQL(
        'WITH gone AS (DELETE FROM "DiaForcedSource" WHERE {where} RETURNING *), flags AS (DELETE FROM "DiaForcedSourceFlags" WHERE '
        '{flagged} RETURNING *), kept AS (INSERT INTO "DiaForcedSourceWithdrawn" ({names}, "sideFlags") SELECT {values}, f.flags FROM '
        'gone g LEFT JOIN flags f ON f."diaObjectId" = g."diaObjectId" AND f.visit = g.visit AND f.detector = g.detector) '
        'SELECT {wanted} FROM gone WHERE "timeWithdrawnMjdTai" IS NULL'
    ).format(
        where=sql.SQL(which[0]),
        flagged=sql.SQL(which[1]),
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(chosen),
        wanted=sql.SQL(", ").join(map(sql.Identifier, wanted)),
    )
    return sql.SQL(statement.as_string(None))


def withdraw_forced_of(
    connection: psycopg.Connection[Any], schema: PublishedSchema, objects: Collection[int], mjd_tai: float
) -> pd.DataFrame:
    """Withdraw the forced sources of objects and their flags; returns those that were valid until now."""
    if not objects:
        none = {c.name: pd.Series(dtype=c.dtype) for c in _columns(schema, "DiaForcedSource", _FORCED)}
        return pd.DataFrame(none).astype({"detector": np.int64})
    named = id_array(np.array(sorted(objects), np.int64))
    return _withdraw_forced(connection, schema, _OF_OBJECTS, (named,), mjd_tai)


def renew_objects(
    connection: psycopg.Connection[Any], schema: PublishedSchema, taken: TakenBack, rows: VisitRows | None = None
) -> TakenBack:
    """Make the objects of what was taken back anew, `rows` being stored in its place, if given; returns what became of them.

    Without `rows` the new versions wait (`Renewal.pending`) for what the caller stores, and `renew_rest` is his to call.

    The forced sources of objects that are closed leave with them.
    """
    ids = taken.owners
    measured = taken.forced.diaObjectId.to_numpy(np.int64)
    if rows is not None and len(rows.objects):
        ids |= set(measured[np.isin(measured, rows.objects.diaObjectId.to_numpy(np.int64))].tolist())
    # one read of all that are seen or measured: it also tells which objects there are, and when they were detected last
    all_ids = ids if rows is None else {*ids, *measured.tolist(), *_measured_by(rows)}
    newest = newest_versions(connection, schema, all_ids)
    before = newest[newest.diaObjectId.isin(ids)].reset_index(drop=True)
    if rows is not None:
        if rows.strict and len(before):
            refuse_moved(rows, *(before[n].to_numpy() for n in ("diaObjectId", "ra", "dec")))
        known = newest.diaObjectId.to_numpy(np.int64)
        store_rows(connection, rows, without=before.diaObjectId.tolist(), may_reopen=taken.is_part, known=known)
    renewal = renew(connection, schema, before, taken.mjd_tai, defer=rows is None)
    forced = taken.forced
    if renewal.closed:
        left = withdraw_forced_of(connection, schema, renewal.closed, taken.mjd_tai)
        forced = pd.concat([f for f in (forced, left) if len(f)] or [left], ignore_index=True)
    taken = replace(taken, renewal=renewal, forced=forced)
    if rows is None:
        return taken
    still = newest[~newest.diaObjectId.isin(renewal.closed)]
    last = pd.Series(still.lastDiaSourceMjdTai.to_numpy(np.float64), index=still.diaObjectId.to_numpy(np.int64))
    return renew_rest(connection, schema, taken, rows, all_last=last)


def _measured_by(rows: VisitRows) -> list[int]:
    """Return the objects of forced sources among rows."""
    forced = rows.frames.get("DiaForcedSource")
    return [] if forced is None else forced.diaObjectId.tolist()


def renew_rest(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    taken: TakenBack,
    rows: VisitRows | None,
    last: Mapping[int, float] | None = None,
    all_last: "pd.Series[float] | None" = None,
) -> TakenBack:
    """Make the other objects anew that what was taken back, or what is stored in its place, had a part in.

    Parameters
    ----------
    rows
        What was stored in its place, None for nothing.
    last, all_last
        As for `renew_late`.
    """
    renewal, forced, mjd_tai = taken.renewal, taken.forced[in_means(taken.forced)], taken.mjd_tai
    given = rows.objects.diaObjectId.tolist() if rows is not None and len(rows.objects) else []
    renewed_ids = write_pending(connection, schema, renewal, mjd_tai, given)
    first = earliest(forced.diaObjectId.to_numpy(np.int64), forced.midpointMjdTai.to_numpy(np.float64))
    gone = Measured(first, frozenset(forced.band.unique() if "band" in forced else ()))
    if rows is None:
        since = gone.since[~gone.since.index.isin(renewal.objects)]
        late = renew_forced_means(connection, schema, since, gone.bands, mjd_tai)
    else:
        done = renewal.objects if renewal.pending is None else ()  # those that wait do not know the new forced sources
        late = renew_late(
            connection, schema, rows, but=done, last=last, gone=gone, renewed_ids=renewed_ids, all_last=all_last
        )
    return replace(taken, renewal=replace(renewal, objects=(*renewal.objects, *late), pending=None))


def replace_stored(
    connection: psycopg.Connection[Any], schema: PublishedSchema, rows: VisitRows, chunk: "ReplicaChunk | None"
) -> None:
    """Store rows in the place of what their (visit, detector) has; the same rows again change nothing.

    Raises
    ------
    ApdbError
        The rows do not belong to one (visit, detector).
    """
    if rows.visit is None or rows.detector is None:
        raise ApdbError("only the rows of one (visit, detector) can replace what is stored")
    if _is_repeated(connection, rows):
        return
    taken = take_back(connection, schema, rows.visit, rows.detector, rows.mjd_tai, rows)
    taken = renew_objects(connection, schema, taken, rows)
    if taken.instrument is not None:
        note_instrument(connection, rows.visit, rows.detector, taken.instrument)
    settle(connection, schema, taken, rows, chunk)


def _is_repeated(connection: psycopg.Connection[Any], rows: VisitRows) -> bool:
    """Whether the same rows are stored; all are encoded for that only where time and numbers are the same."""
    counts = {
        "o": len(rows.objects),
        **{k: len(rows.frames.get(t, ())) for k, t in (("s", "DiaSource"), ("f", "DiaForcedSource"))},
    }
    hashes = connection.execute(
        'SELECT "contentHash" FROM "StoreLedger" WHERE visit = %(v)s AND detector = %(d)s AND "visitTimeMjdTai" = %(at)s AND '
        '"nObjects" = %(o)s AND "nSources" = %(s)s AND "nForcedSources" = %(f)s',
        {"v": rows.visit, "d": rows.detector, "at": rows.mjd_tai, **counts},
    ).fetchall()
    return bool(hashes) and (rows.digest,) in hashes and is_whole(connection, rows)


def settle(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    taken: TakenBack,
    rows: VisitRows | None,
    chunk: "ReplicaChunk | None",
    reason: str = "",
) -> None:
    """Tell the audit, the readers of alerts and, where there is a chunk, replication what was taken back, and what came instead."""
    renewal = taken.renewal
    detail = {
        "visit": taken.visit,
        "detector": taken.detector,
        "reason": reason,
        "sources": taken.sources.diaSourceId.tolist(),
        "forced": len(taken.forced),
        "renewed": len(renewal.objects),
        "closed": sorted(renewal.closed),
    }
    with connection.pipeline():
        if taken.count or rows is None:  # the first processing of a visit may be a replacement, too
            what = "withdraw visit" if rows is None else "replace visit"
            audit(connection, what, "DiaSource", len(taken.sources), detail)
        alerted = corrections.has_alerts(connection, taken.visit, taken.detector)
    if alerted:
        new = None if rows is None else rows.frames.get("DiaSource", pd.DataFrame())
        told = of_withdrawn(taken.visit, taken.detector, taken.sources, new)
        corrections.add(connection, told, reason or ("replaced" if rows is not None else "withdrawn"), taken.mjd_tai)
    if chunk is not None:
        from apdb.replication.replica import store_keys  # loads the published client
        from apdb.replication.taken_back import tell, tell_versions

        ids, keys = _stored_keys(rows)
        again = pd.MultiIndex.from_frame(taken.forced[list(_FORCED_KEY)]).isin(keys)
        sources = taken.sources[~taken.sources.diaSourceId.isin(ids)]
        tell(connection, chunk, sources, taken.forced[~again], renewal.closed)
        tell_versions(connection, chunk, renewal.objects)
        if rows is not None:
            store_keys(connection, schema, rows, chunk)


def _stored_keys(rows: VisitRows | None) -> tuple[I64, Collection[tuple[int, ...]]]:
    """Return source ids and keys of forced sources of rows."""
    if rows is None:
        return np.zeros(0, np.int64), []
    sources, forced = rows.frames.get("DiaSource"), rows.frames.get("DiaForcedSource")
    ids = np.zeros(0, np.int64) if sources is None else sources.diaSourceId.to_numpy(np.int64)
    keys = [] if forced is None else list(zip(*(forced[c].tolist() for c in _FORCED_KEY), strict=True))
    return ids, keys
