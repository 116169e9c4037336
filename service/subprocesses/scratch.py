"""The scratch directory of servers that one process starts: whose it is, what runs in it, and how it is swept.

The owner holds a lock on the file ``owner`` in the directory. The system lets go of it when the owner ends, however it
ends: whoever can take the lock knows that the owner is gone. The lines of the file say what there is to clear away: process
groups (with the time at which they started, so that a number given to another program is not taken for ours),
directories elsewhere, and whether the scratch directory goes as well.

The owner may be killed at any instant, so nothing is ever there that is not noted before. A directory of ours gets its
name when the file lies in it, locked and written; until then, and again while it is deleted, it has a name by which a
sweep knows it. A directory elsewhere is noted before it is made. A program that is started waits until it is noted, and
ends where that never comes.
"""

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from service.crash import crash_at
from service.errors import ScratchInUse
from service.subprocesses.children import pipe_of, program

__all__ = ["PREFIX", "Scratch", "clear", "is_owners", "sweep"]

PREFIX = "alertprod-"
OWNER = "owner"
UNNAMED = ".part"  # ends the name of a directory of ours that is being made or deleted; a dot begins it
GRACE_S = 10.0
DELETE_S = 5.0  # what was killed may still end a write that it had begun
_GATE = 'read go && exec "$@" < /dev/null'  # of the shell; reading fails at the end of the pipe


class Scratch:
    """A directory with a lock on it, and a warden that clears it should this process be killed.

    Parameters
    ----------
    path
        Made where it is None, and then deleted in the end.
    crash_point
        For fault tests: where to die by SIGKILL (see `service.crash`).

    Raises
    ------
    ScratchInUse
        Another process that lives has the directory.
    """

    def __init__(self, path: Path | None = None, crash_point: str = "") -> None:
        self.temporary, self._crash_point = path is None, crash_point
        if path is None:
            self.path, self._file = self._make()
        else:
            self.path = path.resolve()
            self.path.mkdir(parents=True, exist_ok=True)
            if (self.path / OWNER).exists() and not clear(self.path):
                raise ScratchInUse(
                    f"{self.path} is in use by another process: stop that one, or choose another directory"
                )
            try:
                self._file = self._take(self.path, self.path)
            except FileNotFoundError as error:
                raise ScratchInUse(f"{self.path} was taken by another process that started now: try again") from error
            for left in filter(is_owners, self.path.glob(f"{OWNER}.*")):  # of one that was killed before it had it
                left.unlink(missing_ok=True)
        self._crash("scratch_made")
        self._warden = _start_warden(self.path)

    def _crash(self, name: str) -> None:
        crash_at(name, self._crash_point)

    def _make(self) -> tuple[Path, IO[str]]:
        """Make a directory that has its name only when the locked file is in it; a sweep may take it away before that."""
        while True:
            unnamed = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", suffix=UNNAMED)).resolve()
            path = unnamed.with_name(unnamed.name[1 : -len(UNNAMED)])
            self._crash("scratch_unnamed")
            with suppress(FileNotFoundError):
                file = self._take(unnamed, path)
                self._crash("scratch_taken")
                unnamed.rename(path)
                return path, file

    def _take(self, folder: Path, path: Path) -> IO[str]:
        """Return the file of a folder that is, or will be, `path`: it appears there locked, and says whose it is."""
        new = folder / f"{OWNER}.{os.getpid()}"
        file = new.open("w", encoding="utf-8")
        self._crash("scratch_opened")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            _write(file, scratch=str(path), pid=os.getpid(), temporary=self.temporary, machine=_machine())
            new.rename(folder / OWNER)
        except OSError:
            file.close()
            raise
        return file

    def make_directory(self, parent: Path, prefix: str) -> Path:
        """Make a directory elsewhere that is deleted with this one should we be killed."""
        folder = parent / f"{prefix}{secrets.token_hex(8)}"
        _write(self._file, directory=str(folder))
        folder.mkdir(mode=0o700)
        self._crash("directory_made")
        return folder

    def start(
        self, name: str, command: Sequence[str], log: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a program that leads a group of its own, its words in `log`; it begins once it is noted.

        Until then a shell waits in its place, under the same number. Should we be killed, the shell ends instead.
        """
        process = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        self._crash(f"{name}_started")
        _write(self._file, group=process.pid, started=_start_time(process.pid))
        self._crash(f"{name}_noted")
        with suppress(BrokenPipeError), pipe_of(process.stdin) as gate:
            gate.write(b"go\n")
        process.stdin = None
        return process

    def __enter__(self) -> "Scratch":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the directory where it is ours, let go of the lock, and let the warden end."""
        if self.temporary:
            with suppress(FileNotFoundError):  # the user was faster
                _delete(self.path)
        else:
            (self.path / OWNER).unlink(missing_ok=True)
        self._file.close()
        pipe_of(self._warden.stdin).close()
        try:
            self._warden.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._warden.kill()
            self._warden.wait(timeout=10)


def is_owners(path: Path) -> bool:
    """Return whether a file is that of an owner, or was to become it."""
    return path.name == OWNER or (path.stem == OWNER and path.suffix[1:].isdigit())


def _write(file: IO[str], **what: Any) -> None:
    """Add a line: what is to be cleared away should the owner not come to it."""
    file.write(json.dumps(what) + "\n")
    file.flush()


def _start_warden(scratch: Path) -> "subprocess.Popen[bytes]":
    """Start the process that waits for our end (of its standard input) in a session that no signal of ours reaches."""
    return subprocess.Popen(
        program("service.subprocesses.warden", str(scratch)),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )


def sweep(parent: Path | None = None) -> int:
    """Clear the scratch directories below `parent` (that of temporary files) whose owners are gone; returns how many."""
    folder = Path(tempfile.gettempdir() if parent is None else parent)
    for unnamed in folder.glob(f".{PREFIX}*{UNNAMED}"):
        _clear_unnamed(unnamed)
    return sum(clear(owner.parent) for owner in folder.glob(f"{PREFIX}*/{OWNER}"))


def _clear_unnamed(unnamed: Path) -> None:
    """Delete a directory whose owner was killed while it made or deleted it: there is at most his file in it."""
    with suppress(OSError):
        if unnamed.is_symlink() or unnamed.stat().st_uid != os.geteuid():
            return
        for owner in unnamed.glob(f"{OWNER}*"):
            with owner.open(encoding="utf-8") as file:
                if not _lock(file, 0.0):
                    return
                owner.unlink()
                unnamed.rmdir()  # with the lock: whoever waits for it finds the directory gone, and makes another
                return
        unnamed.rmdir()


def _delete(scratch: Path) -> None:
    """Delete a scratch directory; the owner's file goes last, in a directory that has lost its name.

    What cannot be deleted stays, with the file, for the next sweep.
    """
    deadline = time.monotonic() + DELETE_S
    while left := [p for p in scratch.iterdir() if p.name != OWNER]:
        if time.monotonic() > deadline:
            return
        for path in left:
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    unnamed = scratch.with_name(f".{scratch.name}{UNNAMED}")
    scratch.rename(unnamed)
    (unnamed / OWNER).unlink(missing_ok=True)
    shutil.rmtree(unnamed, ignore_errors=True)


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
            if any(n.get("temporary") for n in notes):
                _delete(scratch)
            else:
                owner.unlink(missing_ok=True)
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
