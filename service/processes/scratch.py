"""The scratch directory of servers that one process starts: whose it is, what runs in it, and how it is swept.

The owner holds a lock on the file ``owner`` in the directory. The system lets go of it when the owner ends, however it
ends: whoever can take the lock knows that the owner is gone. The lines of the file say what there is to clear away: process
groups (with the time at which they started, so that a number given to another program is not taken for ours),
directories elsewhere, and whether the scratch directory goes as well.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from service.errors import ScratchInUse
from service.processes.children import program

__all__ = ["PREFIX", "Scratch", "clear", "sweep"]

PREFIX = "alertprod-"
OWNER = "owner"
GRACE_S = 10.0


class Scratch:
    """A directory with a lock on it, and a warden that clears it should this process be killed.

    Parameters
    ----------
    path
        Made where it is None, and then deleted in the end.

    Raises
    ------
    ScratchInUse
        Another process that lives has the directory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.temporary = path is None
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX)) if path is None else path.resolve()
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.temporary and (self.path / OWNER).exists() and not clear(self.path):
            raise ScratchInUse(f"{self.path} is in use by another process: stop that one, or choose another directory")
        self._file = self._take()
        self.note(scratch=str(self.path), pid=os.getpid(), temporary=self.temporary, machine=_machine())
        self._warden = _start_warden(self.path)

    def _take(self) -> IO[str]:
        """Return the locked file; it appears under its name with the lock already on it."""
        new = self.path / f"{OWNER}.{os.getpid()}"
        file = new.open("w", encoding="utf-8")
        fcntl.flock(file, fcntl.LOCK_EX)
        new.rename(self.path / OWNER)
        return file

    def note(self, **what: Any) -> None:
        """Add a line to the file: what is to be cleared away should this process not come to it."""
        self._file.write(json.dumps(what) + "\n")
        self._file.flush()

    def note_process(self, pid: int) -> None:
        """Note a process that leads a group of its own."""
        self.note(group=pid, started=_start_time(pid))

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the directory where it is ours, let go of the lock, and let the warden end."""
        (self.path / OWNER).unlink(missing_ok=True)
        if self.temporary:
            shutil.rmtree(self.path, ignore_errors=True)
        self._file.close()
        assert self._warden.stdin is not None
        self._warden.stdin.close()
        try:
            self._warden.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._warden.kill()
            self._warden.wait(timeout=10)


def _start_warden(scratch: Path) -> "subprocess.Popen[bytes]":
    """Start the process that waits for our end (of its standard input) in a session that no signal of ours reaches."""
    return subprocess.Popen(
        program("service.processes.warden", str(scratch)), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, cwd="/", env={**os.environ, "PYTHONSAFEPATH": "1"},
    )  # fmt: skip


def sweep(parent: Path | None = None) -> int:
    """Clear the scratch directories below `parent` (that of temporary files) whose owners are gone; returns how many."""
    found = Path(tempfile.gettempdir() if parent is None else parent).glob(f"{PREFIX}*/{OWNER}")
    return sum(clear(owner.parent) for owner in found)


def clear(scratch: Path, wait_s: float = 0.0) -> bool:
    """Stop what a dead owner left in a scratch directory and delete it; False when it is not ours or its owner lives."""
    from apdb.operate.embedded import stop_server

    owner = scratch / OWNER
    try:
        if owner.is_symlink() or scratch.is_symlink() or owner.stat().st_uid != os.geteuid():
            return False
        with owner.open(encoding="utf-8") as file:
            if not _lock(file, wait_s) or not owner.exists():
                return False
            notes = [json.loads(line) for line in file if line.endswith("\n")]
            if not any(n.get("scratch") == str(scratch.resolve()) for n in notes):
                return False  # a copy of the directory: what it names is another's
            if any(n.get("machine") == _machine() for n in notes):
                _kill_groups(notes)
            stop_server(scratch / "postgres", GRACE_S)
            for note in notes:
                if "directory" in note:
                    shutil.rmtree(note["directory"], ignore_errors=True)
            owner.unlink(missing_ok=True)
            if any(n.get("temporary") for n in notes):
                shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, ValueError):
        return False
    return True


def _lock(file: IO[str], wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        else:
            return True


def _kill_groups(notes: list[dict[str, Any]]) -> None:
    for note in notes:
        if "group" in note and _is_same(int(note["group"]), note["started"]):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(note["group"]), signal.SIGKILL)


def _is_same(pid: int, started: str | None) -> bool:
    """Whether this is the process that was noted.

    Where its leader is gone, no other process can have the number while the group still has members; where starting
    times cannot be had (no /proc), a process is only taken for ours where it leads a group and a session of its own.
    """
    if pid <= 1:
        return False
    now = _start_time(pid)
    if now is None and sys.platform != "linux":
        with suppress(OSError):
            return os.getsid(pid) == pid
        return False
    return now is None or now == started


def _start_time(pid: int) -> str | None:
    """Return when a process started (clock ticks since the boot, as the kernel says), None where nobody says."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    return None


def _machine() -> str:
    """Return what tells the process numbers of one boot (and one container) from those of another."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""
