"""Changes of state of visits as they happened: read on from a place, so that none is missed.

A transaction that began earlier may commit later: numbers of events do not come in order. So the place is a transaction:
all those before it were over when it was noted, and what they wrote was given. Reading on from it gives everything else;
what was given twice can be told by its number.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from apdb.rows import single_row

__all__ = ["KEEP_DAYS", "MOST", "EventReader", "VisitEvent", "prune_events"]

MOST = 500  # events of one read
LATE = 5_000  # numbers by which an event may come late, as long as a transaction keeps the place from moving on
KEEP_DAYS = 7.0
_HORIZON = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS place"
_READ = f"""
WITH now AS ({_HORIZON})
SELECT now.place, e.* FROM now LEFT JOIN LATERAL (
  SELECT "transaction", id, visit, detector, state, attempt, priority, "errorCode", at FROM "VisitEvent"
  WHERE "transaction" >= %(place)s AND id > %(above)s AND id <> ALL(%(given)s) ORDER BY "transaction", id LIMIT %(most)s
) e ON TRUE ORDER BY e.id
"""


@dataclass(frozen=True)
class VisitEvent:
    """A visit came into a state.

    Parameters
    ----------
    number
        Of the event: the same one may be given twice.
    visit, detector, state, attempt, priority, error_code
        As the ledger had them.
    time
        Begin of the transaction that changed it.
    """

    number: int
    visit: int
    detector: int
    state: str
    attempt: int
    priority: int
    error_code: str | None
    time: datetime

    def as_json(self) -> dict[str, Any]:
        """Return it by the names of the API."""
        return {
            "number": self.number,
            "visit": self.visit,
            "detector": self.detector,
            "state": self.state,
            "attempt": self.attempt,
            "priority": self.priority,
            "errorCode": self.error_code,
            "at": self.time.isoformat(),
        }


class EventReader:
    """Reads events in the order of their numbers, as far as they are there, each once.

    Parameters
    ----------
    position
        Where an earlier reader stood.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self._newest = 0
        self._given: dict[int, int] = {}  # numbers of the events at or behind the place, and their transactions

    @classmethod
    def from_now(cls, connection: psycopg.Connection[Any]) -> "EventReader":
        """Return a reader of what happens from now on (and of what is being committed)."""
        reader = cls(int(single_row(connection.execute(_HORIZON))[0]))
        row = single_row(connection.execute('SELECT coalesce(max(id), 0) FROM "VisitEvent"'))
        reader._newest = int(row[0])
        return reader

    def read(self, connection: psycopg.Connection[Any], most: int = MOST) -> list[VisitEvent]:
        """Return what is new, at most so many; fewer than that means that there is no more now."""
        values = {
            "place": self.position,
            "above": max(self._newest - LATE, 0) if self._newest else 0,
            "given": list(self._given),
            "most": most,
        }
        rows = connection.execute(_READ, values).fetchall()
        events = [row for row in rows if row[2] is not None]
        self._given |= {row[2]: row[1] for row in events}
        if events:
            self._newest = max(self._newest, events[-1][2])
        # a full page ends somewhere in the order of transactions: what is behind it was not given
        last = max(row[1] for row in events) if len(events) >= most else rows[0][0]
        self.position = max(self.position, min(rows[0][0], last))
        self._given = {n: t for n, t in self._given.items() if t >= self.position and n > self._newest - LATE}
        return [VisitEvent(*row[2:]) for row in events]


def prune_events(connection: psycopg.Connection[Any], days: float = KEEP_DAYS) -> int:
    """Delete the events of long ago; returns how many."""
    return connection.execute(
        'DELETE FROM "VisitEvent" WHERE at < now() - make_interval(secs => %s)', (days * 86_400.0,)
    ).rowcount
