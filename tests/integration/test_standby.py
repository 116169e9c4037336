"""A database that takes no writes, as after a failover: nothing is lost, nobody gives up, what is stored can be read."""

import threading
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy as sa

from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget
from apdb import Database, Ledger
from apdb.errors import DatabaseUnavailable
from apdb.visit.unit_of_work import VisitUnitOfWork
from service.access.tokens import make_token
from service.doctor.database import database_findings
from service.settings import Settings
from service.workers import supervisor
from tasks.waiting import wait_until
from tests.support.fault_worker import ROOT, FaultJob, submit
from tests.support.serving import serving


@contextmanager
def standby(database):
    """Let every session be read only; after it, let them write again. Sessions that are there are ended."""
    with psycopg.connect(database.uri, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone()

        def let(read_only):
            connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {read_only}")
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
                (name,),
            )

        let("on")
        yield
        let("off")


def test_what_is_stored_can_be_read_and_changes_are_told_to_come_again(database, tmp_path):
    _, token = make_token(database, "ann", ["admin"], 1.0, "test")
    submit(Ledger(database), 1, "done")
    with serving(database, tmp_path, access="tokens") as client:
        client.headers["Authorization"] = f"Bearer {token}"
        with standby(database):
            assert wait_until(
                lambda: client.get("/v1/visits/1/1").status_code == 200, 10.0
            )  # sessions end in their time
            assert "degraded: the database takes no writes" in client.get("/readyz").text
            sent = {"ra": 1.0, "dec": 2.0, "radiusDeg": 0.1, "band": "r"}
            changes = [client.post(f"/v1/visits/1/1/{what}") for what in ("cancel", "retry")]
            changes += [client.post("/v1/next-visits", json=sent), client.post("/v1/session")]
            assert {(r.status_code, r.json()["code"], r.headers["Retry-After"]) for r in changes} == {
                (503, "database_unavailable", "5")
            }
        assert wait_until(lambda: client.post("/v1/visits/1/1/cancel").status_code == 200, 10.0)
        assert wait_until(lambda: client.get("/readyz").text == "ready\n", 10.0)


def test_a_worker_waits_for_a_database_that_takes_writes(database, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "JobProcess", FaultJob)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    submit(Ledger(database), 1, "done")
    settings = Settings(database_uri=database.uri, archive_dir=str(tmp_path), upload_dir=tmp_path, workers=1)
    worker = supervisor.Worker(settings)
    tried = threading.Event()
    claim = worker._claim

    def noted(number):
        try:
            return claim(number)
        except DatabaseUnavailable:
            tried.set()
            raise

    monkeypatch.setattr(worker, "_claim", noted)
    running = threading.Thread(target=worker.run)
    with standby(database):
        running.start()
        assert tried.wait(30)
    assert wait_until(lambda: Ledger(database).get(1, 1)["state"] == "done", 30)
    worker.stop()
    running.join(30)
    assert not running.is_alive()


def test_of_several_servers_the_one_that_takes_writes_is_found(database):
    scheme, _, rest = database.uri.partition("://")
    user, at, place = rest.rpartition("@")
    uri = f"{scheme}://{user}{at}127.0.0.1:1,{place}?target_session_attrs=read-write"
    several = Database(uri)
    several.check_schema()
    several.check_writable()
    with several.engine().connect() as connection:  # by which it is migrated
        assert connection.execute(sa.text("SELECT count(*) FROM metadata")).scalar() > 0
    with standby(database), pytest.raises(DatabaseUnavailable, match="read-only"):
        several.check_schema()


def test_relay_association_and_doctor_say_what_it_is(database):
    with standby(database):
        relay = Relay(database, None, KafkaTarget("127.0.0.1:1", "alerts"))
        relay._connected = lambda leader: None
        with pytest.raises(DatabaseUnavailable, match="read-only"):
            relay.step()
        with (
            pytest.raises(DatabaseUnavailable, match="read-only"),
            database.connect() as connection,
            VisitUnitOfWork(connection),
        ):
            connection.execute('DELETE FROM "VisitLease"')
        findings = list(database_findings(Settings(database_uri=database.uri)))
    assert (findings[-1].about, findings[-1].state) == ("writes", "wrong")
    assert "target_session_attrs=read-write" in findings[-1].advice
