"""A network that is slow, narrow, stands still, is cut or refuses between the service and its database; clocks; full disks."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import httpx
import pytest

from apdb import Database, Ledger
from service.workers import supervisor
from tasks.waiting import wait_until
from tests.faults.test_workers import outbox, settings
from tests.support.asking import asker
from tests.support.fault_worker import ROOT, FaultJob, submit
from tests.support.ingest import committed, ingesting, message, send, settings_for
from tests.support.serving import serving
from tests.support.shared_stack import SharedStack
from tests.support.tcp_proxy import proxied

EACH = int(os.environ.get("ALERTPROD_MESSAGES", "100")) // 5
FAULT_S = float(os.environ.get("ALERTPROD_DATABASE_DOWN_S", "1"))


def slow(proxy):
    proxy.delay_s = 0.25  # there and back: half a second


def narrow(proxy):
    proxy.bytes_per_s = 1000.0


def stalled(proxy):
    proxy.stalled = True


def cut(proxy):
    proxy.cut()


def refused(proxy):
    proxy.refusing = True
    proxy.cut()


FAULTS = (slow, narrow, stalled, cut, refused)


@pytest.mark.timeout(900)
def test_no_message_is_lost_while_the_network_is_bad(database, kafka, tmp_path, record_property):
    """One fault after the other while messages flow through one ingest; each is entered once."""
    wanted = set()
    with proxied(database.uri) as (proxy, uri):
        one = settings_for(uri, kafka, tmp_path)
        with ingesting(one):
            for k, fault in enumerate(FAULTS):
                visits = range(1000 * k, 1000 * k + EACH)
                wanted |= set(visits)
                half = len(visits) // 2
                send(one, *(message(tmp_path, v) for v in visits[:half]))
                fault(proxy)
                send(one, *(message(tmp_path, v) for v in visits[half:]))
                time.sleep(FAULT_S)
                proxy.heal()
            assert wait_until(lambda: {r["visit"] for r in Ledger(database).rows(limit=100_000)} >= wanted, 120.0)
        offsets, ends = committed(one)
    assert offsets == ends
    assert sum(ends) == len(wanted)
    with database.session() as connection:
        assert connection.execute('SELECT count(*) FROM "DeadLetter"').fetchone() == (0,)
        assert connection.execute('SELECT count(*) FROM "VisitEvent"').fetchone() == (len(wanted),)
    record_property("messages", len(wanted))
    record_property("each fault", f"{FAULT_S:.0f} s")


def test_a_network_that_stands_still_keeps_nobody_from_seeing_that_the_service_is_alive(database, tmp_path):
    """Sixty requests wait for the database: more than there are threads."""
    Ledger(database).submit(message(tmp_path, 1), 1, 1)
    with proxied(database.uri) as (proxy, uri), serving(Database(uri), tmp_path) as client:
        assert client.get("/v1/visits/1/1").status_code == 200
        proxy.stalled = True
        waiting = [socket.create_connection(("127.0.0.1", client.base_url.port)) for _ in range(60)]
        for one in waiting:
            one.sendall(b"GET /v1/visits/1/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        for _ in range(5):
            begun = time.monotonic()
            assert client.get("/healthz").text == "ok\n"
            assert time.monotonic() - begun < 1.0
        proxy.heal()
        heads = [one.makefile("rb").read().split(b"\r\n\r\n")[0] for one in waiting]
        for one in waiting:
            one.close()
        assert {h.split()[1] for h in heads} <= {b"200", b"503"}
        assert all(b"\r\nretry-after: " in h for h in heads if h.split()[1] == b"503")
        assert client.get("/v1/visits/1/1").status_code == 200


@pytest.mark.timeout(600)
def test_workers_behind_a_bad_network_do_each_visit_once(database, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "JobProcess", FaultJob)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for visit in range(1, 7):
        submit(Ledger(database), visit, "done")
    with proxied(database.uri) as (proxy, uri):
        proxy.delay_s = 0.05
        worker = supervisor.Worker(settings(Database(uri), tmp_path, workers=2, lease_s=4.0))
        thread = threading.Thread(target=worker.run)
        thread.start()
        assert wait_until(lambda: Ledger(database).counts()["done"] >= 2, 60.0)
        proxy.heal()
        proxy.cut()  # whoever was about to commit does so again, or not at all
        assert wait_until(lambda: Ledger(database).counts()["done"] == 6, 60.0)
        worker.stop()
        thread.join(30)
    assert not thread.is_alive()
    assert outbox(database) == list(range(1, 7))


def test_an_api_that_is_killed_between_commit_and_answer_gives_the_answer_to_the_next_request(database, tmp_path):
    values = {"database_uri": database.uri, "data_roots": [tmp_path]}
    body, key = {"visits": [message(tmp_path, v) for v in range(1, 6)]}, {"Idempotency-Key": "k"}
    with SharedStack(values, roles=()) as stack:
        stack.start("serve", ALERTPROD_CRASH_POINT="accepted")
        assert wait_until(lambda: answers(stack), 60.0)
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"{stack.url}/v1/visits/batch", json=body, headers=key, timeout=30)
        assert stack.processes["serve"].wait(10) == -signal.SIGKILL
        stack.start("serve")
        assert wait_until(lambda: answers(stack), 60.0)
        again = httpx.post(f"{stack.url}/v1/visits/batch", json=body, headers=key, timeout=30)
        assert (again.status_code, again.headers["idempotency-replayed"]) == (202, "true")
        assert [r["new"] for r in again.json()["results"]] == [True] * 5
        without = httpx.post(f"{stack.url}/v1/visits/batch", json=body, timeout=30).json()
        assert [r["new"] for r in without["results"]] == [False] * 5
    with database.session() as connection:
        assert connection.execute('SELECT count(*), count(DISTINCT visit) FROM "VisitEvent"').fetchone() == (5, 5)


def answers(stack):
    try:
        return httpx.get(f"{stack.url}/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def test_a_clock_that_jumps_costs_no_visit_and_no_lease(database, tmp_path, monkeypatch):
    """The clock of the worker's process goes an hour forward and back all the time; that of the database does not."""
    monkeypatch.setattr(supervisor, "JobProcess", FaultJob)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    true, calls = time.time, [0]

    def jumping():
        calls[0] += 1
        return true() + (3600.0, -3600.0)[calls[0] % 2]

    monkeypatch.setattr(time, "time", jumping)
    for visit in range(1, 7):
        submit(Ledger(database), visit, "sleep:0.3")
    supervisor.Worker(settings(database, tmp_path, workers=2, lease_s=0.9)).run(until_idle=True)
    rows = Ledger(database).rows()
    assert {(r["state"], r["failures"], r["attempt"]) for r in rows} == {("done", 0, 1)}
    assert outbox(database) == list(range(1, 7))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_images_in_a_way_that_may_pass_and_takes_them_when_it_is_freed(database, small_disk):
    ask = asker(small_disk, database_uri=database.uri)[0]
    text = json.dumps({"instrument": "simcam", "science": "ignored", "visit": 1, "detector": 1})
    image = b"SIMPLE  =                    T".ljust(600_000, b" ")

    def post():
        return ask("POST", "/v1/visits", data={"message": text}, files={"science": image})

    (small_disk / "other").write_bytes(b"x" * 700_000)
    full = post()
    assert (full.status_code, full.json()["code"]) == (503, "storage_full")
    assert int(full.headers["retry-after"]) > 0
    assert [p.name for p in small_disk.iterdir()] == ["other"]
    assert Ledger(database).rows() == []
    (small_disk / "other").unlink()
    assert post().status_code == 202
    assert Ledger(database).get(1, 1)["state"] == "queued"
