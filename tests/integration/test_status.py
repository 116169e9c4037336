"""What operators watch costs the same after a long survey as after a night."""

import json
import threading

import psycopg
import pytest

from apdb import Database
from apdb.queue.holds import drop_held
from apdb.queue.ledger import Ledger
from apdb.queue.outbox import OutboxEntry, add, assign_order, catch_up, mark, rows_waiting
from apdb.queue.status import service_status
from apdb.tallies import MANY, alerts_of_nights, alerts_of_topic, fold
from migrations.run import migrate
from service.pages.live import look

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


STATES = ("waiting", "queued", "running", "done", "no_work", "failed", "cancelled", "withdrawn")
VISITS = (
    'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai") SELECT k, 0, \'cam\', '
    "'{}', 'x', %s, 61000.1 + k %% 20 FROM generate_series(%s::int, %s::int) k"
)
OUTBOX = (
    'INSERT INTO "AlertOutbox" (visit, detector, attempt, file, count, checksum, "shutterCloseMjdTai", "publishedAt", "topicCount") '
    "SELECT k, 0, 1, 'f', 3, 'x', 61000.1 + k %% 20, now() - interval '9 days', 3 FROM generate_series(%s::int, %s::int) k"
)


def counted(connection):
    """What a count of all rows gives: visits by state, alerts in all, and by night."""
    states = dict(connection.execute('SELECT state, count(*) FROM "VisitLedger" GROUP BY state').fetchall())
    totals = connection.execute(
        'SELECT coalesce(sum(count), 0), coalesce(sum(count) FILTER (WHERE "publishedAt" IS NOT NULL), 0), '
        'coalesce(sum("topicCount"), 0), coalesce(sum(count) FILTER (WHERE "droppedAt" IS NOT NULL), 0) FROM "AlertOutbox"'
    ).fetchone()
    nights = connection.execute(
        'SELECT floor("shutterCloseMjdTai" - 0.5)::int, count(*), sum(count), coalesce(sum(count) FILTER (WHERE "publishedAt" IS '
        'NOT NULL), 0) FROM "AlertOutbox" GROUP BY 1 ORDER BY 1 DESC LIMIT 30'
    ).fetchall()
    return dict.fromkeys(STATES, 0) | states, tuple(int(n) for n in totals), nights


def told(database):
    """The same as it is told without a count."""
    with database.connect() as c:
        totals, nights = alerts_of_topic(c), alerts_of_nights(c, 30)
    names = ("stored", "published", "in_topic", "dropped")
    return Ledger(database).counts(), tuple(totals[n] for n in names), [tuple(n.values()) for n in nights]


def test_visits_and_alerts_are_told_without_a_count_of_all(database, asked):
    with database.connect() as c:
        c.execute(VISITS, ("done", 1, OLD))
        c.execute(OUTBOX, (1, OLD))
        c.execute(VISITS, ("queued", OLD + 1, OLD + 50))
        c.execute("UPDATE \"VisitLedger\" SET state = 'running' WHERE visit BETWEEN %s AND %s", (OLD + 1, OLD + 3))
        c.execute('DELETE FROM "VisitLedger" WHERE visit = 7')
        for visit, held in ((OLD + 1, None), (OLD + 2, "failed the gate"), (OLD + 3, None)):
            add(c, OutboxEntry(visit, 0, 1, "f", 5, "x", held=held, shutter_close=61030.2))
        assign_order(c)
        mark(c, rows_waiting(c)[0].order, 5, 60.0, True)
        drop_held(c, OLD + 2, 0)
        c.execute("VACUUM ANALYZE")
        right = counted(c)
    asked.clear()
    assert told(database) == right
    assert look(database).keys() == {"visits", "alerts", "letters"}
    looks = list(asked)
    with database.connect() as c:
        plans = [c.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + text, values).fetchone()[0] for text, values in looks]
    assert len(plans) >= 5
    assert sum(rows_read(p[0]["Plan"]) for p in plans) < 1000


def test_changes_are_put_together_while_others_go_on(database):
    with database.connect() as c, database.connect(autocommit=False) as other:
        other.execute(VISITS, ("queued", 1, 3))  # is not committed yet: keeps nobody waiting, and is not lost
        for k in range(10, 10 + MANY // 2 + 10):
            c.execute(VISITS, ("queued", k, k))
            c.execute("UPDATE \"VisitLedger\" SET state = 'running' WHERE visit = %s", (k,))
        assert Ledger(database).counts()["running"] == MANY // 2 + 10
        assert c.execute('SELECT count(*) FROM "Tally"').fetchone()[0] < 5
        other.commit()
        assert Ledger(database).counts() == counted(c)[0]
        with database.connect(autocommit=False) as folds:
            assert fold(folds)
            assert not fold(c)  # somebody is about it
            folds.rollback()
        c.execute("SET default_transaction_read_only = on")
        assert not fold(c)
        c.execute("SET default_transaction_read_only = off")
        assert fold(c)
        assert Ledger(database).counts() == counted(c)[0]


def test_a_database_at_work_is_counted_when_it_is_migrated(postgres):
    """A program of the version before goes on while the tables are brought to the next one: nothing is missed, nothing counted twice."""
    admin = postgres.uri.rsplit("/", 1)[0]
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute("CREATE DATABASE counted")
    uri, stop, begun = f"{admin}/counted", threading.Event(), threading.Event()
    try:
        migrate(uri)
        migrate(uri, "0011")

        def work():
            with psycopg.connect(uri, autocommit=True) as w:
                k = 100
                while not stop.is_set() and k < 20_000:
                    w.execute(VISITS, ("queued", k, k))
                    w.execute("UPDATE \"VisitLedger\" SET state = 'done' WHERE visit = %s", (k - 1,))
                    w.execute(OUTBOX, (k, k))
                    k += 1
                    begun.set()

        with psycopg.connect(uri, autocommit=True) as c:
            for state in STATES:
                first = 10 * STATES.index(state) + 1
                c.execute(VISITS, (state, first, first + 9))
            c.execute(OUTBOX, (1, 60))
            worker = threading.Thread(target=work)
            worker.start()
            try:
                assert begun.wait(10.0)
                migrate(uri)
            finally:
                stop.set()
                worker.join()
            assert told(Database(uri)) == counted(c)
        migrate(uri, "0011")
        migrate(uri)
        with psycopg.connect(uri, autocommit=True) as c:
            assert told(Database(uri)) == counted(c)
    finally:
        with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
            c.execute("DROP DATABASE counted WITH (FORCE)")
