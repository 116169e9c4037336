"""Update records: what replication is told of changes to rows that it has copied already."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import astropy.time
import psycopg
from lsst.dax.apdb import DiaForcedSourceId, DiaSourceId, ReplicaChunk
from lsst.dax.apdb import apdbUpdateRecord as kinds  # noqa: N813

from apdb.replication.replica import store_update_records

__all__ = ["Change", "closed", "moved_to_bodies", "reassigned", "reassigned_by_id", "recounted", "send", "withdrawn"]

Change = tuple[Any, dict[str, Any]]
Place = tuple[float, float]


def _place(source: DiaSourceId | DiaForcedSourceId) -> dict[str, float]:
    return {"ra": float(source.ra), "dec": float(source.dec), "midpointMjdTai": float(source.midpointMjdTai)}


def reassigned(targets: Mapping[DiaSourceId, int]) -> list[Change]:
    """Sources that belong to other objects now."""
    kind = kinds.ApdbReassignDiaSourceToDiaObjectRecord
    return [(kind, {**_place(s), "diaSourceId": s.diaSourceId, "diaObjectId": int(o)}) for s, o in targets.items()]


def reassigned_by_id(connection: psycopg.Connection[Any], targets: Mapping[int, int]) -> list[Change]:
    """As `reassigned`, for sources that are known by id alone."""
    query = 'SELECT "diaSourceId", ra, dec, "midpointMjdTai" FROM "DiaSource" WHERE "diaSourceId" = ANY(%s)'
    rows = connection.execute(query, (list(targets),))
    return reassigned({DiaSourceId(diaSourceId=i, ra=a, dec=d, midpointMjdTai=t): targets[i] for i, a, d, t in rows})


def moved_to_bodies(connection: psycopg.Connection[Any], targets: Mapping[int, int], at: float) -> list[Change]:
    """Sources that belong to solar-system objects now."""
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
                "ssObjectReassocTimeMjdTai": at,
            },
        )
        for i, ra, dec, mjd in connection.execute(query, (list(targets),))
    ]


def recounted(steps: Mapping[int, int], objects: Mapping[int, tuple[float, float, int]]) -> list[Change]:
    """Objects whose nDiaSources changed by a step from what it was."""
    kind = kinds.ApdbUpdateNDiaSourcesRecord
    return [
        (kind, {"diaObjectId": k, "ra": objects[k][0], "dec": objects[k][1], "nDiaSources": objects[k][2] + n})
        for k, n in steps.items()
    ]


def closed(ids: Iterable[int], places: Mapping[int, Place], at: float) -> list[Change]:
    """Objects whose validity has ended."""
    kind = kinds.ApdbCloseDiaObjectValidityRecord
    return [
        (
            kind,
            {"diaObjectId": k, "ra": places[k][0], "dec": places[k][1], "validityEndMjdTai": at, "nDiaSources": None},
        )
        for k in ids
    ]


def withdrawn(sources: Sequence[DiaSourceId] | Sequence[DiaForcedSourceId], at: float) -> list[Change]:
    """Sources or forced sources that were withdrawn."""
    out: list[Change] = []
    for s in sources:
        common = {**_place(s), "timeWithdrawnMjdTai": at}
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
    if not changes:
        return
    stamp = int(now.unix_tai * 1e9)
    chunk = ReplicaChunk.make_replica_chunk(now, chunk_seconds)
    records = [kind(**v, update_time_ns=stamp, update_order=k) for k, (kind, v) in enumerate(changes)]
    store_update_records(connection, records, chunk)
