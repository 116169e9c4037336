"""The drill of docs/backup.md: base backup under load, the end of the server, restore of base and WAL; all three agree."""

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from uuid import uuid4

import psycopg
import pytest

from alerts import AlertArchive
from alerts.delivery.reconcile import Reconciler
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from apdb import Database, Ledger, VisitState
from apdb.operate.embedded import EmbeddedPostgres
from apdb.queue.ledger import Outcome, finish
from migrations.run import migrate
from service.local.campaign import consume_alerts
from tests.support.outbox_rows import fill, patient

VISITS = int(os.environ.get("ALERTPROD_DRILL_VISITS", "12"))
PER_VISIT = 5


def enter(database, archive, visits):
    """Let visits come in, and be done with their alerts in the outbox."""
    ledger = Ledger(database)
    for visit in visits:
        ledger.submit({"instrument": "cam", "science": f"/{visit}.fits"}, visit, 0)
        claim = ledger.claim("drill", 600.0, 0.0)
        fill(database, archive, [claim.visit], PER_VISIT)
        with database.connect() as connection:
            finish(connection, claim.visit, 0, claim.attempt, Outcome(VisitState.DONE, {"alerts": PER_VISIT}, {}))


def publish(database, archive, target):
    """Let a relay publish all that waits, as many visits at a time as it takes; returns the number of alerts."""
    relay = Relay(database, AlertArchive(archive), target)
    try:
        total = sent = patient(relay)
        while sent:
            sent = relay.step()
            total += sent
        return total
    finally:
        relay.close()


def count_topic(database, target):
    """Let the reconciler read the topic to its end."""
    reconciler = Reconciler(database, target)
    deadline = time.monotonic() + 60
    while not caught_up(database, target.topic):
        assert time.monotonic() < deadline
        reconciler.step(0.5)
    reconciler.close()


def caught_up(database, topic):
    with database.session() as connection:
        rows = connection.execute(
            'SELECT bool_and("caughtUpAt" IS NOT NULL) FROM "AlertTopicOffset" WHERE topic = %s', (topic,)
        )
        return bool(rows.fetchone()[0])


def end_segment(database, wal):
    """Close the segment of WAL that is written now, and wait until it is in the archive."""
    with database.connect() as connection:
        (name,) = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()
    deadline = time.monotonic() + 30
    while not (wal / name).exists():
        assert time.monotonic() < deadline, f"{name} is not archived"
        time.sleep(0.05)


@pytest.fixture
def place(server_dir):
    """A folder that the server's own user may write in."""
    folder = server_dir / f"restore-{uuid4().hex[:8]}"
    for name in ("wal", "backup"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def base_backup(server, folder):
    subprocess.run(
        [server._binaries / "pg_basebackup", "-d", server.uri, "-D", folder / "base", "-X", "stream", "-c", "fast"],
        check=True, timeout=120, user=server._user.pw_uid if server._user else None, cwd=folder,
    )  # fmt: skip


def restored(place, wal):
    """A server made of the base backup, which replays what is in the archive of WAL."""
    (place / "second").mkdir()
    shutil.move(place / "backup" / "base", place / "second" / "data")
    (place / "second" / "data" / "recovery.signal").touch()
    return EmbeddedPostgres(place / "second", settings={"restore_command": f"'cp {wal}/%f %p'"})


def wait_recovered(uri):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with psycopg.connect(uri) as connection:
            if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                return
        time.sleep(0.1)
    pytest.fail("the server still recovers")


def test_base_and_wal_bring_back_what_the_topic_has(place, kafka, tmp_path):
    wal, archive = place / "wal", tmp_path / "alerts"
    topic = f"alerts-{uuid4().hex[:8]}"
    target = KafkaTarget(kafka.brokers, topic, transactional_id=f"relay-{topic}")
    ensure_topics(target)
    settings = {
        "wal_level": "replica",
        "archive_mode": "on",
        "archive_command": f"'test ! -f {wal}/%f && cp %p {wal}/%f'",
    }
    quarter = VISITS // 4
    before, during, after, waiting = (range(k * quarter, (k + 1) * quarter) for k in range(4))
    gap = range(1000, 1002)  # published, and their WAL is gone with the machine
    first = EmbeddedPostgres(place / "first", settings=settings)
    migrate(first.start())
    try:
        database = Database(first.uri)
        enter(database, archive, before)
        publish(database, archive, target)
        load = threading.Thread(target=enter, args=(database, archive, during))
        load.start()
        base_backup(first, place / "backup")
        load.join()
        enter(database, archive, after)
        publish(database, archive, target)
        enter(database, archive, waiting)
        end_segment(database, wal)
        enter(database, archive, gap)
        published = publish(database, archive, target)
        assert published == PER_VISIT * (len(waiting) + len(gap))
    finally:
        first.stop(immediate=True)
    with restored(place, wal) as second:
        wait_recovered(second.uri)
        database = Database(second.uri)
        states = {r["visit"]: r["state"] for r in Ledger(database).rows(limit=10_000)}
        assert states == dict.fromkeys(
            range(VISITS), "done"
        )  # what was accepted before the last segment's end is there
        count_topic(database, target)
        again = publish(database, archive, target)
        assert again == 0  # what was published after that is known from the topic
        enter(database, archive, [2000])
        assert publish(database, archive, target) == PER_VISIT
        with database.session() as connection:
            left = connection.execute('SELECT count(*) FROM "AlertOutbox" WHERE "publishedAt" IS NULL').fetchone()
        assert left == (0,)
    total = PER_VISIT * (VISITS + len(gap) + 1)
    counts = Counter(a["diaSourceId"] for a in consume_alerts(kafka.brokers, topic, total))
    want = [v * 1000 + k for v in (*range(VISITS), *gap, 2000) for k in range(PER_VISIT)]
    assert counts == dict.fromkeys(want, 1)  # none is lost, none is doubled
