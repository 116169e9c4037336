"""Alerts that wait for a person: a gate held them (qualityGate=veto, ALERTPROD_ALERT_VETO), or the file is broken."""

from typing import Any

import numpy as np
import psycopg
from psycopg.rows import dict_row

from apdb.audit import audit
from apdb.errors import NotFound
from apdb.queue import corrections

__all__ = ["drop_held", "held", "release_held"]

_RELEASE = "release alerts"
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
        rows = connection.execute(
            f'UPDATE "AlertOutbox" SET {values} WHERE {_HELD} RETURNING count, "alertIndex", "publishedCount"',
            (visit, detector),
        ).fetchall()
        if not rows:
            raise NotFound("no alerts are held", visit=visit, detector=detector)
        count = int(sum(row[0] for row in rows))
        audit(connection, action, "AlertOutbox", count, {"visit": visit, "detector": detector})
        if action == _RELEASE:
            late = np.concatenate([np.frombuffer(bytes(r[1] or b""), corrections.ALERT_INDEX)[r[2] :] for r in rows])
            _tell_released(connection, visit, detector, late["diaSourceId"].tolist())
    return count


def _tell_released(connection: psycopg.Connection[Any], visit: int, detector: int, ids: list[int]) -> None:
    """Tell readers that alerts come late: behind those of later visits."""
    import pandas as pd  # loaded when alerts are released: the process that asks what is held needs neither
    from astropy.time import Time

    sources = connection.execute(
        'SELECT "diaSourceId", coalesce("diaObjectId", 0), coalesce("diaObjectId", 0), visit, detector FROM "DiaSource" WHERE '
        '"diaSourceId" = ANY(%s::bigint[]) AND visit = %s AND detector = %s',
        (ids, visit, detector),
    ).fetchall()
    table = (
        pd.DataFrame(sources, columns=list(corrections.IDS))
        .astype(np.int64)
        .assign(kind=str(corrections.CorrectionKind.RELEASED))
    )
    corrections.add(connection, table, "held at first", float(Time.now().tai.mjd))


def release_held(connection: psycopg.Connection[Any], visit: int, detector: int) -> int:
    """Let the relay publish the held alerts of a visit, after what it has queued; returns their number.

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
    return _change(connection, visit, detector, "drop alerts", '"droppedAt" = now()')
