"""How a worker claims the next visit of the queue, and how the claims of workers that died are given back."""

from dataclasses import dataclass
from typing import Any

import psycopg

from apdb.queue.states import VisitState

__all__ = ["Claim", "give_back_lost", "take_next"]


@dataclass(frozen=True)
class Claim:
    """A visit taken for work: its message and the attempt number, which is the fencing token."""

    visit: int
    detector: int
    attempt: int
    release: int
    failures: int
    message: dict[str, Any]


# an earlier visit of the same patch that is not finished is waited for, up to a deadline
_NEXT = f"""
WITH next AS (
  SELECT visit, detector FROM "VisitLedger" q
  WHERE state = '{VisitState.QUEUED}' AND "nextAt" <= now() AND NOT EXISTS (
    SELECT 1 FROM "VisitLedger" e
    WHERE e.state IN ('{VisitState.QUEUED}', '{VisitState.RUNNING}') AND e."midpointMjdTai" < q."midpointMjdTai"
      AND (e.region && q.region OR ((e.region IS NULL OR q.region IS NULL) AND e.detector = q.detector))
      AND q."createdAt" > now() - make_interval(secs => %(order_wait)s))
  ORDER BY priority DESC, "midpointMjdTai" NULLS FIRST, visit, detector
  FOR UPDATE SKIP LOCKED LIMIT 1)
UPDATE "VisitLedger" l SET state = '{VisitState.RUNNING}', attempt = l.attempt + 1, "updatedAt" = now()
FROM next WHERE l.visit = next.visit AND l.detector = next.detector
RETURNING l.visit, l.detector, l.attempt, l.release, l.failures, l.message
"""
_LEASE = """
INSERT INTO "VisitLease" (visit, detector, attempt, owner, until)
VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))
ON CONFLICT (visit, detector) DO UPDATE SET attempt = excluded.attempt, owner = excluded.owner, until = excluded.until
"""
_LOST = f"""
UPDATE "VisitLedger" l SET state = '{VisitState.QUEUED}', failures = failures + 1, "errorCode" = 'worker_lost',
  "errorText" = 'the worker stopped without a word', "updatedAt" = now()
FROM "VisitLease" s WHERE l.visit = s.visit AND l.detector = s.detector
  AND l.state = '{VisitState.RUNNING}' AND s.attempt = l.attempt AND s.until < now()
"""


def take_next(connection: psycopg.Connection[Any], owner: str, lease_s: float, order_wait_s: float) -> Claim | None:
    """Take the next visit and its lease for `lease_s` seconds within the caller's transaction; None when there is none.

    An earlier visit of the same patch that is not finished is waited for, `order_wait_s` seconds after a visit came.
    """
    row = connection.execute(_NEXT, {"order_wait": order_wait_s}).fetchone()
    if row is None:
        return None
    claim = Claim(*row)
    connection.execute(_LEASE, (claim.visit, claim.detector, claim.attempt, owner, lease_s))
    return claim


def give_back_lost(connection: psycopg.Connection[Any]) -> None:
    """Give back the visits whose worker stopped renewing its lease."""
    connection.execute(_LOST)
