"""What a killed owner of servers leaves is cleared away; what lives, or is another's, is left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.errors import ScratchInUse
from service.processes.scratch import Scratch, clear, sweep

OWNER = """
import subprocess, sys, tempfile, time
from pathlib import Path
tempfile.tempdir = sys.argv[1]
from service.processes.scratch import Scratch
scratch = Scratch(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
scratch.note_process(child.pid)
elsewhere = Path(sys.argv[1]) / f"beside-{scratch.path.name}"
elsewhere.mkdir()
scratch.note(directory=str(elsewhere))
print(scratch.path, child.pid, scratch._warden.pid, flush=True)
time.sleep(600)
"""


def owner(folder, *more):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), *map(str, more)], stdout=subprocess.PIPE, text=True
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
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        ["alertprod-of-the-user", kept.name, f"beside-{kept.name}"]
    )
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
