"""How a worker claims the next visit of the queue, and how the claims of workers that died or hang are taken from them."""

import logging
from dataclasses import dataclass
from typing import Any

import psycopg

from apdb.queue.states import VisitState

__all__ = ["LONGEST_PAUSE_S", "Claim", "Patience", "give_back_lost", "note_session", "take_next"]

log = logging.getLogger("alertprod.ledger")

LONGEST_PAUSE_S = 600.0  # between two attempts
WORKER_LOST = "worker_lost"
FIRST = 64  # of those that wait: nearly always one of them may begin


@dataclass(frozen=True)
class Claim:
    """A visit taken for work: its message and the attempt number, which is the fencing token.

    `last_error` is the code with which the attempt before ended, None for the first one.
    """

    visit: int
    detector: int
    attempt: int
    release: int
    failures: int
    message: dict[str, Any]
    last_error: str | None = None


@dataclass(frozen=True)
class Patience:
    """What follows a failure: after how many the visit is given up, and the pause before the next attempt, which doubles."""

    attempts: int = 3
    retry_s: float = 0.0

    def pause_s(self, failures: int) -> float:
        """Return the pause in seconds after a failure that `failures` others went before."""
        return min(self.retry_s * 2.0 ** min(failures, 30), LONGEST_PAUSE_S)


# An earlier visit of the same patch that is not finished is waited for, up to a deadline. A target of opportunity (its priority
# is above 0) waits for none that only stands in the queue: they wait for it, so that it has one visit before it at most.
# Those that come first are looked at first: to compare all that wait with each other takes a second where 10 000 do.
_NEXT = f"""
WITH first AS MATERIALIZED (
  SELECT visit, detector FROM "VisitLedger" WHERE state = '{VisitState.QUEUED}' AND "nextAt" <= now()
  ORDER BY priority DESC, "midpointMjdTai" NULLS FIRST, visit, detector LIMIT %(among)s
), next AS (
  SELECT q.visit, q.detector FROM first JOIN "VisitLedger" q USING (visit, detector)
  WHERE q.state = '{VisitState.QUEUED}' AND q."nextAt" <= now() AND NOT EXISTS (
    SELECT 1 FROM "VisitLedger" e
    WHERE (e.state = '{VisitState.RUNNING}' OR (e.state = '{VisitState.QUEUED}' AND q.priority <= greatest(e.priority, 0)))
      AND e."midpointMjdTai" < q."midpointMjdTai"
      AND (e.region && q.region OR ((e.region IS NULL OR q.region IS NULL) AND e.detector = q.detector))
      AND q."createdAt" > now() - make_interval(secs => %(order_wait)s))
  AND NOT EXISTS (
    SELECT 1 FROM "VisitLedger" t
    WHERE t.state = '{VisitState.QUEUED}' AND t.priority > greatest(q.priority, 0) AND t."nextAt" <= now()
      AND (t.region && q.region OR ((t.region IS NULL OR q.region IS NULL) AND t.detector = q.detector)))
  ORDER BY q.priority DESC, q."midpointMjdTai" NULLS FIRST, q.visit, q.detector
  FOR UPDATE OF q SKIP LOCKED LIMIT 1)
UPDATE "VisitLedger" l SET state = '{VisitState.RUNNING}', attempt = l.attempt + 1, "updatedAt" = now()
FROM next WHERE l.visit = next.visit AND l.detector = next.detector
RETURNING l.visit, l.detector, l.attempt, l.release, l.failures, l.message, l."errorCode"
"""
_LEASE = """
INSERT INTO "VisitLease" (visit, detector, attempt, owner, until)
VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))
ON CONFLICT (visit, detector) DO UPDATE SET attempt = excluded.attempt, owner = excluded.owner, until = excluded.until,
  backend = NULL, "backendStart" = NULL
"""
_EXPIRED = f"""
FROM "VisitLease" s JOIN "VisitLedger" l ON l.visit = s.visit AND l.detector = s.detector AND l.attempt = s.attempt
WHERE l.state = '{VisitState.RUNNING}' AND s.until < now()
"""
# whoever hangs with a sky lock, or with the ledger's row in an open transaction, loses both with its session
_END_SESSIONS = f"""
SELECT a.pid, pg_terminate_backend(a.pid) FROM pg_stat_activity a
JOIN (SELECT s.backend, s."backendStart" {_EXPIRED} AND s.backend IS NOT NULL) h
  ON h.backend = a.pid AND h."backendStart" = a.backend_start WHERE a.pid <> pg_backend_pid()
"""
# a row that a hung session still holds is left for the next time: nobody waits for it
_LOST = f"""
WITH lost AS (SELECT l.visit, l.detector {_EXPIRED} FOR UPDATE OF l, s SKIP LOCKED),
gone AS (DELETE FROM "VisitLease" s USING lost WHERE s.visit = lost.visit AND s.detector = lost.detector)
UPDATE "VisitLedger" l SET
  state = CASE WHEN l.failures + 1 >= %(attempts)s THEN '{VisitState.FAILED}' ELSE '{VisitState.QUEUED}' END,
  "finishedAt" = CASE WHEN l.failures + 1 >= %(attempts)s THEN now() END,
  "nextAt" = now() + make_interval(secs => least(%(retry)s * 2.0 ^ least(l.failures, 30), %(longest)s)),
  failures = l.failures + 1, "errorCode" = '{WORKER_LOST}', "updatedAt" = now(),
  "errorText" = format('visit %%s, detector %%s: the worker stopped without a word (failure %%s of %%s)', l.visit, l.detector,
    l.failures + 1, %(attempts)s::int)
FROM lost WHERE l.visit = lost.visit AND l.detector = lost.detector
RETURNING l.visit, l.detector, l.state, l.failures
"""
_SESSION = """
UPDATE "VisitLease" SET backend = pg_backend_pid(),
  "backendStart" = (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())
WHERE visit = %s AND detector = %s AND attempt = %s
"""


def take_next(connection: psycopg.Connection[Any], owner: str, lease_s: float, order_wait_s: float) -> Claim | None:
    """Take the next visit and its lease for `lease_s` seconds within the caller's transaction; None when there is none.

    An earlier visit of the same patch that is not finished is waited for, `order_wait_s` seconds after a visit came.
    """
    for among in (FIRST, None):
        row = connection.execute(_NEXT, {"order_wait": order_wait_s, "among": among}).fetchone()
        if row is not None:
            break
    else:
        return None
    claim = Claim(*row)
    connection.execute(_LEASE, (claim.visit, claim.detector, claim.attempt, owner, lease_s))
    return claim


def give_back_lost(connection: psycopg.Connection[Any], patience: Patience) -> int:
    """Take the visits whose leases ran out from their workers, in autocommit; returns how many.

    Their database sessions are ended, with the locks that they hold. Each is a failure: back to the queue after a pause,
    or ``failed`` when it was the last that is allowed.
    """
    try:
        for pid, _ in connection.execute(_END_SESSIONS).fetchall():
            log.warning("database session %d ended: its worker hangs, the lease has run out", pid)
    except psycopg.errors.InsufficientPrivilege as error:  # sessions of another user: its rows wait for their end
        log.warning("the session of a hung worker cannot be ended: %s", error)
    values = {"attempts": patience.attempts, "retry": patience.retry_s, "longest": LONGEST_PAUSE_S}
    lost = connection.execute(_LOST, values).fetchall()
    for visit, detector, state, failures in lost:
        log.warning("visit %d, detector %d: worker lost, failure %d: %s", visit, detector, failures, state)
    return len(lost)


def note_session(connection: psycopg.Connection[Any], visit: int, detector: int, attempt: int) -> None:
    """Note the database session that works under a lease: it is ended when the lease has run out."""
    connection.execute(_SESSION, (visit, detector, attempt))
