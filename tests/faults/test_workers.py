"""Visits that harm their workers harm no others: leases, sessions, attempts, memory, signals. Jobs without pixels."""

import os
import signal
import subprocess
import threading
import time

import numpy as np
import psycopg
import pytest

from apdb import LeaseLost, Ledger
from apdb.queue.changes import cancel_visit
from apdb.queue.claims import Patience, note_session
from apdb.queue.entries import Entry
from apdb.sky.locks import sky_locks
from service.settings import Settings
from service.workers import supervisor
from service.workers.gate import Gate
from tasks.waiting import wait_until
from tests.support.fault_job import PIXELS
from tests.support.fault_worker import ROOT, FaultJob, start, submit

KILLS = int(os.environ.get("ALERTPROD_KILLS", "3"))


def settings(database, folder, **more):
    values = {"workers": 1, "lease_s": 2.0, "retry_s": 0.05, "attempts": 3, "order_wait_s": 0.0, "poll_s": 0.05, **more}
    return Settings(
        database_uri=database.uri, archive_dir=str(folder), upload_dir=folder, template_dir=folder, **values
    )


@pytest.fixture
def in_process(database, tmp_path, monkeypatch):
    """Run a worker of this process until the queue is empty; returns the rows by visit."""
    monkeypatch.setattr(supervisor, "JobProcess", FaultJob)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(**more):
        supervisor.Worker(settings(database, tmp_path, **more)).run(until_idle=True)
        return {row["visit"]: row for row in Ledger(database).rows()}

    return run


def outbox(database):
    with database.session() as connection:
        return sorted(v for (v,) in connection.execute('SELECT visit FROM "AlertOutbox"').fetchall())


def test_a_job_that_dies_fails_its_visit_after_the_attempts_and_others_go_on(database, in_process):
    ledger = Ledger(database)
    for visit, what in enumerate(["segv", "done", "kill", "done", "memory", "done"], start=1):
        submit(ledger, visit, what)
    rows = in_process(attempts=2)
    assert {v: r["state"] for v, r in rows.items()} == dict(zip(range(1, 7), ["failed", "done"] * 3, strict=True))
    assert {v: (r["errorCode"], r["failures"]) for v, r in rows.items() if v % 2} == {
        1: ("job_crashed", 2), 3: ("job_crashed", 2), 5: ("out_of_memory", 2),
    }  # fmt: skip
    assert "-11" in rows[1]["errorText"]
    assert outbox(database) == [2, 4, 6]


def test_leases_that_run_out_are_failures_and_the_last_one_fails_the_visit(database):
    ledger, patience = Ledger(database), Patience(attempts=2, retry_s=0.0)
    submit(ledger, 1, "done")
    first = ledger.claim("dead", 0.0, 0, patience)
    second = ledger.claim("dead too", 0.0, 0, patience)
    assert (second.attempt, second.failures, second.last_error) == (first.attempt + 1, 1, "worker_lost")
    assert ledger.claim("alive", 60.0, 0, patience) is None
    row = ledger.get(1, 1)
    assert (row["state"], row["failures"], row["errorCode"]) == ("failed", 2, "worker_lost")
    assert row["finishedAt"] is not None
    assert "visit 1, detector 1" in row["errorText"]
    with pytest.raises(LeaseLost):
        ledger.renew(second, 60.0)


def test_a_lost_visit_waits_while_others_have_their_turn(database):
    ledger, patience = Ledger(database), Patience(attempts=9, retry_s=60.0)
    for visit in (1, 2):
        submit(ledger, visit, "done", midpointMjdTai=61000.0 + visit)
    assert ledger.claim("dead", 0.0, 0, patience).visit == 1
    assert ledger.claim("alive", 60.0, 0, patience).visit == 2
    assert [patience.pause_s(n) for n in (0, 1, 2, 99)] == [60.0, 120.0, 240.0, 600.0]


def test_a_session_that_hangs_under_a_lease_loses_its_locks_with_it(database):
    """It holds the sky and, in an open transaction, the row of the ledger: nobody waits for either."""
    ledger, patience = Ledger(database), Patience(attempts=3, retry_s=0.0)
    submit(ledger, 1, "done")
    claim = ledger.claim("hangs", 0.3, 0, patience)
    with database.connect() as hung, database.connect() as other:
        note_session(hung, claim.visit, claim.detector, claim.attempt)
        with pytest.raises(psycopg.OperationalError), sky_locks(hung, PIXELS):
            hung.execute("BEGIN")
            hung.execute('UPDATE "VisitLedger" SET "updatedAt" = now()')
            begun = time.monotonic()
            with pytest.raises(psycopg.errors.LockNotAvailable), sky_locks(other, PIXELS, timeout_s=0.1):
                pass
            assert wait_until(lambda: (ledger.claim("next", 60.0, 0, patience) or claim).attempt == 2, 10.0)
            with sky_locks(other, PIXELS, timeout_s=5.0):
                pass
            assert time.monotonic() - begun < 5.0
            hung.execute("COMMIT")
    assert ledger.get(1, 1)["failures"] == 1


def test_a_stopped_worker_loses_visit_and_sky_to_another_and_does_no_harm_when_it_wakes(database, tmp_path):
    ledger = Ledger(database)
    submit(ledger, 1, "hang")
    hung = start(settings(database, tmp_path))
    query = (
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE "
    )
    query += "datname = current_database())"

    def locked():
        with database.session() as connection:
            return connection.execute(query).fetchone()[0] > 0

    try:
        assert wait_until(locked, 30.0)
        submit(ledger, 2, "done")
        alive = start(settings(database, tmp_path, workers=2), DRAIN="1")
        assert alive.wait(60) == 0
        assert {r["visit"]: (r["state"], r["failures"]) for r in ledger.rows()} == {1: ("done", 1), 2: ("done", 0)}
    finally:
        os.killpg(hung.pid, signal.SIGCONT)
        hung.terminate()
    assert hung.wait(60) == 0
    assert {r["visit"]: (r["state"], r["failures"]) for r in ledger.rows()} == {1: ("done", 1), 2: ("done", 0)}
    assert outbox(database) == [1, 2]


def test_a_visit_that_kills_its_worker_is_given_up_and_the_others_are_done(database, tmp_path):
    ledger = Ledger(database)
    submit(ledger, 1, "parent", priority=100)
    for visit in (2, 3):
        submit(ledger, visit, "done")
    one = settings(database, tmp_path, lease_s=0.5, retry_s=0.01, attempts=2)
    ends = []
    while {r["state"] for r in ledger.rows()} & {"queued", "running"}:
        assert len(ends) < 6
        ends.append(start(one, DRAIN="1").wait(60))
    assert ends.count(-signal.SIGKILL) == 2
    assert {r["visit"]: r["state"] for r in ledger.rows()} == {1: "failed", 2: "done", 3: "done"}


def test_a_worker_killed_between_claim_and_job_leaves_its_visit_to_the_next(database, tmp_path):
    ledger = Ledger(database)
    submit(ledger, 1, "done")
    one = settings(database, tmp_path, lease_s=0.5)
    assert start(one, ALERTPROD_CRASH_POINT="claimed").wait(30) == -signal.SIGKILL
    assert ledger.get(1, 1)["state"] == "running"
    assert start(one, DRAIN="1").wait(30) == 0
    assert (ledger.get(1, 1)["state"], ledger.get(1, 1)["failures"]) == ("done", 1)


def test_who_waits_for_another_is_not_failed_for_it(database, in_process):
    ledger = Ledger(database)
    submit(ledger, 1, "wait")
    worker = threading.Thread(target=in_process)
    worker.start()
    assert wait_until(lambda: ledger.get(1, 1)["attempt"] > 4, 30.0)
    row = ledger.get(1, 1)
    assert (row["failures"], row["errorCode"]) == (0, "sky_busy")
    assert row["state"] in ("queued", "running")
    with database.session() as connection:
        connection.execute("""UPDATE "VisitLedger" SET message = jsonb_set(message, '{science}', '"done"')""")
    worker.join(30)
    assert ledger.get(1, 1)["state"] == "done"


@pytest.mark.parametrize("signals", [1, 2])
def test_sigterm_to_the_whole_group_is_no_failure(database, tmp_path, signals):
    """One lets the visit end; a second, as the end of the time to drain, gives it back at once."""
    ledger = Ledger(database)
    submit(ledger, 1, "sleep:1.5" if signals == 1 else "sleep:60")
    worker = start(settings(database, tmp_path))
    assert wait_until(lambda: ledger.get(1, 1)["state"] == "running", 30.0)
    begun = time.monotonic()
    os.killpg(worker.pid, signal.SIGTERM)
    if signals == 2:  # two that come at the same instant are one
        assert not wait_until(lambda: worker.poll() is not None, 0.5)
        os.killpg(worker.pid, signal.SIGTERM)
    assert worker.wait(30) == 0
    assert time.monotonic() - begun < 15.0
    row = ledger.get(1, 1)
    assert row["failures"] == 0
    assert (row["state"], row["errorCode"]) == (("done", None) if signals == 1 else ("queued", "worker_stopped"))


def test_the_time_to_drain_ends(database, tmp_path):
    ledger = Ledger(database)
    submit(ledger, 1, "sleep:60")
    worker = start(settings(database, tmp_path, drain_s=0.2))
    assert wait_until(lambda: ledger.get(1, 1)["state"] == "running", 30.0)
    worker.terminate()
    assert worker.wait(20) == 0
    assert (ledger.get(1, 1)["state"], ledger.get(1, 1)["failures"]) == ("queued", 0)


def test_who_is_to_be_alone_is_alone():
    gate, inside, worst = Gate(), [], []

    def visit(alone):
        with gate.inside(alone) as entered:
            assert entered
            inside.append(alone)
            worst.append(len(inside) if any(inside) else 0)
            time.sleep(0.002)
            inside.remove(alone)

    threads = [threading.Thread(target=visit, args=(k % 4 == 0,)) for k in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(worst) == 1
    assert gate.open()
    with gate.inside(True), gate.inside(False, lambda: True) as entered:
        assert not entered
        assert not gate.open()


def jobs_of(worker):
    found = subprocess.run(["pgrep", "-P", str(worker.pid)], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in found.split()]


@pytest.mark.timeout(3000)
def test_kills_at_random_lose_and_double_nothing(database, tmp_path, record_property):
    """A worker, or one of its jobs, is killed again and again; every visit is done once."""
    ledger, rng = Ledger(database), np.random.default_rng(5)
    one = settings(database, tmp_path, workers=2, lease_s=0.5, retry_s=0.0, attempts=100_000)
    last, worker = 0, None
    for kill in range(KILLS):
        for _ in range(4):
            last += 1
            submit(ledger, last, f"sleep:{rng.uniform(0, 0.1):.3f}")
        worker = worker or start(one)
        begun = ledger.counts()["done"]
        assert wait_until(lambda begun=begun: ledger.counts()["done"] > begun, 60.0, 0.02)
        time.sleep(float(rng.uniform(0, 0.3)))
        if kill % 4 == 0:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)
            worker = None
        elif jobs := jobs_of(worker):
            os.kill(jobs[rng.integers(len(jobs))], signal.SIGKILL)
    if worker is not None:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait(10)
    done = start(one, DRAIN="1")
    assert done.wait(120) == 0
    assert {state: n for state, n in ledger.counts().items() if n} == {"done": last}
    assert outbox(database) == list(range(1, last + 1))
    record_property("kills", KILLS)
    record_property("visits", last)
    record_property("attempts", sum(r["attempt"] for r in ledger.rows(limit=100_000)))


def test_a_visit_whose_image_is_late_is_done_when_it_comes(database, tmp_path):
    """A worker looks for it; what may not be read any more is late in the end, and holds up nobody."""
    ledger = Ledger(database)
    for visit, path in ((1, "/nowhere/x.fits"), (2, str(tmp_path / "x.fits"))):
        message = {"instrument": "none", "science": path, "visit": visit, "detector": visit}
        ledger.enter(Entry(message, visit, visit, wait_s=600.0))
    worker = start(settings(database, tmp_path))
    try:
        assert not wait_until(lambda: ledger.get(2, 2)["state"] != "waiting", 1.5)
        (tmp_path / "x.fits").write_bytes(b"SIMPLE")
        assert wait_until(lambda: ledger.get(2, 2)["state"] == "done", 30.0)
        with database.session() as connection:
            connection.execute('UPDATE "VisitLedger" SET "waitUntil" = now() WHERE visit = 1')
        assert wait_until(lambda: ledger.get(1, 1)["errorCode"] == "image_late", 30.0)
    finally:
        worker.terminate()
    assert worker.wait(60) == 0


def test_a_target_of_opportunity_waits_for_one_visit_of_each_worker_at_most(database, tmp_path):
    ledger = Ledger(database)
    for visit in range(1, 13):
        submit(ledger, visit, "sleep:0.2", midpointMjdTai=61000.0 + visit)
    one = settings(database, tmp_path, order_wait_s=100.0, workers=2)
    worker = start(one)
    try:
        assert wait_until(lambda: ledger.counts()["done"] >= 2, 30.0)
        begun = {r["visit"] for r in ledger.rows() if r["state"] != "queued"}
        submit(ledger, 100, "done", midpointMjdTai=61000.0, priority=50)
        assert wait_until(lambda: ledger.get(100, 100)["state"] == "done", 30.0)
        with database.session() as connection:
            order = connection.execute(
                "SELECT visit FROM \"VisitEvent\" WHERE state = 'running' AND attempt = 1 ORDER BY id"
            ).fetchall()
    finally:
        worker.terminate()
    assert worker.wait(60) == 0
    between = [v for (v,) in order[: order.index((100,))] if v not in begun]
    assert len(between) <= 2  # one that each of the two workers took while the message was on its way


def test_a_cancelled_visit_leaves_its_worker_to_the_others(database, tmp_path):
    ledger = Ledger(database)
    submit(ledger, 1, "sleep:60")
    submit(ledger, 2, "done")
    worker = start(settings(database, tmp_path, lease_s=0.6))
    try:
        assert wait_until(lambda: ledger.get(1, 1)["state"] == "running", 30.0)
        cancel_visit(database, 1, 1)
        assert wait_until(lambda: ledger.get(2, 2)["state"] == "done", 30.0)
        assert (ledger.get(1, 1)["state"], ledger.get(1, 1)["failures"]) == ("cancelled", 0)
    finally:
        worker.terminate()
    assert worker.wait(60) == 0
    assert outbox(database) == [2]
