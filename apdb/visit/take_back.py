"""Taking a visit back: one way for replacement, withdrawal and `Apdb.store(replace=True)`.

DiaSources stay, marked as withdrawn; DiaForcedSources with their flags move to ``DiaForcedSourceWithdrawn``, for their keys are
needed again; SSSources and entries of the ledger of stores leave; alerts that are held are dropped. Then the objects are made anew
from what is left (`apdb.visit.renewal`), and audit and replication are told.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.audit import audit
from apdb.copy.encode import id_array
from apdb.errors import ApdbError
from apdb.queue import corrections
from apdb.schema.columns import PublishedSchema
from apdb.sky.htm import HTM_LEVEL
from apdb.sky.locks import LEVELS
from apdb.visit.corrected import of_withdrawn
from apdb.visit.renewal import Renewal, newest_versions, renew, renew_late
from apdb.visit.store import store_rows
from apdb.visit_rows import VisitRows
from tasks.arrays import I64

if TYPE_CHECKING:
    from lsst.dax.apdb import ReplicaChunk

__all__ = [
    "TakenBack",
    "free_ids",
    "pixels_of_visit",
    "renew_objects",
    "replace_stored",
    "settle",
    "take_back",
    "withdraw_forced_of",
]

_SOURCE = ("diaSourceId", "diaObjectId", "ra", "dec", "midpointMjdTai")
_FORCED_KEY = ("diaObjectId", "visit", "detector")
_FORCED = (*_FORCED_KEY, "ra", "dec", "midpointMjdTai")


@dataclass(frozen=True)
class TakenBack:
    """What left: sources and forced sources that were valid until now, and why.

    Parameters
    ----------
    sources
        diaSourceId, diaObjectId (0: none), ra, dec (deg), midpointMjdTai.
    forced
        diaObjectId, visit, detector, ra, dec, midpointMjdTai.
    renewal
        What became of their objects.
    """

    visit: int
    detector: int
    mjd_tai: float
    sources: pd.DataFrame
    forced: pd.DataFrame
    renewal: Renewal = field(default_factory=Renewal)

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.sources) + len(self.forced)

    @property
    def lost(self) -> Counter[int]:
        """Number of sources that each object lost."""
        owners = self.sources.diaObjectId.to_numpy(np.int64)
        ids, counts = np.unique(owners[owners != 0], return_counts=True)
        return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def pixels_of_visit(connection: psycopg.Connection[Any], visit: int, detector: int) -> list[int]:
    """Return the pixels of the finest lock level that hold valid sources of a visit."""
    rows = connection.execute(
        'SELECT DISTINCT "pixelId" >> %s FROM "DiaSource" WHERE visit = %s AND detector = %s AND '
        '"timeWithdrawnMjdTai" IS NULL',
        (2 * (HTM_LEVEL - LEVELS[0]), visit, detector),
    ).fetchall()
    return [int(p) for (p,) in rows]


def take_back(
    connection: psycopg.Connection[Any], schema: PublishedSchema, visit: int, detector: int, mjd_tai: float
) -> TakenBack:
    """Withdraw what is valid of a (visit, detector), free its keys, and drop its alerts that are held; objects stay as they are."""
    key = {"v": visit, "d": detector, "at": mjd_tai}
    of_visit = "WHERE visit = %(v)s AND detector = %(d)s"
    sources = _frame(
        connection.execute(
            f'UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = %(at)s {of_visit} AND "timeWithdrawnMjdTai" IS NULL '
            'RETURNING "diaSourceId", coalesce("diaObjectId", 0), ra, dec, "midpointMjdTai"',
            key,
            binary=True,
        ),
        _SOURCE,
    )
    where = sql.SQL("t.visit = {} AND t.detector = {}").format(sql.Literal(visit), sql.Literal(detector))
    forced = _withdraw_forced(connection, schema, where, mjd_tai)
    with connection.pipeline():  # one way to the server and back
        if "SSSource" in schema.tables and len(sources):
            ids = id_array(sources.diaSourceId.to_numpy(np.int64))
            connection.execute('DELETE FROM "SSSource" WHERE "diaSourceId" = ANY(%s::bigint[])', (ids,))
        connection.execute(f'DELETE FROM "StoreLedger" {of_visit}', key)
        connection.execute(f'DELETE FROM "VisitQuality" {of_visit}', key)
        connection.execute(
            f'UPDATE "AlertOutbox" SET "droppedAt" = now() {of_visit} AND "heldReason" IS NOT NULL AND "droppedAt" IS NULL',
            key,
        )
    return TakenBack(visit, detector, mjd_tai, sources, forced)


def _frame(rows: Iterable[tuple[Any, ...]], names: tuple[str, ...]) -> pd.DataFrame:
    whole = dict.fromkeys({"diaSourceId", "diaObjectId", "visit", "detector"} & set(names), np.int64)
    types = {n: whole.get(n, np.float64) for n in names}
    return pd.DataFrame(list(rows), columns=list(names)).astype(types)


def _withdraw_forced(
    connection: psycopg.Connection[Any], schema: PublishedSchema, where: sql.Composable, mjd_tai: float
) -> pd.DataFrame:
    """Move forced sources (alias t) and their flags to the withdrawn ones; returns those that were valid until now."""
    names = [c.name for c in schema.columns("DiaForcedSource")]
    values = [
        sql.SQL("coalesce(g.{}, {})").format(sql.Identifier(n), sql.Literal(mjd_tai))
        if n == "timeWithdrawnMjdTai"
        else sql.Identifier("g", n)
        for n in names
    ]
    query = sql.SQL(
        'WITH gone AS (DELETE FROM "DiaForcedSource" t WHERE {where} RETURNING t.*), flags AS (DELETE FROM '
        '"DiaForcedSourceFlags" f USING gone g WHERE f."diaObjectId" = g."diaObjectId" AND f.visit = g.visit AND '
        'f.detector = g.detector RETURNING f.*), kept AS (INSERT INTO "DiaForcedSourceWithdrawn" ({names}, "sideFlags") '
        'SELECT {values}, f.flags FROM gone g LEFT JOIN flags f ON f."diaObjectId" = g."diaObjectId" AND f.visit = g.visit '
        'AND f.detector = g.detector) SELECT {wanted} FROM gone WHERE "timeWithdrawnMjdTai" IS NULL'
    ).format(
        where=where,
        names=sql.SQL(", ").join(map(sql.Identifier, names)),
        values=sql.SQL(", ").join(values),
        wanted=sql.SQL(", ").join(map(sql.Identifier, _FORCED)),
    )
    return _frame(connection.execute(query, binary=True), _FORCED)


def withdraw_forced_of(
    connection: psycopg.Connection[Any], schema: PublishedSchema, objects: Collection[int], mjd_tai: float
) -> pd.DataFrame:
    """Withdraw the forced sources of objects and their flags; returns those that were valid until now."""
    if not objects:
        return _frame([], _FORCED)
    wanted = sql.Literal(id_array(np.array(sorted(objects), np.int64)))
    return _withdraw_forced(connection, schema, sql.SQL('t."diaObjectId" = ANY({}::bigint[])').format(wanted), mjd_tai)


def _affected(
    connection: psycopg.Connection[Any], schema: PublishedSchema, taken: TakenBack
) -> tuple[pd.DataFrame, dict[int, float]]:
    """Return the newest versions that the rows which left had a part in, and which objects were seen later (infinite).

    A forced source has a part in the means of an object that was detected then or later.
    """
    ids, forced = set(taken.lost), taken.forced
    last = dict.fromkeys(forced.diaObjectId.tolist(), -np.inf)
    if len(forced):
        query = 'SELECT "diaObjectId" FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s::bigint[]) AND "lastDiaSourceMjdTai" >= %s'
        wanted = id_array(forced.diaObjectId.to_numpy(np.int64))
        seen = {i for (i,) in connection.execute(query, (wanted, float(forced.midpointMjdTai.min())))}
        ids |= seen
        last |= dict.fromkeys(seen, np.inf)
    return newest_versions(connection, schema, ids), last


def renew_objects(
    connection: psycopg.Connection[Any], schema: PublishedSchema, taken: TakenBack, rows: VisitRows | None = None
) -> TakenBack:
    """Make the objects of what was taken back anew, `rows` being stored in its place, if given; returns what became of them.

    Without `rows` the new versions wait (`Renewal.pending`) for what the caller stores.

    The forced sources of objects that are closed leave with them.
    """
    change = Counter[int]()
    change.subtract(taken.lost)
    before, last = _affected(connection, schema, taken)
    if rows is not None:
        store_rows(connection, rows, without=before.diaObjectId.tolist())
        change.update(_owners(rows))
    renewal = renew(connection, schema, before, taken.mjd_tai, change=change, defer=rows is None)
    if rows is not None:
        late = renew_late(connection, schema, rows, renewal.objects, last if _same_time(taken, rows) else None)
        renewal = replace(renewal, objects=(*renewal.objects, *late))
    left = withdraw_forced_of(connection, schema, renewal.closed, taken.mjd_tai)
    forced = [f for f in (taken.forced, left) if len(f)] or [left]
    return replace(taken, renewal=renewal, forced=pd.concat(forced, ignore_index=True))


def _same_time(taken: TakenBack, rows: VisitRows) -> bool:
    """Whether all rows are of one time: then what is later than those that left is later than those in their place."""
    times = [f.midpointMjdTai for f in (taken.sources, taken.forced, *rows.frames.values()) if len(f)]
    return bool(times) and pd.concat(times).nunique() == 1


def _owners(rows: VisitRows) -> Mapping[int, int]:
    """Return the number of sources of each object among rows."""
    frame = rows.frames.get("DiaSource")
    if frame is None or "diaObjectId" not in frame:
        return {}
    owners = frame.diaObjectId.fillna(0).to_numpy(np.int64)
    ids, counts = np.unique(owners[owners != 0], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def free_ids(connection: psycopg.Connection[Any], taken: TakenBack, rows: VisitRows) -> None:
    """Delete withdrawn sources of a visit whose ids come again."""
    if "DiaSource" in rows.frames:
        connection.execute(
            'DELETE FROM "DiaSource" WHERE visit = %s AND detector = %s AND "diaSourceId" = ANY(%s::bigint[]) AND '
            '"timeWithdrawnMjdTai" IS NOT NULL',
            (taken.visit, taken.detector, id_array(rows.frames["DiaSource"].diaSourceId.to_numpy(np.int64))),
        )


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
    taken = take_back(connection, schema, rows.visit, rows.detector, rows.mjd_tai)
    free_ids(connection, taken, rows)
    taken = renew_objects(connection, schema, taken, rows)
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
    return bool(hashes) and (rows.digest,) in hashes


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
    if taken.count or rows is None:  # the first processing of a visit may be a replacement, too
        what = "withdraw visit" if rows is None else "replace visit"
        audit(connection, what, "DiaSource", len(taken.sources), detail)
    if corrections.has_alerts(connection, taken.visit, taken.detector):
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
