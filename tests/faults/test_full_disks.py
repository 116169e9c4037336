"""Disks that fill up under database, broker and archive: a clear error, nothing lost, nothing doubled, on again when there is room.

They are small disks in memory, which only root may mount.
"""

import os
import subprocess
from contextlib import contextmanager, suppress

import psycopg
import pytest

from alerts import AlertArchive
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import ArchiveFull, BrokerUnavailable
from apdb import Database, Ledger
from apdb.operate.embedded import EmbeddedPostgres
from migrations.run import migrate
from service.local.campaign import read_alerts
from service.local.embedded_kafka import EmbeddedKafka
from tasks.waiting import wait_until
from tests.support.ingest import committed, ingesting, message, send, settings_for
from tests.support.outbox_rows import alert_at, fill, patient
from tests.support.serving import serving

LONG = pytest.mark.skipif("ALERTPROD_LONG_FAULTS" not in os.environ, reason="a part of 'make faults'")


@contextmanager
def small_disk(folder, size_mb):
    """Mount a disk of so many megabytes."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0755", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free_bytes(folder):
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


@contextmanager
def full(folder):
    """Leave no room on a disk."""
    with (folder / "other").open("wb", buffering=0) as file, suppress(OSError):
        while room := free_bytes(folder):
            file.write(bytes(min(1 << 20, room)))
    try:
        yield
    finally:
        (folder / "other").unlink()


def test_an_archive_without_room_is_a_failure_that_may_pass_and_leaves_nothing(tmp_path):
    with small_disk(tmp_path / "disk", 1) as disk:
        archive = AlertArchive(disk / "alerts", "null")
        archive.write(1, 0, 1, (alert_at(k) for k in range(3)))
        before = sorted(p.name for p in (disk / "alerts").rglob("*"))
        with full(disk), pytest.raises(ArchiveFull, match=r"0/2_0_1\.avro.*No space") as refused:
            archive.write(2, 0, 1, (alert_at(k, 20_000) for k in range(100)))
        assert refused.value.retriable
        assert sorted(p.name for p in (disk / "alerts").rglob("*")) == before
        assert archive.write(2, 0, 1, (alert_at(k) for k in range(3))).count == 3


def post_until_refused(client, folder):
    """Post batches of visits until the database has no room; returns the visits that were accepted, and the refusal."""
    accepted: set[int] = set()
    for batch in range(200):
        visits = range(1_000_000 + 500 * batch, 1_000_000 + 500 * batch + 500)
        answer = client.post("/v1/visits/batch", json={"visits": [message(folder, v) for v in visits]})
        if answer.status_code != 202:
            return accepted, answer
        accepted |= set(visits)
    raise AssertionError("the disk does not fill up")


def alive(database):
    try:
        with database.session() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS room (a int)")
    except Exception:
        return False
    return True


@LONG
@pytest.mark.timeout(600)
def test_a_database_without_room_takes_nothing_and_goes_on_when_there_is(server_dir, kafka, tmp_path, record_property):
    """Over HTTP 503 with Retry-After, over Kafka the messages wait; what was accepted is there, the rest comes once."""
    with small_disk(server_dir / "full database", 150) as disk:
        server = EmbeddedPostgres(disk / "postgres", settings={"max_wal_size": "32MB", "shared_buffers": "16MB"})
        with server:
            migrate(server.uri)
            database = Database(server.uri)
            with serving(database, tmp_path) as client:
                one = settings_for(server.uri, kafka, tmp_path)
                with ingesting(one):
                    send(one, *(message(tmp_path, v) for v in range(50)))
                    assert wait_until(lambda: len(Ledger(database).rows()) == 50, 60.0)
                    with full(disk):
                        accepted, refused = post_until_refused(client, tmp_path)
                        assert refused.status_code == 503, refused.text
                        assert int(refused.headers["retry-after"]) > 0
                        send(one, *(message(tmp_path, v) for v in range(50, 100)))
                        assert client.get("/healthz").status_code == 200
                    if not wait_until(lambda: alive(database), 10.0):  # it ended where its log had no room
                        with suppress(Exception):
                            server.stop(immediate=True)
                        server.start()
                    assert wait_until(lambda: alive(database), 60.0)
                    wanted = accepted | set(range(100))
                    assert wait_until(lambda: visits_of(server.uri) >= wanted, 120.0), len(visits_of(server.uri))
                assert visits_of(server.uri) == wanted
                assert client.post("/v1/visits", json=message(tmp_path, 7_000_000)).status_code == 202
            offsets, ends = committed(one)
            assert offsets == ends
            with database.session() as connection:
                assert connection.execute('SELECT count(*) FROM "DeadLetter"').fetchone() == (0,)
    record_property("accepted before", len(accepted))
    record_property("answer", f"{refused.status_code} {refused.json()['code']}")


def visits_of(uri):
    with psycopg.connect(uri) as connection:
        return {v for (v,) in connection.execute('SELECT visit FROM "VisitLedger"').fetchall()}


@LONG
@pytest.mark.timeout(600)
def test_a_broker_without_room_gets_the_alerts_when_there_is(database, server_dir, tmp_path, record_property):
    """It ends itself; the outbox keeps the alerts, and each is in the topic once in the end."""
    with small_disk(server_dir / "full broker", 150) as disk:
        kafka = EmbeddedKafka(disk / "kafka", keep=True, properties={"log.segment.bytes": "1048576"})
        try:
            kafka.start()
            target = KafkaTarget(kafka.brokers, "alerts", timeout_s=5.0)
            ensure_topics(target)
            relay = Relay(database, AlertArchive(tmp_path), target)
            fill(database, tmp_path, [1, 2], 100)
            assert patient(relay) == 200
            fill(database, tmp_path, range(3, 9), 60)
            with full(disk), pytest.raises(BrokerUnavailable):
                for _ in range(20):
                    relay.step()
            relay.close()
            ended = wait_until(lambda: kafka._process.poll() is not None, 30.0)
            kafka.stop(now=True)
            kafka.start()
            relay = Relay(database, AlertArchive(tmp_path), KafkaTarget(kafka.brokers, "alerts"))
            assert wait_until(lambda: patient(relay) == 0, 120.0, 0.0)
            relay.close()
            found = sorted(a.packet["diaSourceId"] for a in read_alerts(kafka.brokers, "alerts", 560))
            expected = [v * 1000 + k for v in (1, 2) for k in range(100)]
            expected += [v * 1000 + k for v in range(3, 9) for k in range(60)]
            assert found == expected
            record_property("alerts", len(found))
            record_property("broker ended itself", ended)
        finally:
            kafka.keep = False
            kafka.stop()
