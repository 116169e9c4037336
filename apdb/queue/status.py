"""Counts for operators: ledger, outbox, time per step, alerts that passed the filter of each further topic by night."""

from collections.abc import Mapping
from typing import Any

import psycopg

from apdb.database import Database
from apdb.queue import dead_letters
from apdb.queue.corrections import unpublished
from apdb.queue.outbox import discrepancies
from apdb.queue.states import VisitState
from apdb.rows import single_row
from apdb.tallies import visits_by_state

__all__ = ["RELAY_LOCK", "add_yields", "delivery_figures", "service_status", "yields"]

LAST = 100
# of the metrics of a visit: what tells a night that goes wrong
QUALITY = (
    "kernelResidualRms", "spatialKernelSum", "scaleDiffimVarianceFactor", "significanceScale", "templateCoveragePercent",
    "starFluxResidual", "starPositionResidual", "diffimDepthLoss", "residualFootprintRatioMean", "maskedFraction",
)  # fmt: skip
RELAY_LOCK = 7002
_YIELD = "filter:"  # names of totals: filter:NIGHT:TOPIC


def service_status(database: Database, alert_topic: str | None = None) -> dict[str, Any]:
    """Return what operators watch.

    Visits by state, outbox depth and age, alerts published and held, mean seconds per step, seconds from the end of the
    exposure to the last alert of a visit (median and 95th percentile of the last 100), whether a relay leads, dead letters by
    state, ages of what waits, quality of the last visits, and, with `alert_topic`, the visits whose alerts
    are not in that topic as they should be.
    """
    with database.session() as connection:
        wrong = [] if alert_topic is None else discrepancies(connection, alert_topic)
        quality = _visit_quality(connection)
        return {
            "visits": visits_by_state(connection, VisitState),
            **delivery_figures(connection),
            "seconds": _step_seconds(connection),
            "quality": {name: {"median": middle, "p95": high} for name, middle, high in quality},
            **_queue_figures(connection),
            "relay_leads": _relay_leads(connection),
            "discrepant_visits": len(wrong),
            "dead_letters": dead_letters.counts(connection),
        }


def delivery_figures(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    """Return numbers of alerts and seconds that they took: of what waits, of the last 100 visits, and in all as it was counted.

    What has waited longest is an alert or a correction.

    No look goes through what was published: that grows as long as a survey runs.
    """
    waiting, oldest, held = single_row(
        connection.execute(
            'SELECT coalesce(sum(count) FILTER (WHERE "heldReason" IS NULL), 0), coalesce(extract(epoch FROM now() - least('
            'min("createdAt") FILTER (WHERE "heldReason" IS NULL), (SELECT min("createdAt") FROM "CorrectionBatch" WHERE "publishedAt" '
            'IS NULL))), 0), coalesce(sum(count) FILTER (WHERE "heldReason" IS NOT NULL AND "droppedAt" IS NULL), 0) '
            'FROM "AlertOutbox" WHERE "publishedAt" IS NULL'
        )
    )
    latency = connection.execute(
        "SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds) FROM (SELECT "
        '"secondsSinceShutterClose" AS seconds FROM "AlertOutbox" WHERE "secondsSinceShutterClose" IS NOT NULL '
        f'ORDER BY "publishOrder" DESC LIMIT {LAST}) r'
    ).fetchone()
    totals = connection.execute(
        'SELECT alerts, visits, "shutterSeconds" FROM "DeliveryTotals" WHERE name = \'published\''
    ).fetchone()
    median, slow = latency[0] if latency and latency[0] else (None, None)
    alerts, visits, seconds = totals or (0, 0, 0.0)
    return {
        "unpublished_alerts": int(waiting),
        "unpublished_corrections": unpublished(connection),
        "oldest_unpublished_s": float(oldest),
        "published_alerts": int(alerts),
        "held_alerts": int(held),
        "alert_latency_s": {"median": median, "p95": slow},
        "published_visits": int(visits),
        "shutter_seconds_sum": float(seconds),
    }


def _step_seconds(connection: psycopg.Connection[Any]) -> dict[str, float]:
    """Return the mean seconds of each step over the last visits that were done."""
    steps = connection.execute(
        f"SELECT key, avg(value::float) FROM (SELECT seconds FROM \"VisitLedger\" WHERE state = '{VisitState.DONE}' "
        f'ORDER BY "finishedAt" DESC LIMIT {LAST}) v, jsonb_each_text(v.seconds) GROUP BY key ORDER BY key'
    ).fetchall()
    return {name: float(seconds) for name, seconds in steps}


def _relay_leads(connection: psycopg.Connection[Any]) -> bool:
    """Whether some relay holds the leader lock."""
    row = single_row(
        connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = %s AND "
            "database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (RELAY_LOCK,),
        )
    )
    return bool(row[0])


def _queue_figures(connection: psycopg.Connection[Any]) -> dict[str, float]:
    """Return seconds: since the oldest visit that may be taken now came, and since the attempt that works longest began.

    ``lease_overdue_s`` is how long ago the lease ran out that ran out first; 0 where all are held.
    """
    row = single_row(
        connection.execute(
            f"""SELECT coalesce(extract(epoch FROM now() - min("createdAt") FILTER
                  (WHERE state = '{VisitState.QUEUED}' AND "nextAt" <= now())), 0),
                coalesce(extract(epoch FROM now() - min("updatedAt") FILTER (WHERE state = '{VisitState.RUNNING}')), 0),
                count(*) FILTER (WHERE state = '{VisitState.QUEUED}' AND "nextAt" <= now())
                FROM "VisitLedger" WHERE state IN ('{VisitState.QUEUED}', '{VisitState.RUNNING}')"""
        )
    )
    overdue = single_row(
        connection.execute(
            f"""SELECT greatest(coalesce(extract(epoch FROM now() - min(s.until)), 0), 0) FROM "VisitLease" s
                JOIN "VisitLedger" l ON l.visit = s.visit AND l.detector = s.detector AND l.attempt = s.attempt
                WHERE l.state = '{VisitState.RUNNING}'"""
        )
    )
    oldest, longest, ready = row
    return {
        "queue_oldest_s": float(oldest),
        "queue_ready": float(ready),
        "running_longest_s": float(longest),
        "lease_overdue_s": float(overdue[0]),
    }


def _visit_quality(connection: psycopg.Connection[Any]) -> list[tuple[str, float, float]]:
    """Return (name, median, 95th percentile) of the quality metrics of the last visits that were done."""
    return connection.execute(
        f"""SELECT key, percentile_cont(0.5) WITHIN GROUP (ORDER BY value::float8),
              percentile_cont(0.95) WITHIN GROUP (ORDER BY value::float8)
            FROM (SELECT q.metrics FROM "VisitLedger" l JOIN "VisitQuality" q ON q.visit = l.visit AND q.detector = l.detector
                  WHERE l.state = '{VisitState.DONE}' ORDER BY l."finishedAt" DESC LIMIT {LAST}) last,
              jsonb_each(last.metrics) WHERE key = ANY(%s) AND jsonb_typeof(value) = 'number' GROUP BY key ORDER BY key""",
        (list(QUALITY),),
    ).fetchall()


def add_yields(connection: psycopg.Connection[Any], night: int, passed: Mapping[str, int]) -> None:
    """Add the alerts of one ccdVisit that passed the filter of each further topic, in the transaction that marks it as published.

    A topic that none passed to counts the visit alone.

    Parameters
    ----------
    night
        Integer part of MJD - 0.5 of the exposure.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO "DeliveryTotals" AS t (name, alerts, visits, "shutterSeconds") VALUES (%s, %s, 1, 0) ON CONFLICT (name) '
            "DO UPDATE SET alerts = t.alerts + excluded.alerts, visits = t.visits + 1",
            [(f"{_YIELD}{night}:{topic}", count) for topic, count in sorted(passed.items())],
        )


def yields(connection: psycopg.Connection[Any]) -> dict[int, dict[str, int]]:
    """Return the alerts that passed, by night and topic; nights without any count are not there."""
    rows = connection.execute("SELECT name, alerts FROM \"DeliveryTotals\" WHERE name LIKE 'filter:%'").fetchall()
    out: dict[int, dict[str, int]] = {}
    for name, count in rows:
        night, _, topic = name.removeprefix(_YIELD).partition(":")
        out.setdefault(int(night), {})[topic] = count
    return out
