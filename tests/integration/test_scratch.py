"""What a killed owner of servers leaves is cleared away; what lives, or is another's, is left alone."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from apdb.operate.embedded import stop_server
from service.errors import ScratchInUse
from service.local.up import _check_place as check_place
from service.subprocesses.scratch import Scratch, clear, sweep
from tasks.errors import CallerError

OWNER = """
import sys, tempfile, time
from pathlib import Path
tempfile.tempdir, point = sys.argv[1:3]
from service.subprocesses.scratch import Scratch
scratch = Scratch(Path(sys.argv[3]) if len(sys.argv) > 3 else None, point)
with (scratch.path / "role.log").open("wb") as log:
    child = scratch.start("role", ["sleep", "600"], log)
elsewhere = scratch.make_directory(Path(sys.argv[1]), f"beside-{scratch.path.name}-")
print(scratch.path, child.pid, scratch._warden.pid, flush=True)
time.sleep(600)
"""


def owner(folder, *more):
    """Start an owner of a child and of a directory elsewhere."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), "", *map(str, more)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    path, child, warden = process.stdout.readline().rsplit(maxsplit=2)
    return process, Path(path), int(child), int(warden)


def end(process):
    process.kill()
    process.wait(10)
    process.stdout.close()


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_warden_clears_what_a_killed_owner_leaves(tmp_path):
    process, path, child, warden = owner(tmp_path)
    assert path.is_dir() and lives(child)
    end(process)
    until(lambda: not path.exists() and not lives(child) and not lives(warden))
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_clears_what_a_killed_warden_leaves_and_nothing_else(tmp_path):
    dead, gone, child, warden = owner(tmp_path)
    alive, kept, other, _ = owner(tmp_path)
    (tmp_path / "alertprod-of-the-user").mkdir()
    os.kill(warden, signal.SIGKILL)
    end(dead)
    assert lives(child)
    assert sweep(tmp_path) == 1
    until(lambda: not lives(child))
    assert not gone.exists() and kept.is_dir() and lives(other)
    beside = next(tmp_path.glob(f"beside-{kept.name}-*"))
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["alertprod-of-the-user", kept.name, beside.name])
    end(alive)
    until(lambda: not kept.exists() and not lives(other))


def test_a_number_that_was_given_to_another_program_is_not_killed(tmp_path):
    """The noted process started at another time: a program of somebody has the number now."""
    innocent = subprocess.Popen(["sleep", "600"], start_new_session=True)
    process, path, child, warden = owner(tmp_path)
    os.kill(warden, signal.SIGKILL)
    end(process)
    with (path / "owner").open("a") as file:
        file.write(json.dumps({"group": innocent.pid, "started": "1"}) + "\n")
        file.write('{"group": 1, "sta')  # the owner was killed while it wrote
    assert clear(path)
    until(lambda: not lives(child))
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait(10)


def test_a_copied_directory_and_one_of_another_user_are_left_alone(tmp_path, monkeypatch):
    with Scratch() as mine:
        copy = tmp_path / "alertprod-copy"
        copy.mkdir()
        (copy / "owner").write_text((mine.path / "owner").read_text())
        assert not clear(copy)
        assert copy.is_dir() and mine.path.is_dir()
    assert not mine.path.exists()
    process, path, _, warden = owner(tmp_path)
    os.kill(warden, signal.SIGKILL)
    end(process)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert not clear(path)
    monkeypatch.undo()
    assert clear(path)


def test_a_kept_directory_has_one_owner_at_a_time(tmp_path):
    process, path, child, _ = owner(tmp_path, tmp_path / "data")
    assert path == tmp_path / "data"
    with pytest.raises(ScratchInUse, match="in use by another process"):
        Scratch(path)
    end(process)
    until(lambda: not lives(child))
    until(lambda: not (path / "owner").exists())
    with Scratch(path) as again:
        assert again.path == path
    assert path.is_dir()  # it is the user's


def processes_in(folder):
    """Return the processes that name a folder in their command line or environment."""
    mark, found = os.fsencode(folder), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "cmdline").read_bytes() + (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


POINTS = (
    "scratch_unnamed",
    "scratch_opened",
    "scratch_taken",
    "scratch_made",
    "role_started",
    "role_noted",
    "directory_made",
)


@pytest.mark.parametrize("point", POINTS)
def test_an_owner_that_dies_at_any_step_leaves_nothing(tmp_path, point):
    """What was started waits for its note; what was made is found by the warden or, before there is one, by a sweep."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    dead = subprocess.run(
        [sys.executable, "-c", OWNER, str(tmp_path), point],
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert dead.stdout == b""  # it died before its end
    until(lambda: processes_in(tmp_path) == [])  # also of the warden, which has done its work then
    if point.startswith("scratch"):
        assert len(list(tmp_path.iterdir())) == 1  # it has no warden yet
        sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("point", ["scratch_opened", "scratch_made", "role_started"])
def test_a_kept_directory_is_taken_again_after_any_death(tmp_path, point):
    """What is left in it neither keeps the next owner out nor looks like a file of the user's."""
    data = tmp_path / "data"
    dead = subprocess.run([sys.executable, "-c", OWNER, str(tmp_path), point, str(data)], timeout=60, check=False)
    assert dead.returncode == -signal.SIGKILL
    if point == "role_started":
        until(lambda: not (data / "owner").exists())  # its warden has done its work
        (data / "role.log").unlink()
    check_place(data)
    (data / "owner.txt").write_text("of the user")
    with Scratch(data):
        assert sorted(p.name for p in data.iterdir()) == ["owner", "owner.txt"]
    with pytest.raises(CallerError, match="other files"):
        check_place(data)


def test_a_sweep_leaves_a_directory_that_is_being_made(tmp_path, monkeypatch):
    """Another process sweeps between any two steps of the one that makes its directory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []

    class Watched(Scratch):
        def _crash(self, name):
            if seen.count(name) < 2:  # what was taken away is made again
                seen.append(name)
                sweep(tmp_path)

    with Watched() as scratch:
        assert seen == [
            "scratch_unnamed",
            "scratch_unnamed",
            "scratch_opened",
            "scratch_opened",
            "scratch_taken",
            "scratch_made",
        ]
        assert list(tmp_path.iterdir()) == [scratch.path]
        assert [p.name for p in scratch.path.iterdir()] == ["owner"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["initdb", "pg_ctl"])
def test_a_database_that_is_just_being_made_is_stopped(tmp_path, name):
    """A program of that name works in the directory of the server; one elsewhere is of somebody else."""
    program = tmp_path / name
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    home, place = tmp_path / "home", tmp_path / "postgres"
    started = []
    for folder in (home, place):
        folder.mkdir()
        started.append(subprocess.Popen([program, "600"], cwd=folder))
    innocent, making = started
    until(lambda: Path(f"/proc/{making.pid}/comm").read_text().strip() == name)
    stop_server(place)
    assert making.wait(10) == -signal.SIGKILL
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait(10)
