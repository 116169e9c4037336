"""Which uploaded files visits still need."""

from collections.abc import Sequence
from typing import Any

import psycopg

from apdb.queue.states import FINAL_STATES

__all__ = ["needed_files"]


def needed_files(connection: psycopg.Connection[Any], paths: Sequence[str], keep_days: float) -> set[str]:
    """Return those of some paths that a visit names as its image and needs.

    A visit needs its image until it has ended, and for `keep_days` after; for ever where these are 0.
    """
    rows = connection.execute(
        "SELECT DISTINCT message ->> 'science' FROM \"VisitLedger\" WHERE message ->> 'science' = ANY(%s) AND "
        '(%s = 0 OR state <> ALL(%s) OR "finishedAt" > now() - make_interval(secs => %s))',
        (list(paths), keep_days, list(FINAL_STATES), keep_days * 86400.0),
    ).fetchall()
    return {str(path) for (path,) in rows}
