"""Ages of what waits, and the quality of the last visits: numbers that dashboards and alert rules look at."""

from typing import Any

import psycopg

from apdb.queue.states import VisitState
from apdb.rows import single_row

__all__ = ["QUALITY", "queue_figures", "visit_quality"]

LAST = 100
# of the metrics of a visit: what tells a night that goes wrong
QUALITY = (
    "kernelResidualRms", "spatialKernelSum", "scaleDiffimVarianceFactor", "significanceScale", "templateCoveragePercent",
    "starFluxResidual", "starPositionResidual", "diffimDepthLoss", "residualFootprintRatioMean", "maskedFraction",
)  # fmt: skip


def queue_figures(connection: psycopg.Connection[Any]) -> dict[str, float]:
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


def visit_quality(connection: psycopg.Connection[Any]) -> list[tuple[str, float, float]]:
    """Return (name, median, 95th percentile) of the quality metrics of the last visits that were done."""
    return connection.execute(
        f"""SELECT key, percentile_cont(0.5) WITHIN GROUP (ORDER BY value::float8),
              percentile_cont(0.95) WITHIN GROUP (ORDER BY value::float8)
            FROM (SELECT q.metrics FROM "VisitLedger" l JOIN "VisitQuality" q ON q.visit = l.visit AND q.detector = l.detector
                  WHERE l.state = '{VisitState.DONE}' ORDER BY l."finishedAt" DESC LIMIT {LAST}) last,
              jsonb_each(last.metrics) WHERE key = ANY(%s) AND jsonb_typeof(value) = 'number' GROUP BY key ORDER BY key""",
        (list(QUALITY),),
    ).fetchall()
