"""Counts for operators: ledger, outbox, time per step."""

from typing import Any

from apdb.database import Database
from apdb.ledger import VisitState

__all__ = ["service_status"]


def service_status(database: Database) -> dict[str, Any]:
    """Return visits by state, outbox depth and age, alerts published, and mean seconds per step."""
    with database.session() as connection:
        states = dict(connection.execute('SELECT state, count(*) FROM "VisitLedger" GROUP BY state').fetchall())
        outbox = connection.execute(
            'SELECT coalesce(sum(count) FILTER (WHERE w), 0), coalesce(extract(epoch FROM now() - min("createdAt") FILTER '
            '(WHERE w)), 0), coalesce(sum(count) FILTER (WHERE "publishedAt" IS NOT NULL), 0), coalesce(sum(count) FILTER '
            '(WHERE "heldReason" IS NOT NULL AND "droppedAt" IS NULL), 0) FROM (SELECT *, "publishedAt" IS NULL AND '
            '"heldReason" IS NULL AS w FROM "AlertOutbox") o'
        ).fetchone()
        steps = connection.execute(
            "SELECT key, avg(value::float) FROM (SELECT seconds FROM \"VisitLedger\" WHERE state = 'done' "
            'ORDER BY "finishedAt" DESC LIMIT 100) v, jsonb_each_text(v.seconds) GROUP BY key ORDER BY key'
        ).fetchall()
    assert outbox is not None
    return {
        "visits": {state.value: 0 for state in VisitState} | states,
        "unpublished_alerts": int(outbox[0]), "oldest_unpublished_s": float(outbox[1]),
        "published_alerts": int(outbox[2]), "held_alerts": int(outbox[3]), "seconds": {k: float(v) for k, v in steps},
    }  # fmt: skip
