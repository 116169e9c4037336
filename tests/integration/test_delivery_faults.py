"""Delivery under fire: relay and broker die by SIGKILL at random moments; every alert arrives once, in order.

Short here; ``ALERTPROD_RELAY_KILLS=100 ALERTPROD_BROKER_KILLS=10 ALERTPROD_ALERTS=20000 ALERTPROD_BROKER_DOWN_S=60`` is
the whole of it.
"""

import collections
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer

from alerts import AlertArchive
from alerts.delivery.reconcile import Reconciler, trigger_id
from alerts.delivery.target import KafkaTarget
from apdb.queue import outbox
from service.local.embedded_kafka import EmbeddedKafka
from service.settings import Settings
from tests.support.outbox_rows import alert_at

RELAY_KILLS = int(os.environ.get("ALERTPROD_RELAY_KILLS", "5"))
BROKER_KILLS = int(os.environ.get("ALERTPROD_BROKER_KILLS", "1"))
ALERTS = int(os.environ.get("ALERTPROD_ALERTS", "2000"))
DOWN_S = float(os.environ.get("ALERTPROD_BROKER_DOWN_S", "3"))
PER_VISIT = 250
ROOT = Path(__file__).parents[2]


class Scene:
    """A broker of its own, an outbox that fills up, a relay process that is started again whenever it died."""

    def __init__(self, database, kafka, folder):
        self.database, self.kafka, self.folder = database, kafka, folder
        self.archive = AlertArchive(folder / "alerts")
        self.settings = Settings(
            database_uri=database.uri,
            kafka_brokers=kafka.brokers,
            archive_dir=str(folder / "alerts"),
            poll_s=0.02,
            alert_fan_out={"alerts-even": "diaObject.nDiaSources < 0 or diaSource.diaObjectId in [2, 4, 6]"},
        )
        self.expected = []
        self.relay = None

    def commit_visit(self):
        """A visit with `PER_VISIT` alerts of about 40 kB."""
        visit = 1 + len(self.expected) // PER_VISIT
        numbers = range(visit * 1000, visit * 1000 + PER_VISIT)
        file = self.archive.write(visit, 0, 1, (alert_at(n, 8000) for n in numbers))
        with self.database.connect() as connection:
            entry = outbox.OutboxEntry(
                visit, 0, 1, file.name, file.count, file.checksum, index=file.index, id_xor=file.id_xor()
            )
            outbox.add(connection, entry)
        self.expected += numbers

    def start_relay(self):
        if self.relay is None or self.relay.poll() is not None:
            with (self.folder / "relay.log").open("ab") as log:
                self.relay = subprocess.Popen(
                    [sys.executable, "-P", "-m", "service.commands.main", "relay"], cwd=ROOT, stdout=log, stderr=log,
                    env={**os.environ, **self.settings.environment(), "PYTHONFAULTHANDLER": "1"}, start_new_session=True,
                )  # fmt: skip

    def kill_relay(self):
        if self.relay.poll() is None:
            os.killpg(self.relay.pid, signal.SIGKILL)
        self.relay.wait(timeout=10)

    def published(self):
        with self.database.connect() as connection:
            return connection.execute('SELECT coalesce(sum("publishedCount"), 0) FROM "AlertOutbox"').fetchone()[0]

    def wait_for_work(self, limit_s=40):
        """Until the relay has published something since now (or nothing is left)."""
        before, deadline = self.published(), time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if self.published() > before or before == len(self.expected):
                return
            time.sleep(0.02)
        pytest.fail(f"the relay does nothing: {self.last_words()}")

    def last_words(self):
        """Kill the relay in a way that shows where it stood; the end of its log."""
        if self.relay.poll() is None:
            self.relay.send_signal(signal.SIGABRT)
            self.relay.wait(timeout=10)
        return (self.folder / "relay.log").read_text(errors="replace")[-4000:]

    def finish(self, limit_s=120):
        self.start_relay()
        deadline = time.monotonic() + limit_s
        while self.published() < len(self.expected):
            if time.monotonic() > deadline:
                pytest.fail(f"{self.published()} of {len(self.expected)} are published: {self.last_words()}")
            time.sleep(0.1)


def messages(brokers, topic, isolation):
    """(partition, key, diaSourceId) of everything in a topic, in order within each partition."""
    consumer = Consumer(
        {"bootstrap.servers": brokers, "group.id": f"test-{time.time_ns()}", "auto.offset.reset": "earliest",
         "isolation.level": isolation, "enable.partition.eof": True}
    )  # fmt: skip
    out, ends = [], set()
    consumer.subscribe([topic])
    deadline = time.monotonic() + 120
    while len(ends) < 4 and time.monotonic() < deadline:
        for message in consumer.consume(500, 1.0):
            if message.error() is not None:
                ends.add(message.partition())
            else:
                ends.discard(message.partition())
                out.append((message.partition(), int(message.key()), trigger_id(message.value())))
    consumer.close()
    return out


def test_kills_of_relay_and_broker_lose_and_double_nothing(database, server_dir, tmp_path, request):
    dice = random.Random(20261121)
    with EmbeddedKafka(server_dir / "kafka-faults", keep=True) as kafka:
        scene = Scene(database, kafka, tmp_path)
        scene.start_relay()
        request.addfinalizer(scene.kill_relay)  # whatever happens, no process is left
        steps = ["relay"] * RELAY_KILLS + ["broker"] * BROKER_KILLS
        dice.shuffle(steps)
        total = ALERTS // PER_VISIT
        long_one = steps.index("broker")
        for k, step in enumerate(steps):
            while len(scene.expected) // PER_VISIT < total * (k + 1) // (len(steps) + 1):
                scene.commit_visit()
            while len(scene.expected) - scene.published() < 3 * PER_VISIT:  # so that the kill falls into work
                scene.commit_visit()
            scene.start_relay()
            scene.wait_for_work()
            time.sleep(dice.uniform(0, 0.2))
            if step == "relay":
                scene.kill_relay()
            else:
                kafka.stop(now=True)
                if k == long_one:  # visits go on meanwhile
                    scene.commit_visit()
                    time.sleep(DOWN_S)
                kafka.start()
        while len(scene.expected) < ALERTS:
            scene.commit_visit()
        scene.finish()
        scene.kill_relay()
        time.sleep(1.0)  # the marker of the last transaction may still be on its way
        found = messages(kafka.brokers, "alerts", "read_committed")
        raw = messages(kafka.brokers, "alerts", "read_uncommitted")
        even = messages(kafka.brokers, "alerts-even", "read_committed")
        target = KafkaTarget(kafka.brokers, "alerts")
        reconciler = Reconciler(database, target)
        counted, deadline = 0, time.monotonic() + 60
        while counted < len(scene.expected) and time.monotonic() < deadline:
            counted += reconciler.step(3.0)
        counted += reconciler.step(3.0)
        reconciler.close()
        kafka.keep = False
    assert sorted(number for _, _, number in found) == sorted(scene.expected)
    in_order = collections.defaultdict(list)
    for _, key, number in found:
        in_order[key].append(number)
    assert all(numbers == sorted(numbers) for numbers in in_order.values())
    assert len({(partition, key) for partition, key, _ in found}) == len(in_order)  # a key stays in its partition
    wanted = sorted(n for n in scene.expected if 1 + n % 7 in (2, 4, 6))
    assert sorted(number for _, _, number in even) == wanted  # the fan-out is as exact
    assert counted == len(scene.expected)
    with database.connect() as connection:
        rows = connection.execute(
            'SELECT count(*) FILTER (WHERE "topicCount" = count AND "topicXor" = "idXor"), count(*) FROM "AlertOutbox"'
        ).fetchone()
    assert rows[0] == rows[1] == np.ceil(len(scene.expected) / PER_VISIT)
    print(
        json.dumps(
            {
                "alerts": len(found),
                "aborted": len(raw) - len(found),
                "relayKills": RELAY_KILLS,
                "brokerKills": BROKER_KILLS,
            }
        )
    )
