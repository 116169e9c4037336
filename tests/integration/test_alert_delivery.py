"""What looks after the alert stream: archive commands, reconciler, sweep, trimming, the registry's answer at the start."""

import json
import os
import subprocess
import sys
import time
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from alerts import Alert, AlertArchive
from alerts.consumer import AlertConsumer
from alerts.delivery.reconcile import Reconciler
from alerts.delivery.registry import SchemaRegistry, learn_wire_id
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import BrokerUnavailable, SchemaRefused
from alerts.packets.trim import trim
from alerts.packets.wire import decode_body, encode_body
from apdb.queue import outbox
from service.delivery import sweep_orphans
from service.local.campaign import read_alerts
from service.observe.ledger_measures import render_metrics
from tests.support.alert_world import MIDPOINT, alert_of, alertprod, make_world
from tests.support.outbox_rows import PACKET, fill, patient


@pytest.fixture
def own_world(database, kafka, tmp_path):
    """Three visits for a test that changes them."""
    return make_world(database, kafka, tmp_path)


def test_the_commands_of_the_archive(own_world, database, tmp_path):
    settings, _, target = own_world
    code, out, err = alertprod(
        settings, "tail", "--from-beginning", "--until-end", "--filter", "diaSource.snr > 18", "--json"
    )
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted(line["diaSourceId"] for line in lines) == [1019, 2019, 3019]
    code, out, err = alertprod(settings, "tail", "--from-beginning", "-n", "3")
    assert (code, len(out.splitlines())) == (0, 3)

    code, out, err = alertprod(
        settings, "show", "2003", "--json", "--png", str(tmp_path / "a.png"), "--fits", str(tmp_path / "f")
    )
    assert code == 0, err
    assert json.loads(out)["diaSource"]["diaSourceId"] == 2003
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [
        f"2003_{n}.fits" for n in ("difference", "science", "template")
    ]
    code, out, err = alertprod(settings, "show", "2003")
    assert (code, "diaObjectId" in out) == (0, True)
    program = [sys.executable, "-P", "-m", "service.commands.main", "alerts", "show", "99"]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **settings.environment()}
    )
    assert (done.returncode, done.stderr) == (1, "alertprod: alert: no alert 99 in the archive\n")

    code, out, err = alertprod(settings, "validate", "--json")
    assert (code, json.loads(out)) == (0, {"files": 3, "alerts": 60, "problems": []}), err
    with database.connect() as connection:
        connection.execute('DELETE FROM "DiaSource" WHERE "diaSourceId" = 3007')
    code, out, err = alertprod(settings, "validate", "--since", "61001", "--json")
    assert code == 1
    assert [p["problem"] for p in json.loads(out)["problems"]] == ["1 alerts have no stored source (first: 3007)"]

    code, out, err = alertprod(
        settings, "export", "--out", str(tmp_path / "x.parquet"), "--object", "4", "--no-cutouts", "--json"
    )
    assert (code, json.loads(out)["alerts"]) == (0, 6), err
    table = pq.read_table(tmp_path / "x.parquet")
    assert sorted(table["diaSourceId"].to_pylist()) == [1003, 1013, 2003, 2013, 3003, 3013]
    assert table["cutoutScience"].null_count == 6
    assert table["diaObject"].to_pylist()[0]["nDiaSources"] == PACKET["diaObject"]["nDiaSources"]
    code, out, err = alertprod(settings, "export", "--out", str(tmp_path / "y.parquet"))
    assert (code, "say which alerts" in err) == (1, True)

    code, out, err = alertprod(settings, "replay", "--to", target.topic, "--visit", "2")
    assert (code, "which the relay writes" in err) == (1, True)
    to = f"again-{uuid4().hex[:8]}"
    code, out, err = alertprod(settings, "replay", "--to", to, "--visit", "2", "--dry-run", "--json")
    assert json.loads(out) == {"visits": 1, "alerts": 20, "topic": to, "dryRun": True}, err
    code, out, err = alertprod(
        settings, "replay", "--to", to, "--since", "2025-11-21T12:00:00", "--until", "61001", "--json"
    )
    assert (code, json.loads(out)["alerts"]) == (0, 20), err
    again = read_alerts(target.brokers, to, 20)
    assert sorted(a.packet["diaSourceId"] for a in again) == list(range(2000, 2020))
    assert all("replayed" in a.headers and a.headers["visit"] == "2" for a in again)
    with AlertConsumer(target.brokers, target.topic, uuid4().hex, until_end=True) as consumer:
        first = {a.packet["diaSourceId"]: a for a in consumer}
    assert all(first[a.packet["diaSourceId"]].packet == a.packet for a in again)


def test_the_reconciler_finds_what_is_missing_or_twice(own_world, database):
    settings, _, target = own_world
    reconciler = Reconciler(database, target)
    count = 0
    while count < 60:
        count += reconciler.step(2.0)
    with database.connect() as connection:
        while connection.execute('SELECT min("caughtUpAt") FROM "AlertTopicOffset"').fetchone() == (None,):
            assert reconciler.step(1.0) == 0
        assert outbox.discrepancies(connection, target.topic) == []
        connection.execute('UPDATE "AlertOutbox" SET "publishedAt" = now() - interval \'1 hour\'')
        assert outbox.discrepancies(connection, target.topic) == []
        row = connection.execute('SELECT "secondsSinceShutterClose" FROM "AlertOutbox" WHERE visit = 1').fetchone()
        assert row[0] == pytest.approx((time.time() / 86400 + 40587 + 37 / 86400 - MIDPOINT[1] - 1e-4) * 86400, abs=600)
        connection.execute('UPDATE "AlertOutbox" SET "topicCount" = 19 WHERE visit = 1')  # one alert is not there
        connection.execute(
            'UPDATE "AlertOutbox" SET "topicXor" = "topicXor" # 5 WHERE visit = 3'
        )  # one lost, one twice
        found = outbox.discrepancies(connection, target.topic)
    assert [(d["visit"], d["nAlerts"], d["nInTopic"]) for d in found] == [(1, 20, 19), (3, 20, 20)]
    metrics = render_metrics(database, target.topic).decode()
    assert "alertprod_alert_visits_discrepant 2.0" in metrics
    assert "alertprod_relay_leads 0.0" in metrics
    assert 'alertprod_alert_latency_seconds{quantile="0.5"}' in metrics
    again = Reconciler(database, target)  # goes on where the last one stood
    assert again.step(2.0) == 0
    again.close()
    reconciler.close()
    code, out, err = alertprod(settings, "check", "--json")
    assert (code, len(json.loads(out))) == (1, 2), err


def test_orphaned_files_are_swept_and_no_others(database, tmp_path):
    archive = AlertArchive(tmp_path)
    fill(database, tmp_path, [1, 2], 3)
    for visit, attempt in ((1, 2), (1, 3), (2, 2), (3, 1), (3, 2)):
        archive.write(visit, 0, attempt, iter([]))
    (tmp_path / "0" / "3_0_1.avro.part").touch()
    with database.connect() as connection:
        for visit, state, attempt in ((1, "done", 3), (2, "running", 2), (3, "failed", 1), (4, "queued", 0)):
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, '
                "\"updatedAt\") VALUES (%s, 0, 'simcam', '{}', 'x', %s, %s, now() - interval '2 hours')",
                (visit, state, attempt),
            )
    assert sweep_orphans(database, archive, older_than_s=3 * 3600) == 0  # too young
    assert sweep_orphans(database, archive) == 4
    left = sorted(p.name for p in (tmp_path / "0").iterdir())
    assert left == ["1_0_1.avro", "2_0_1.avro", "2_0_2.avro", "3_0_2.avro"]  # what runs now, and what nobody knows of


def test_a_broken_file_is_held_and_the_others_go_on(database, kafka, tmp_path):
    target = KafkaTarget(kafka.brokers, f"alerts-{uuid4().hex[:8]}", transactional_id=uuid4().hex)
    ensure_topics(target)
    fill(database, tmp_path, [1, 2, 3], 40)
    path = tmp_path / "0" / "2_0_1.avro"
    good = path.read_bytes()
    path.write_bytes(good[:-2000] + bytes(2000))
    relay = Relay(database, AlertArchive(tmp_path), target)
    deadline = time.monotonic() + 60
    sent = 0
    while sent < 80:
        assert time.monotonic() < deadline
        try:
            sent += relay.step()
        except BrokerUnavailable:
            continue
        sent = database_sum(database)
    with database.connect() as connection:
        reason = connection.execute('SELECT "heldReason" FROM "AlertOutbox" WHERE visit = 2').fetchone()[0]
        assert "differs from what was written at alert" in reason
        path.write_bytes(good)  # restored from a backup
        from apdb.queue.holds import release_held

        assert release_held(connection, 2, 0) == 40
    while database_sum(database) < 120:
        assert time.monotonic() < deadline
        patient(relay)
    relay.close()
    ids = sorted(a.packet["diaSourceId"] for a in read_alerts(target.brokers, target.topic, 120))
    assert ids == [v * 1000 + k for v in (1, 2, 3) for k in range(40)]


def database_sum(database):
    with database.connect() as connection:
        return (
            connection.execute('SELECT sum(count) FROM "AlertOutbox" WHERE "publishedAt" IS NOT NULL').fetchone()[0]
            or 0
        )


def test_oversized_packets_are_trimmed_and_say_so(database, kafka, tmp_path):
    from confluent_kafka.admin import AdminClient, NewTopic

    target = KafkaTarget(kafka.brokers, f"alerts-{uuid4().hex[:8]}", transactional_id=uuid4().hex)
    admin = AdminClient(target.settings())
    for future in admin.create_topics([NewTopic(target.topic, 1, 1, config={"max.message.bytes": "150000"})]).values():
        future.result()
    ensure_topics(target)
    row = pd.Series({"diaSourceId": 7, "diaObjectId": 3, "visit": 5, "snr": 3.0, "midpointMjdTai": 61000.0})
    archive = AlertArchive(tmp_path)
    big = alert_of(row)
    packet = decode_body(big.body)
    packet["prvDiaForcedSources"] = packet["prvDiaForcedSources"] * 1000
    big = Alert(7, 3, encode_body(packet))
    file = archive.write(5, 0, 1, [alert_of(row), big])
    assert len(big.body) > 150_000 > len(alert_of(row).body)
    with database.connect() as connection:
        outbox.add(connection, outbox.OutboxEntry(5, 0, 1, file.name, 2, file.checksum, index=file.index))
    relay = Relay(database, archive, target)
    assert patient(relay) == 2
    relay.close()
    whole, trimmed = read_alerts(target.brokers, target.topic, 2)
    assert "trimmed" not in whole.headers
    want, steps = trim(big.body, 150_000 - 1024)
    assert trimmed.headers["trimmed"] == steps
    assert trimmed.packet == decode_body(want)


def test_a_small_topic_gets_batches_of_its_size_and_no_packet_that_cannot_be_cropped_stands_in_the_way(
    database, kafka, tmp_path
):
    topic = f"alerts-{uuid4().hex[:8]}"
    target = KafkaTarget(kafka.brokers, topic, transactional_id=f"relay-{topic}")
    ensure_topics(target, 1, largest=100_000)
    noise = np.random.default_rng(1)
    sizes = [30_000] * 9 + [200_000]  # bytes of a cutout that is no FITS, and does not compress
    packets = [{**PACKET, "diaSourceId": k, "cutoutScience": noise.bytes(size)} for k, size in enumerate(sizes)]
    file = AlertArchive(tmp_path).write(5, 0, 1, [Alert(p["diaSourceId"], 1, encode_body(p)) for p in packets])
    with database.connect() as connection:
        outbox.add(connection, outbox.OutboxEntry(5, 0, 1, file.name, len(sizes), file.checksum, index=file.index))
    relay = Relay(database, AlertArchive(tmp_path), target)
    try:
        assert patient(relay) == len(sizes)
    finally:
        relay.close()
    *whole, trimmed = read_alerts(target.brokers, target.topic, len(sizes))
    assert [len(a.packet["cutoutScience"]) for a in whole] == sizes[:-1]
    assert trimmed.headers["trimmed"].endswith("cutoutScience")


class FakeRegistry:
    """Answers of a registry, played by httpx's own transport: stands in for what a real one says when it refuses."""

    def __init__(self, replies):
        self.replies, self.asked = replies, []

    def __call__(self, request):
        import httpx

        self.asked.append((request.method, request.url.path))
        status, body = self.replies[request.url.path]
        return httpx.Response(status, json=body)


def test_the_registry_decides_at_the_start(database):
    import httpx

    def registry(replies):
        found = SchemaRegistry("http://user:secret@registry:8081/api")
        fake = FakeRegistry(replies)
        found._client = httpx.Client(transport=httpx.MockTransport(fake))
        return found, fake

    subject = "/api/subjects/alert-packet"
    check = "/api/compatibility/subjects/alert-packet/versions/latest"
    one, fake = registry(
        {subject: (404, {}), check: (200, {"is_compatible": True}), f"{subject}/versions": (200, {"id": 7})}
    )
    assert one.name == "http://registry:8081/api"  # no password
    with database.connect() as connection:
        down, _ = registry({subject: (503, {})})
        with pytest.raises(Exception, match="HTTP 503"):
            learn_wire_id(connection, down, "alert-packet")  # never asked before
        assert learn_wire_id(connection, one, "alert-packet") == 7
        assert [path for _, path in fake.asked] == [subject, check, f"{subject}/versions"]
        assert learn_wire_id(connection, down, "alert-packet") == 7  # remembered
        imported, fake = registry({subject: (200, {"id": 1101})})
        assert learn_wire_id(connection, imported, "alert-packet") == 1101
        refused, _ = registry({subject: (404, {}), check: (200, {"is_compatible": False, "messages": ["field gone"]})})
        with pytest.raises(SchemaRefused, match="incompatible with subject alert-packet: field gone"):
            learn_wire_id(connection, refused, "alert-packet")
        with pytest.raises(SchemaRefused, match="HTTP 403"):
            learn_wire_id(connection, registry({subject: (403, {})})[0], "alert-packet")
