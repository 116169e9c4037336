"""Update records: what replication is told of changes to rows that it has copied already."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import astropy.time
import psycopg
from lsst.dax.apdb import DiaForcedSourceId, DiaSourceId, ReplicaChunk
from lsst.dax.apdb import apdbUpdateRecord as kinds  # noqa: N813

from apdb.replication.replica import store_update_records

__all__ = [
    "Change",
    "closed",
    "enter",
    "moved_to_bodies",
    "reassigned",
    "reassigned_by_id",
    "recounted",
    "send",
    "withdrawn",
]

Change = tuple[Any, dict[str, Any]]
Position = tuple[float, float]


def _position(source: DiaSourceId | DiaForcedSourceId) -> dict[str, float]:
    return {"ra": float(source.ra), "dec": float(source.dec), "midpointMjdTai": float(source.midpointMjdTai)}


def reassigned(targets: Mapping[DiaSourceId, int]) -> list[Change]:
    """Return records of DiaSources that were given to other DiaObjects (their ids)."""
    kind = kinds.ApdbReassignDiaSourceToDiaObjectRecord
    return [(kind, {**_position(s), "diaSourceId": s.diaSourceId, "diaObjectId": int(o)}) for s, o in targets.items()]


def reassigned_by_id(connection: psycopg.Connection[Any], targets: Mapping[int, int]) -> list[Change]:
    """As `reassigned`, for sources that are known by id alone."""
    query = 'SELECT "diaSourceId", ra, dec, "midpointMjdTai" FROM "DiaSource" WHERE "diaSourceId" = ANY(%s)'
    rows = connection.execute(query, (list(targets),))
    return reassigned({DiaSourceId(diaSourceId=i, ra=a, dec=d, midpointMjdTai=t): targets[i] for i, a, d, t in rows})


def moved_to_bodies(connection: psycopg.Connection[Any], targets: Mapping[int, int], mjd_tai: float) -> list[Change]:
    """Return records of DiaSources (ids) that were given to solar-system objects (ids) at an MJD (TAI)."""
    query = 'SELECT "diaSourceId", ra, dec, "midpointMjdTai" FROM "DiaSource" WHERE "diaSourceId" = ANY(%s)'
    kind = kinds.ApdbReassignDiaSourceToSSObjectRecord
    return [
        (
            kind,
            {
                "diaSourceId": i,
                "ra": ra,
                "dec": dec,
                "midpointMjdTai": mjd,
                "ssObjectId": targets[i],
                "ssObjectReassocTimeMjdTai": mjd_tai,
            },
        )
        for i, ra, dec, mjd in connection.execute(query, (list(targets),))
    ]


def recounted(steps: Mapping[int, int], objects: Mapping[int, tuple[float, float, int]]) -> list[Change]:
    """Return records of new nDiaSources: `steps` are added to the counts in `objects` (ra and dec in deg, count)."""
    kind = kinds.ApdbUpdateNDiaSourcesRecord
    return [
        (kind, {"diaObjectId": k, "ra": objects[k][0], "dec": objects[k][1], "nDiaSources": objects[k][2] + n})
        for k, n in steps.items()
    ]


def closed(ids: Iterable[int], positions: Mapping[int, Position], mjd_tai: float) -> list[Change]:
    """Return records of objects whose validity ended at an MJD (TAI); `positions` are ra and dec in deg."""
    kind = kinds.ApdbCloseDiaObjectValidityRecord
    return [
        (
            kind,
            {
                "diaObjectId": k,
                "ra": positions[k][0],
                "dec": positions[k][1],
                "validityEndMjdTai": mjd_tai,
                "nDiaSources": None,
            },
        )
        for k in ids
    ]


def withdrawn(sources: Sequence[DiaSourceId] | Sequence[DiaForcedSourceId], mjd_tai: float) -> list[Change]:
    """Return records of sources or forced sources that were withdrawn at an MJD (TAI)."""
    out: list[Change] = []
    for s in sources:
        common = {**_position(s), "timeWithdrawnMjdTai": mjd_tai}
        if isinstance(s, DiaSourceId):
            out.append((kinds.ApdbWithdrawDiaSourceRecord, {**common, "diaSourceId": s.diaSourceId}))
        else:
            keys = {"diaObjectId": s.diaObjectId, "visit": s.visit, "detector": s.detector}
            out.append((kinds.ApdbWithdrawDiaForcedSourceRecord, {**common, **keys}))
    return out


def send(
    connection: psycopg.Connection[Any], changes: Sequence[Change], now: astropy.time.Time, chunk_seconds: int = 600
) -> None:
    """Enter changes as update records of the chunk of `now`, in the transaction that makes them."""
    if changes:
        enter(connection, changes, ReplicaChunk.make_replica_chunk(now, chunk_seconds))


def enter(connection: psycopg.Connection[Any], changes: Sequence[Change], chunk: ReplicaChunk) -> None:
    """Enter changes as update records of a chunk, with its time, in the transaction that makes them."""
    stamp = int(chunk.last_update_time.unix_tai * 1e9)
    records = [kind(**v, update_time_ns=stamp, update_order=k) for k, (kind, v) in enumerate(changes)]
    store_update_records(connection, records, chunk)
