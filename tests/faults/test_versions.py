"""The version before this one works beside this one while the database is migrated: nothing is lost, nothing done twice."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from apdb import Database, Ledger
from migrations.run import migrate
from tasks.waiting import wait_until
from tests.faults.test_workers import outbox, settings
from tests.support.fault_worker import start, submit

ROOT = Path(__file__).parents[2]
PATCH = "SELECT count(*) FROM \"VisitLedger\" WHERE state = 'done'"


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def migrations_of(commit):
    names = git("ls-tree", "--name-only", commit, "migrations/versions/").decode().split()
    return sorted(name for name in names if name.endswith(".py"))


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The sources of the newest commit that lacks migrations of ours."""
    if "ALERTPROD_LONG_FAULTS" not in os.environ:
        pytest.skip("a part of 'make faults'")
    ours = migrations_of("HEAD")
    commits = git("rev-list", "--full-history", "HEAD", "--", "migrations/versions").decode().split()
    # one whose database this one can migrate: beside each other, parts may have taken the same number
    commit = next((c for c in commits if (n := migrations_of(c)) and n != ours and n == ours[: len(n)]), None)
    archive = git("archive", commit) if commit else b""
    if not archive:
        pytest.skip("the history is not here")
    folder = tmp_path_factory.mktemp("before")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive, check=True)
    return folder


class Before:
    """Runs code of the version before."""

    def __init__(self, folder, uri, state):
        keep = {k: v for k, v in os.environ.items() if not k.startswith("ALERTPROD_")}
        own = {
            "DATABASE_URI": uri,
            "WORKERS": "1",
            "LEASE_S": "5",
            "RETRY_S": "0.05",
            "ORDER_WAIT_S": "0",
            "POLL_S": "0.05",
        }
        own |= {f"{name}_DIR": str(state) for name in ("ARCHIVE", "UPLOAD", "TEMPLATE")}
        self.environment = {**keep, **{f"ALERTPROD_{k}": v for k, v in own.items()}, "PYTHONPATH": str(folder)}
        self.folder = folder

    def run(self, code):
        return subprocess.run(
            [sys.executable, "-P", "-c", code], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip

    def worker(self):
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "tests.support.fault_worker"], cwd=self.folder, env=self.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip


def done(uri):
    with psycopg.connect(uri) as connection:
        return connection.execute(PATCH).fetchone()[0]


@pytest.mark.timeout(300)
def test_old_and_new_workers_side_by_side(before, postgres, tmp_path, record_property):
    server, name = postgres.uri.rsplit("/", 1)[0], f"versions{os.getpid()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    uri = f"{server}/{name}"
    old, database = Before(before, uri, tmp_path), Database(uri)
    made = old.run("import os; from migrations.run import migrate; migrate(os.environ['ALERTPROD_DATABASE_URI'])")
    assert made.returncode == 0, made.stderr
    submitting = (
        "import os; from apdb import Database, Ledger; from tests.support.fault_worker import submit\n"
        "for v in range(1, 101): submit(Ledger(Database(os.environ['ALERTPROD_DATABASE_URI'])), v, 'sleep:0.1')"
    )
    entered = old.run(submitting)
    assert entered.returncode == 0, entered.stderr
    worker = old.worker()
    try:
        assert wait_until(lambda: done(uri) >= 5, 60.0)
        begun = time.monotonic()
        migrate(uri)
        record_property("migration", f"{time.monotonic() - begun:.1f} s")
        seen = done(uri)
        assert wait_until(lambda: done(uri) >= seen + 5, 30.0)  # the old one works on
        for visit in range(101, 151):
            submit(Ledger(database), visit, "sleep:0.05")
        new = start(settings(database, tmp_path), DRAIN="1")
        assert new.wait(120) == 0
        assert wait_until(lambda: done(uri) == 150, 60.0)
        assert worker.poll() is None
    finally:
        worker.terminate()
    assert worker.wait(60) == 0
    rows = Ledger(database).rows(limit=1000)
    assert {(r["state"], r["failures"], r["attempt"]) for r in rows} == {("done", 0, 1)}
    assert outbox(database) == list(range(1, 151))
    refused = old.run(
        "import os; from apdb import Database; Database(os.environ['ALERTPROD_DATABASE_URI']).check_schema()"
    )
    assert refused.returncode != 0
    assert "newer program" in refused.stderr
    record_property("visits", len(rows))
