"""alerts/delivery/relay.py with a real broker and a real PostgreSQL: once, in order, whatever dies in between."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from alerts import AlertArchive
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import BrokerUnavailable, ProgressConflict
from apdb import Database
from apdb.errors import NotFound
from apdb.queue.holds import drop_held, held, release_held
from apdb.queue.status import service_status, yields
from service.local.campaign import consume_alerts
from service.processing.veto import veto_reason
from tests.support.outbox_rows import fill, patient


@pytest.fixture
def target(kafka):
    topic = f"alerts-{uuid4().hex[:8]}"
    target = KafkaTarget(kafka.brokers, topic, transactional_id=f"relay-{topic}")
    ensure_topics(target)
    ensure_topics(target)  # there already: fine
    return target


def test_everything_is_published_once_in_order(database, target, tmp_path):
    fill(database, tmp_path, range(5), 30)
    relay = Relay(database, AlertArchive(tmp_path), target)
    standby = Relay(database, AlertArchive(tmp_path), target)
    try:
        assert patient(relay) == 150
        assert standby.step() == 0  # another leads
        assert service_status(database)["relay_leads"]
        assert relay.step() == 0
        fill(database, tmp_path, [9], 0)
        assert relay.step() == 0  # a visit without alerts is marked too
    finally:
        relay.close()
        standby.close()
    alerts = consume_alerts(target.brokers, target.topic, 150)
    ids = [a["diaSourceId"] for a in alerts]
    assert sorted(ids) == sorted(v * 1000 + k for v in range(5) for k in range(30))
    for owner in range(1, 8):
        own = [a["diaSourceId"] for a in alerts if a["diaSource"]["diaObjectId"] == owner]
        assert own == sorted(own)  # one key, one partition, publish order
    with database.connect() as connection:
        assert connection.execute('SELECT count(*) FROM "AlertOutbox" WHERE "publishedAt" IS NULL').fetchone() == (0,)


def test_what_each_filter_lets_pass_is_counted_by_night(database, kafka, tmp_path):
    topic = f"alerts-{uuid4().hex[:8]}"
    even, none = f"{topic}-even", f"{topic}-none"
    filters = ((even, "diaSource.diaObjectId in [2, 4, 6]"), (none, "diaSource.diaObjectId > 7"))
    target = KafkaTarget(kafka.brokers, topic, transactional_id=f"relay-{topic}", fan_out=filters)
    ensure_topics(target)
    fill(database, tmp_path, range(2), 14, shutter_close=61000.6)
    fill(database, tmp_path, range(2, 5), 7, shutter_close=61002.4)
    fill(database, tmp_path, [6], 7)  # nobody knows when it was taken
    relay = Relay(database, AlertArchive(tmp_path), target)
    try:
        assert patient(relay) == 56
    finally:
        relay.close()
    with database.connect() as connection:  # three of seven objects
        assert yields(connection) == {61000: {even: 12, none: 0}, 61001: {even: 9, none: 0}}


def test_rows_that_come_while_the_relay_looks_are_taken_in_the_next_round(database, target, tmp_path):
    relay = Relay(database, AlertArchive(tmp_path), target)
    feeder = threading.Thread(target=lambda: [fill(database, tmp_path, [v], 1) for v in range(60)])
    feeder.start()
    sent, deadline = 0, time.monotonic() + 60
    while sent < 60 and time.monotonic() < deadline:
        sent += patient(relay)
    feeder.join()
    relay.close()
    ids = [a["diaSourceId"] for a in consume_alerts(target.brokers, target.topic, 60)]
    assert sorted(ids) == [v * 1000 for v in range(60)]


SCRIPT = """
import sys
from alerts import AlertArchive
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget
from apdb import Database
from service.crash import crash_at
uri, archive, brokers, topic, point = sys.argv[1:]
relay = Relay(Database(uri), AlertArchive(archive), KafkaTarget(brokers, topic, transactional_id="relay-" + topic),
              crash=lambda name: crash_at(name, point))
relay.step()
"""


@pytest.mark.parametrize("point", ["relay_begun", "relay_sent", "relay_committed", "relay_marked"])
def test_kill_9_of_the_relay_loses_and_doubles_nothing(database, target, tmp_path, point):
    fill(database, tmp_path, range(3), 40)
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, database._uri, str(tmp_path), target.brokers, target.topic, point],
            check=False,
            timeout=120,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == -9, done.stderr
    relay = Relay(database, AlertArchive(tmp_path), target)
    patient(relay)
    relay.close()
    ids = [a["diaSourceId"] for a in consume_alerts(target.brokers, target.topic, 120)]
    assert sorted(ids) == sorted(v * 1000 + k for v in range(3) for k in range(40))


def test_two_databases_do_not_share_a_progress(database, template_database, target, tmp_path):
    """The second would leave out the alerts that the first has numbered further."""
    fill(database, tmp_path, range(3), 5)
    relay = Relay(database, AlertArchive(tmp_path), target)
    assert patient(relay) == 15
    relay.close()
    admin = template_database.rsplit("/", 1)[0]
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE other TEMPLATE alertprod")
    other = Database(f"{admin}/other")
    fill(other, tmp_path / "b", [1], 5)
    relay = Relay(other, AlertArchive(tmp_path / "b"), target)
    with pytest.raises(ProgressConflict, match="ALERTPROD_TRANSACTIONAL_ID"):
        relay.step()
    relay.close()
    relay = Relay(database, AlertArchive(tmp_path), target)  # its own goes on
    fill(database, tmp_path, [4], 5)
    assert patient(relay) == 5
    relay.close()


def test_unreachable_broker_is_a_retriable_error(database, tmp_path):
    with pytest.raises(BrokerUnavailable):
        ensure_topics(KafkaTarget("127.0.0.1:1", "x", timeout_s=1.0))


def test_alerts_that_are_held_wait_for_a_person(database, target, tmp_path):
    """Held alerts are not published; released ones are, after the others; dropped ones never."""
    fill(database, tmp_path, range(4), 5)
    with database.connect() as connection:
        connection.execute("""UPDATE "AlertOutbox" SET "heldReason" = 'diaSources is 900' WHERE visit IN (1, 2)""")
        relay = Relay(database, AlertArchive(tmp_path), target)
        try:
            assert patient(relay) == 10
            found = service_status(database)
            assert (found["published_alerts"], found["unpublished_alerts"], found["held_alerts"]) == (10, 0, 10)
            assert [(h["visit"], h["alerts"], h["reason"]) for h in held(connection)] == [
                (1, 5, "diaSources is 900"),
                (2, 5, "diaSources is 900"),
            ]
            assert release_held(connection, 1, 0) == 5
            assert drop_held(connection, 2, 0) == 5
            assert relay.step() == 5
            assert relay.step() == 0
        finally:
            relay.close()
        assert held(connection) == []
        with pytest.raises(NotFound, match="visit 2, detector 0"):
            release_held(connection, 2, 0)
        assert service_status(database)["held_alerts"] == 0
        actions = connection.execute('SELECT action, count FROM "ApdbAudit" ORDER BY id').fetchall()
        assert actions == [("release alerts", 5), ("drop alerts", 5)]
    visits = [a["diaSourceId"] // 1000 for a in consume_alerts(target.brokers, target.topic, 15)]
    assert sorted(visits) == [0] * 5 + [1] * 5 + [3] * 5


def test_the_quality_gate_says_why():
    found = {"kernelResidualRms": 0.4, "diaSources": 120, "nan": float("nan")}
    assert veto_reason({}, found) is None
    assert veto_reason({"diaSources": 120, "kernelResidualRms": 1.0}, found) is None
    assert veto_reason({"diaSources": 100, "kernelResidualRms": 0.1}, found) == (
        "diaSources is 120, more than 100; kernelResidualRms is 0.4, more than 0.1"
    )
    assert veto_reason({"nan": 1.0}, found) == "nan was not measured"
    assert veto_reason({"starFluxResidual": 1.0}, found) == "starFluxResidual was not measured"
    assert veto_reason({}, found, "the kernel is off") == "the kernel is off"
    assert veto_reason({"nan": 1.0}, found, "the kernel is off") == "the kernel is off; nan was not measured"
