"""Alerts that wait for a person: the subtraction failed the quality gate, or the file is broken."""

from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.audit import audit
from apdb.errors import NotFound

__all__ = ["drop_held", "held", "release_held"]

_HELD = 'visit = %s AND detector = %s AND "heldReason" IS NOT NULL AND "droppedAt" IS NULL'


def held(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    """Return what is held: visit, detector, attempt, alerts, why, since when."""
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute(
        'SELECT visit, detector, attempt, count AS alerts, "heldReason" AS reason, "createdAt" AS since FROM "AlertOutbox" '
        'WHERE "heldReason" IS NOT NULL AND "droppedAt" IS NULL ORDER BY visit, detector, attempt'
    )
    return cursor.fetchall()


def _change(connection: psycopg.Connection[Any], visit: int, detector: int, action: str, values: str) -> int:
    with connection.transaction():
        rows = connection.execute(
            f'UPDATE "AlertOutbox" SET {values} WHERE {_HELD} RETURNING count', (visit, detector)
        ).fetchall()
        if not rows:
            raise NotFound("no alerts are held", visit=visit, detector=detector)
        count = int(sum(row[0] for row in rows))
        audit(connection, action, "AlertOutbox", count, {"visit": visit, "detector": detector})
    return count


def release_held(connection: psycopg.Connection[Any], visit: int, detector: int) -> int:
    """Let the relay publish the held alerts of a visit, after what it has queued; returns their number.

    Raises
    ------
    NotFound
        None are held.
    """
    return _change(connection, visit, detector, "release alerts", '"heldReason" = NULL')


def drop_held(connection: psycopg.Connection[Any], visit: int, detector: int) -> int:
    """Never publish the held alerts of a visit (rows and alert file stay); returns their number.

    Raises
    ------
    NotFound
        None are held.
    """
    return _change(connection, visit, detector, "drop alerts", '"droppedAt" = now()')
