"""PostgreSQL killed during stores: after every restart each visit is whole or absent, and nothing acknowledged is lost."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest
from astropy.time import Time

from apdb import DatabaseUnavailable, PostgresApdb
from apdb.operate.embedded import EmbeddedPostgres, find_binaries
from tests.support.apdb_rows import rows

KILLS = int(os.environ.get("ALERTPROD_KILLS", "5"))
_CHECK = (
    'SELECT v, (SELECT count(*) FROM "StoreLedger" WHERE visit = v), '
    '(SELECT count(*) FROM "DiaSource" WHERE visit = v), '
    '(SELECT sum("psfFlux"::float8) FROM "DiaSource" WHERE visit = v), '
    '(SELECT count(*) FROM "DiaForcedSource" WHERE visit = v), '
    '(SELECT sum("psfFlux"::float8) FROM "DiaForcedSource" WHERE visit = v), '
    '(SELECT count(*) FROM "DiaObject" WHERE "validityStartMjdTai" = 61000 + v) FROM generate_series(1, %s) v'
)


def visit_frames(number):
    o, s, f = rows(80, seed=number, visit=number)
    return o.assign(nDiaSources=number), s, f


def expected(number):
    o, s, f = visit_frames(number)
    return (1, len(s), s.psfFlux.astype(float).sum(), len(f), f.psfFlux.astype(float).sum(), len(o))


class _Writer(threading.Thread):
    """Stores one visit after the other; what fails is stored again until the database has taken it."""

    def __init__(self, uri):
        super().__init__(daemon=True)
        self.client = PostgresApdb(uri)
        self.acknowledged, self.failures, self.stop = 0, 0, threading.Event()
        self.error = None

    def run(self):
        try:
            while not self.stop.is_set():
                number = self.acknowledged + 1
                frames = visit_frames(number)
                while True:
                    try:
                        self.client.store(Time(61000.0 + number, format="mjd", scale="tai"), *frames)
                        break
                    except DatabaseUnavailable:
                        self.failures += 1
                        time.sleep(0.05)
                self.acknowledged = number
        except Exception as error:
            self.error = error
        finally:
            self.client.close()


def check(uri, acknowledged, last):
    """Compare every visit with the model, in one snapshot."""
    with psycopg.connect(uri) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for number, *found in connection.execute(_CHECK, (last + 3,)):
            if found[0] == 0:
                assert number > acknowledged, f"visit {number} was acknowledged and is gone"
                assert found[1:] == [0, None, 0, None, 0], f"visit {number} is there in part: {found}"
            else:
                want = expected(number)
                assert found[:2] + found[3:4] + found[5:] == [want[0], want[1], want[3], want[5]]
                np.testing.assert_allclose([found[2], found[4]], [want[2], want[4]], rtol=1e-6)


def _open_transaction(uri):
    """Wait for a store that has written something; returns the process id of its backend."""
    query = "SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()"
    with psycopg.connect(uri, autocommit=True) as connection:
        deadline = time.monotonic() + 30
        while (row := connection.execute(query).fetchone()) is None:
            assert time.monotonic() < deadline
    return row[0]


def kill(server, hard, aimed):
    """Stop at once: SIGKILL to the postmaster and all of its children, or SIGQUIT (immediate) to all."""
    data = server.directory / "data"
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    found = subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=False).stdout
    children = {int(child) for child in found.split()}
    if aimed:
        children.add(_open_transaction(server.uri))
    for pid in (postmaster, *children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if hard else signal.SIGQUIT)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{p}").exists() and "Z" not in _state(p) for p in (postmaster, *children)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _state(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


@pytest.mark.timeout(1800)
def test_killed_again_and_again(tmp_path):
    rng = np.random.default_rng(12)
    folder = Path(tempfile.mkdtemp(prefix="alertprod-kills-"))
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "postgres", settings={"checkpoint_timeout": "30s"}) as server:
        PostgresApdb.init_database(server.uri)
        writer = _Writer(server.uri)
        writer.start()
        for k in range(KILLS):
            begun = writer.acknowledged
            while writer.acknowledged < begun + 2:
                assert writer.error is None
                assert writer.is_alive()
                time.sleep(0.01)
            time.sleep(float(rng.uniform(0, 0.3)))
            kill(server, hard=k % 2 == 0, aimed=k % 3 != 2)
            acknowledged = writer.acknowledged
            server.start()
            check(server.uri, acknowledged, writer.acknowledged)
        writer.stop.set()
        writer.join(60)
        assert writer.error is None
        assert writer.failures >= 1  # some kills fell into a transaction
        check(server.uri, writer.acknowledged, writer.acknowledged)
        binary = find_binaries() / "pg_amcheck"
        if binary.exists():
            done = subprocess.run(
                [str(binary), "--install-missing", "--heapallindexed", "-h", "127.0.0.1", "-p", str(server.port), "-U",
                 "alertprod", "alertprod"], capture_output=True, text=True,
                timeout=600, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
        print(
            f"{writer.acknowledged} visits, {KILLS} kills, {writer.failures} failed attempts, pg_amcheck {binary.exists()}"
        )
