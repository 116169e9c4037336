"""The visit ledger: every (visit, detector) that ever came in, its state, and how it ended."""

import json
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.database import Database
from apdb.errors import LeaseLost, VisitRunning
from apdb.queue.claims import Claim, Patience, give_back_lost, take_next
from apdb.queue.entries import RELEASES, RUNNING, Entry, enter
from apdb.queue.states import VisitState
from apdb.tallies import visits_by_state

__all__ = ["RELEASES", "Claim", "Ledger", "Outcome", "Patience", "VisitState", "finish"]

LIMIT_S = 30.0  # of one call: then the database counts as away
_PATIENCE = Patience()


@dataclass(frozen=True)
class Outcome:
    """What a visit that ended well leaves in the ledger.

    Parameters
    ----------
    state
        ``done`` or ``no_work``.
    counts
        Numbers of rows and alerts by name.
    seconds
        Wall-clock seconds by step.
    midpoint_mjd_tai, band
        Of the exposure (MJD, TAI); None keeps what the ledger has.
    metrics
        Numbers about quality by name; None stores none.
    """

    state: VisitState
    counts: dict[str, Any]
    seconds: dict[str, float]
    midpoint_mjd_tai: float | None = None
    band: str | None = None
    metrics: dict[str, Any] | None = None


class Ledger:
    """The ledger of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def submit(
        self, message: dict[str, Any], visit: int, detector: int, releases: int = RELEASES
    ) -> tuple[dict[str, Any], bool]:
        """Enter a visit, which has so many release slots; returns its row and whether it is new (`apdb.queue.entries.enter`).

        Raises
        ------
        VisitConflict
            The (visit, detector) came before with another message.
        VisitRunning
            A replacement for a visit that is being processed.
        ReleasesExhausted
            A replacement, and every release slot was used.
        """
        return self.enter(Entry(message, visit, detector, releases))

    def enter(self, entry: Entry) -> tuple[dict[str, Any], bool]:
        """Enter a visit; returns its row and whether it is new; errors as for `submit`."""
        with self._database.session(LIMIT_S) as connection, connection.transaction():
            (entered,) = enter(connection, [entry])
            if entered.row is None:
                raise entered.error or AssertionError("neither entered nor refused")
            return entered.row, entered.new

    def withdraw(
        self, connection: psycopg.Connection[Any], visit: int, detector: int
    ) -> tuple[str, float | None] | None:
        """Note within the caller's transaction that a visit is taken back; one that waits is not processed.

        Returns the state in which it was and its midpoint (MJD, TAI), None when it was never queued.

        Raises
        ------
        VisitRunning
            It is being processed.
        """
        row = connection.execute(
            'SELECT state, "midpointMjdTai" FROM "VisitLedger" WHERE visit = %s AND detector = %s FOR UPDATE',
            (visit, detector),
        ).fetchone()
        if row is None:
            return None
        if row[0] == VisitState.RUNNING:
            raise VisitRunning(RUNNING, visit=visit, detector=detector)
        connection.execute(
            'UPDATE "VisitLedger" SET state = %s, "errorCode" = NULL, "errorText" = NULL, "updatedAt" = now(), "finishedAt" = '
            "now() WHERE visit = %s AND detector = %s",
            (VisitState.WITHDRAWN, visit, detector),
        )
        return str(row[0]), row[1]

    def get(self, visit: int, detector: int) -> dict[str, Any] | None:
        """Return the row of a visit, None when it never came."""
        with self._database.session(LIMIT_S) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute('SELECT * FROM "VisitLedger" WHERE visit = %s AND detector = %s', (visit, detector))
            return cursor.fetchone()

    def rows(
        self,
        *,
        visit: int | None = None,
        detector: int | None = None,
        state: str | None = None,
        error: str | None = None,
        night: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return the rows of visits, those that came last first: of a visit, detector, state, code of an error, or night."""
        wanted = {"visit": visit, "detector": detector, "state": state, '"errorCode"': error}
        wanted['floor("midpointMjdTai" - 0.5)'] = night
        given = {name: value for name, value in wanted.items() if value is not None}
        terms = [f"{name} = %s" for name in given]
        with self._database.session(LIMIT_S) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            cursor.execute(
                f'SELECT * FROM "VisitLedger" WHERE {" AND ".join(terms) or "TRUE"} '
                'ORDER BY "createdAt" DESC, visit DESC, detector LIMIT %s',
                [*given.values(), limit],
            )
            return cursor.fetchall()

    def counts(self) -> dict[str, int]:
        """Return the number of visits by state."""
        with self._database.session(LIMIT_S) as connection:
            return visits_by_state(connection, VisitState)

    def claim(self, owner: str, lease_s: float, order_wait_s: float, patience: Patience = _PATIENCE) -> Claim | None:
        """Take the next visit, None when there is none to take now; leases that ran out are failures, treated by `patience`."""
        with self._database.session(LIMIT_S) as connection:
            give_back_lost(connection, patience)
            with connection.transaction():
                return take_next(connection, owner, lease_s, order_wait_s)

    def give_back_lost(self, patience: Patience) -> int:
        """Take visits from workers whose leases ran out; returns how many (`apdb.queue.claims.give_back_lost`)."""
        with self._database.session(LIMIT_S) as connection:
            return give_back_lost(connection, patience)

    def renew(self, claim: Claim, lease_s: float) -> None:
        """Renew the lease of a claim.

        Raises
        ------
        LeaseLost
            Another attempt has it.
        """
        with self._database.session(LIMIT_S) as connection:
            changed = connection.execute(
                'UPDATE "VisitLease" SET until = now() + make_interval(secs => %s) WHERE visit = %s AND detector = %s '
                "AND attempt = %s",
                (lease_s, claim.visit, claim.detector, claim.attempt),
            ).rowcount
        if changed != 1:
            raise LeaseLost("the lease was taken over", visit=claim.visit, detector=claim.detector)

    def fail(
        self,
        claim: Claim,
        code: str,
        text: str,
        *,
        retry_in_s: float | None,
        state: VisitState = VisitState.FAILED,
        counts: bool = True,
    ) -> None:
        """Record a failure: back to the queue after `retry_in_s`, or final (``failed``, ``no_work``) when None.

        `counts` False does not use up one of the allowed attempts (waiting is no failure).
        """
        query = (
            'UPDATE "VisitLedger" SET state = %s, failures = failures + %s, "errorCode" = %s, "errorText" = %s, "nextAt" = now() + '
            'make_interval(secs => %s), "updatedAt" = now(), "finishedAt" = CASE WHEN %s THEN now() END '
            "WHERE visit = %s AND detector = %s AND attempt = %s AND state = %s"
        )
        final = retry_in_s is None
        values = (
            state if final else VisitState.QUEUED,
            int(counts),
            code,
            text[:4000],
            retry_in_s or 0.0,
            final,
            claim.visit,
            claim.detector,
            claim.attempt,
            VisitState.RUNNING,
        )
        with self._database.session(LIMIT_S) as connection:
            connection.execute(query, values)

    def note_metrics(self, claim: Claim, metrics: dict[str, Any]) -> None:
        """Keep what was measured of a visit that will not be stored, where this attempt still holds it."""
        with self._database.session(LIMIT_S) as connection:
            connection.execute(
                'INSERT INTO "VisitQuality" (visit, detector, metrics) SELECT visit, detector, %s FROM "VisitLedger" WHERE '
                "visit = %s AND detector = %s AND attempt = %s AND state = %s "
                "ON CONFLICT (visit, detector) DO UPDATE SET metrics = excluded.metrics",
                (json.dumps(metrics), claim.visit, claim.detector, claim.attempt, VisitState.RUNNING),
            )

    def note_times(self, claim: Claim, midpoint: float, band: str, region: list[int]) -> bool:
        """Write what the image told (midpoint, band, patch); returns whether an unfinished earlier visit overlaps."""
        with self._database.session(LIMIT_S) as connection:
            connection.execute(
                'UPDATE "VisitLedger" SET "midpointMjdTai" = %s, band = %s, region = %s WHERE visit = %s AND '
                "detector = %s AND attempt = %s",
                (midpoint, band, region, claim.visit, claim.detector, claim.attempt),
            )
            row = connection.execute(
                f"SELECT EXISTS (SELECT 1 FROM \"VisitLedger\" WHERE state IN ('{VisitState.QUEUED}', '{VisitState.RUNNING}') AND "
                '"midpointMjdTai" < %s AND region && %s::bigint[] AND (visit, detector) <> (%s, %s))',
                (midpoint, region, claim.visit, claim.detector),
            ).fetchone()
        return bool(row and row[0])


def finish(connection: psycopg.Connection[Any], visit: int, detector: int, attempt: int, outcome: Outcome) -> None:
    """Mark a visit as ended within the caller's transaction; the attempt is the fencing token.

    Raises
    ------
    LeaseLost
        Another attempt has taken over.
    """
    changed = connection.execute(
        'UPDATE "VisitLedger" SET state = %s, counts = %s, seconds = %s, "errorCode" = NULL, "errorText" = NULL, '
        '"midpointMjdTai" = coalesce(%s, "midpointMjdTai"), band = coalesce(%s, band), "updatedAt" = now(), '
        '"finishedAt" = now() WHERE visit = %s AND detector = %s AND attempt = %s AND state = %s',
        (
            outcome.state,
            json.dumps(outcome.counts),
            json.dumps(outcome.seconds),
            outcome.midpoint_mjd_tai,
            outcome.band,
            visit,
            detector,
            attempt,
            VisitState.RUNNING,
        ),
    ).rowcount
    if changed != 1:
        raise LeaseLost("another attempt took over; nothing was written", visit=visit, detector=detector)
    if outcome.metrics is not None:
        connection.execute(
            'INSERT INTO "VisitQuality" (visit, detector, metrics) VALUES (%s, %s, %s) ON CONFLICT (visit, detector) '
            "DO UPDATE SET metrics = excluded.metrics",
            (visit, detector, json.dumps(outcome.metrics)),
        )
