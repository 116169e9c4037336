"""What people change about visits: cancelled, tried again. And what becomes of those that wait for their image."""

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.database import Database
from apdb.errors import NotFound, VisitEnded, VisitRunning
from apdb.queue.entries import RUNNING
from apdb.queue.states import VisitState

__all__ = ["IMAGE_LATE", "cancel_visit", "look_for_images", "retry_visit"]

LIMIT_S = 30.0  # of one call: then the database counts as away
LOOK_AGAIN_S = 1.0
MOST_LOOKS = 200  # visits of which one look is taken at a time
IMAGE_LATE = "image_late"
_OPEN = (VisitState.QUEUED, VisitState.WAITING, VisitState.RUNNING)
_TRIED_AGAIN = (VisitState.FAILED, VisitState.NO_WORK, VisitState.CANCELLED, VisitState.QUEUED, VisitState.WAITING)

Row = dict[str, Any]


def _locked(cursor: psycopg.Cursor[Row], visit: int, detector: int) -> Row:
    row = cursor.execute(
        'SELECT * FROM "VisitLedger" WHERE visit = %s AND detector = %s FOR UPDATE', (visit, detector)
    ).fetchone()
    if row is None:
        raise NotFound("it never came", visit=visit, detector=detector)
    return row


def cancel_visit(database: Database, visit: int, detector: int) -> Row:
    """Cancel a visit that has not ended, also one that is being processed: that attempt cannot commit any more; returns its row.

    What an earlier processing stored stays.

    Raises
    ------
    NotFound
        It never came.
    VisitEnded
        It has ended; one that was cancelled before is no error.
    """
    with database.session(LIMIT_S) as connection, connection.transaction():
        cursor = connection.cursor(row_factory=dict_row)
        row = _locked(cursor, visit, detector)
        if row["state"] == VisitState.CANCELLED:
            return row
        if row["state"] not in _OPEN:
            text = f"it is {row['state']} already: what it stored is taken back by 'alertprod visits withdraw'"
            raise VisitEnded(text, visit=visit, detector=detector)
        cursor.execute('DELETE FROM "VisitLease" WHERE visit = %s AND detector = %s', (visit, detector))
        cursor.execute(
            'UPDATE "VisitLedger" SET state = %s, "errorCode" = NULL, "errorText" = NULL, "finishedAt" = now(), "updatedAt" = now() '
            "WHERE visit = %s AND detector = %s RETURNING *",
            (VisitState.CANCELLED, visit, detector),
        )
        return cursor.fetchone() or row


def retry_visit(database: Database, visit: int, detector: int) -> Row:
    """Queue a visit again that failed, had no work, was cancelled, or waits for its next attempt; returns its row.

    Its failures are forgotten, and it is tried at once.

    Raises
    ------
    NotFound
        It never came.
    VisitRunning
        It is being processed.
    VisitEnded
        It is done, or withdrawn.
    """
    with database.session(LIMIT_S) as connection, connection.transaction():
        cursor = connection.cursor(row_factory=dict_row)
        row = _locked(cursor, visit, detector)
        if row["state"] == VisitState.RUNNING:
            raise VisitRunning(RUNNING, visit=visit, detector=detector)
        if row["state"] not in _TRIED_AGAIN:
            text = f"it is {row['state']}: send it with reprocess=replace to have it processed anew"
            raise VisitEnded(text, visit=visit, detector=detector)
        cursor.execute(
            'UPDATE "VisitLedger" SET state = %s, failures = 0, "errorCode" = NULL, "errorText" = NULL, "nextAt" = now(), '
            '"finishedAt" = NULL, "updatedAt" = now(), "waitUntil" = NULL WHERE visit = %s AND detector = %s RETURNING *',
            (VisitState.QUEUED, visit, detector),
        )
        return cursor.fetchone() or row


def look_for_images(database: Database, is_there: Callable[[str], bool]) -> int:
    """Queue the waiting visits whose image `is_there`, and fail those that waited too long; returns how many changed.

    Several processes may look at once: each row is looked at by one of them. None is locked while a disk is asked.
    """
    with database.session(LIMIT_S) as connection:
        rows = connection.execute(
            f'WITH due AS (SELECT visit, detector FROM "VisitLedger" WHERE state = \'{VisitState.WAITING}\' AND "nextAt" <= now() '
            'ORDER BY "nextAt" LIMIT %s FOR UPDATE SKIP LOCKED) UPDATE "VisitLedger" l SET "nextAt" = now() + '
            "make_interval(secs => %s) FROM due WHERE l.visit = due.visit AND l.detector = due.detector "
            "RETURNING l.visit, l.detector, l.message ->> 'science', coalesce(l.\"waitUntil\" <= now(), true)",
            (MOST_LOOKS, LOOK_AGAIN_S),
        ).fetchall()
        here = [(v, d) for v, d, path, _ in rows if is_there(path)]
        late = [(v, d) for v, d, _, over in rows if over and (v, d) not in here]
        queued = f"state = '{VisitState.QUEUED}', \"nextAt\" = now()"
        failed = (
            f'state = \'{VisitState.FAILED}\', "finishedAt" = now(), "errorCode" = \'{IMAGE_LATE}\', "errorText" = '
            "format('visit %%s, detector %%s: its image did not come in time', l.visit, l.detector)"
        )
        return _move(connection, here, queued) + _move(connection, late, failed)


def _move(connection: psycopg.Connection[Any], keys: list[tuple[int, int]], values: str) -> int:
    return connection.execute(
        f'UPDATE "VisitLedger" l SET {values}, "updatedAt" = now() FROM unnest(%s::bigint[], %s::int[]) u(v, d) '
        f"WHERE l.visit = u.v AND l.detector = u.d AND l.state = '{VisitState.WAITING}'",
        ([v for v, _ in keys], [d for _, d in keys]),
    ).rowcount
