"""Announcements of next visits: where the telescope will look, so that what a visit needs is read before it comes."""

import json
from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.rows import single_row

__all__ = ["MOST", "announce", "announced", "prune_announcements"]

MOST = 50  # that are looked at, the newest first: older ones have been prepared, or come too late


def announce(connection: psycopg.Connection[Any], announcement: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Enter an announcement that is good for so many seconds; returns its row."""
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute(
        'INSERT INTO "NextVisit" (announcement, "expiresAt") VALUES (%s, now() + make_interval(secs => %s)) RETURNING *',
        (json.dumps(announcement), seconds),
    )
    return single_row(cursor)


def announced(connection: psycopg.Connection[Any], most: int = MOST) -> list[dict[str, Any]]:
    """Return the rows of announcements that have not expired, the newest first."""
    cursor = connection.cursor(row_factory=dict_row)
    cursor.execute('SELECT * FROM "NextVisit" WHERE "expiresAt" > now() ORDER BY id DESC LIMIT %s', (most,))
    return cursor.fetchall()


def prune_announcements(connection: psycopg.Connection[Any]) -> int:
    """Delete those that expired a day ago; returns how many."""
    return connection.execute('DELETE FROM "NextVisit" WHERE "expiresAt" < now() - interval \'1 day\'').rowcount
