"""Alerts that wait for a person: a gate held them (qualityGate=veto, ALERTPROD_ALERT_VETO), or the file is broken."""

from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row

from apdb.audit import audit
from apdb.errors import NotFound
from apdb.queue import corrections
from apdb.queue.corrections import are_withdrawn, left_of

__all__ = ["drop_held", "held", "release_held"]

_RELEASE, _DROP = "release alerts", "drop alerts"
_HELD = 'visit = %s AND detector = %s AND "heldReason" IS NOT NULL AND "droppedAt" IS NULL'


def held(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return what is held: visit, detector, attempt, alerts, why, since when."""
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute(
        'SELECT visit, detector, attempt, count AS alerts, "heldReason" AS reason, "createdAt" AS since FROM "AlertOutbox" '
        'WHERE "publishedAt" IS NULL AND "heldReason" IS NOT NULL AND "droppedAt" IS NULL ORDER BY visit, detector, attempt'
    )
    return cursor.fetchall()


def _change(connection: psycopg.Connection[Any], visit: int, detector: int, action: str, values: str) -> int:
    with connection.transaction():
        if action == _RELEASE:
            _drop_withdrawn(connection, visit, detector)
        rows = connection.execute(
            f'UPDATE "AlertOutbox" SET {values} WHERE {_HELD} RETURNING count, "alertIndex", "publishedCount"',
            (visit, detector),
        ).fetchall()
        if rows:
            count = int(sum(row[0] for row in rows))
            audit(connection, action, "AlertOutbox", count, {"visit": visit, "detector": detector})
            if action == _RELEASE:
                _tell_released(connection, visit, detector, np.concatenate([left_of(r[1], r[2]) for r in rows]))
    if not rows:
        raise NotFound("no alerts are held", visit=visit, detector=detector)
    return count


def _drop_withdrawn(connection: psycopg.Connection[Any], visit: int, detector: int) -> None:
    """Drop what is held of sources that were all withdrawn since: it would come behind its retraction, or never get one."""
    rows = connection.execute(
        f'SELECT id, count, "alertIndex", "publishedCount" FROM "AlertOutbox" WHERE {_HELD} FOR UPDATE',
        (visit, detector),
    ).fetchall()
    for number, count, index, published in rows:  # attempts at one visit
        if are_withdrawn(connection, visit, detector, left_of(index, published)["diaSourceId"]):
            connection.execute('UPDATE "AlertOutbox" SET "droppedAt" = now() WHERE id = %s', (number,))
            audit(
                connection, _DROP, "AlertOutbox", count, {"visit": visit, "detector": detector, "reason": "withdrawn"}
            )


def _tell_released(connection: psycopg.Connection[Any], visit: int, detector: int, late: NDArray[Any]) -> None:
    """Tell readers that alerts come late, behind those of later visits, and what became of their sources while they were held."""
    import pandas as pd  # loaded when alerts are released: the process that asks what is held needs neither
    from astropy.time import Time

    sources = connection.execute(
        'SELECT "diaSourceId", coalesce("diaObjectId", 0), coalesce("ssObjectId", 0), visit, detector, "timeWithdrawnMjdTai" IS NOT '
        'NULL FROM "DiaSource" WHERE "diaSourceId" = ANY(%s::bigint[]) AND visit = %s AND detector = %s',
        (late["diaSourceId"].tolist(), visit, detector),
    ).fetchall()
    names = ["diaSourceId", "newDiaObjectId", "ssObjectId", "visit", "detector", "is_withdrawn"]
    table = pd.DataFrame(sources, columns=names).astype(dict.fromkeys(names[:5], np.int64))
    alerted = table.diaSourceId.map(dict(zip(late["diaSourceId"].tolist(), late["key"].tolist(), strict=True)))
    gone = table.is_withdrawn.to_numpy(bool)
    moved = ~gone & (alerted != table.newDiaObjectId.where(table.newDiaObjectId != 0, table.ssObjectId)).to_numpy(bool)
    table = table.assign(oldDiaObjectId=alerted.where(moved, table.newDiaObjectId))
    now_mjd = float(Time.now().tai.mjd)
    for kind, chosen, reason in (
        (corrections.CorrectionKind.RELEASED, np.ones(len(table), bool), "held at first"),
        (corrections.CorrectionKind.REASSIGNED, moved, "reassigned while it was held"),
        (corrections.CorrectionKind.RETRACTED, gone, "withdrawn while it was held"),
    ):
        said = table[chosen].assign(kind=str(kind))
        if kind == corrections.CorrectionKind.RETRACTED:
            said = said.assign(newDiaObjectId=0)
        corrections.add(connection, said, reason, now_mjd)


def release_held(connection: psycopg.Connection[Any], visit: int, detector: int) -> int:
    """Let the relay publish the held alerts of a visit, after what it has queued; returns their number.

    Those of a visit that was taken back since are dropped.

    Raises
    ------
    NotFound
        None are held.
    """
    return _change(connection, visit, detector, _RELEASE, '"heldReason" = NULL')


def drop_held(connection: psycopg.Connection[Any], visit: int, detector: int) -> int:
    """Never publish the held alerts of a visit (rows and alert file stay); returns their number.

    Raises
    ------
    NotFound
        None are held.
    """
    return _change(connection, visit, detector, _DROP, '"droppedAt" = now()')
