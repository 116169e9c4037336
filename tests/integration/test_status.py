"""What operators watch costs the same after a long survey as after a night."""

import json

import psycopg
import pytest

from apdb.queue.outbox import OutboxEntry, add, assign_order, catch_up, mark, rows_waiting
from apdb.queue.status import service_status

OLD = 20_000  # visits that were published long ago


def rows_read(plan):
    """Return how many rows the scans of a plan read, kept or not, the index alone included."""
    own = 0
    if "Scan" in plan["Node Type"] and plan.get("Relation Name"):
        taken = (
            plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        )
        own = taken * plan["Actual Loops"]
    return own + sum(rows_read(p) for p in plan.get("Plans", ()))


@pytest.fixture
def asked(monkeypatch):
    """The statements that were run, as they were given."""
    kept, execute = [], psycopg.Cursor.execute

    def note(self, query, values=None, **more):
        kept.append((query, values))
        return execute(self, query, values, **more)

    monkeypatch.setattr(psycopg.Cursor, "execute", note)
    return kept


def test_a_look_at_the_outbox_does_not_go_through_what_was_published(database, asked):
    with database.connect() as c:
        c.execute(
            'INSERT INTO "AlertOutbox" (visit, detector, attempt, file, count, checksum, "publishOrder") SELECT k, 0, 1, \'f\', 3, '
            "'x', k FROM generate_series(1, %s) k",
            (OLD,),
        )
        c.execute(
            'UPDATE "AlertOutbox" SET "publishedAt" = now() - interval \'9 days\', "secondsSinceShutterClose" = 40, '
            '"publishedCount" = count'
        )
        for visit, held in ((OLD + 1, None), (OLD + 2, "failed the gate"), (OLD + 3, None)):
            add(c, OutboxEntry(visit, 0, 1, "f", 5, "x", held=held))
        c.execute("SELECT setval('\"AlertPublishOrder\"', %s)", (OLD,))
        assign_order(c)
        mark(c, OLD + 1, 5, 60.0, True)
        c.execute("VACUUM ANALYZE")
    asked.clear()
    found = service_status(database, "alerts")
    looks = [q for q in asked if "AlertOutbox" in str(q[0]) or "DeliveryTotals" in str(q[0])]
    assert len(looks) == 4
    with database.connect() as c:
        plans = [
            json.loads(json.dumps(c.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + text, values).fetchone()[0]))
            for text, values in looks
        ]
    assert sum(rows_read(p[0]["Plan"]) for p in plans) < 300
    assert found["published_alerts"] == 3 * OLD + 5
    assert (found["published_visits"], found["shutter_seconds_sum"]) == (OLD + 1, 40.0 * OLD + 60)
    assert (found["unpublished_alerts"], found["held_alerts"]) == (5, 5)


def test_alerts_are_counted_once_whoever_finds_them_published(database):
    with database.connect() as c:
        for visit in range(1, 5):
            add(c, OutboxEntry(visit, 0, 1, "f", visit, "x"))
        assign_order(c)
        orders = [row.order for row in rows_waiting(c)]
        for _ in range(2):
            mark(c, orders[0], 1, 50.0, True)
            catch_up(c, orders[3], 0)  # the topic has everything before the fourth
    found = service_status(database)
    assert (found["published_alerts"], found["unpublished_alerts"]) == (1 + 2 + 3, 4)
    assert (found["published_visits"], found["shutter_seconds_sum"]) == (1, 50.0)
