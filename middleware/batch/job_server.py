"""The process that jobs of a batch are forked from: it has loaded what they need (see `middleware.batch.job`).

It has one thread, runs no job itself, and ends when no job has come for a while. A job lives as long as the program that
asked for it: when that is gone, the job is ended.
"""

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

from middleware.batch.job import LENGTH, STARTED, idle_s, peer_uid

__all__ = ["Job", "main", "receive", "serve"]

_MOST_BYTES = 16 << 20  # of arguments and environment
_PATIENCE_S = 10.0  # with a program that connects and does not say what it wants


@dataclass(frozen=True)
class Job:
    """What a program asks for: the arguments of ``pipetask``, and what it had open and around it."""

    arguments: list[str]
    folder: str
    umask: int
    environment: dict[str, str]
    files: list[int]

    def enter(self) -> None:
        """Make this process one that the program could have started itself."""
        for number, file in enumerate(self.files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(self.environment)
        os.umask(self.umask)
        os.chdir(self.folder)
        sys.argv = ["pipetask", *self.arguments]


def main() -> None:
    """Load everything, serve, and be ``pipetask`` in every fork."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    from importlib import import_module

    from middleware.ordering import PRELOADED

    for name in PRELOADED:
        import_module(name)
    gc.collect()
    gc.freeze()  # forks share these pages as long as nobody looks at them
    job = serve(listening, idle_s())
    if job is not None:
        job.enter()
        from lsst.ctrl.mpexec.cli.pipetask import main as pipetask

        pipetask()


def serve(listening: socket.socket, idle: float) -> Job | None:
    """Fork for every job; returns None in this process, when no job has come for `idle` seconds, and in a fork its job."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(listening, selectors.EVENT_READ)
        running: dict[int, tuple[int, socket.socket]] = {}  # process and program, by the descriptor of the process
        while True:
            events = waiting.select(None if running else idle)
            if not events and not running:
                return None
            for key, _ in events:
                if key.fileobj is listening:
                    connection, _ = listening.accept()
                    job = _fork(connection, waiting, running)
                    if job is not None:
                        listening.close()
                        return job
                elif key.fd in running:
                    _tell(key.fd, waiting, *running.pop(key.fd))
                elif key.fileobj in waiting.get_map():  # else it has just been told
                    waiting.unregister(key.fileobj)
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(key.data, signal.SIGTERM)  # the program is gone


def _fork(connection: socket.socket, waiting: Any, running: dict[int, tuple[int, socket.socket]]) -> Job | None:
    """Start a job; returns it in its own process."""
    try:
        job = receive(connection)
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return None
    process = os.fork()
    with contextlib.suppress(OSError):
        os.setpgid(process, process)  # in both: whoever is first
    if process == 0:
        connection.close()
        for _, other in running.values():
            other.close()
        return job
    for file in job.files:
        os.close(file)
    with contextlib.suppress(OSError):
        connection.sendall(STARTED)
    ended = os.pidfd_open(process)
    running[ended] = process, connection
    waiting.register(ended, selectors.EVENT_READ)
    waiting.register(connection, selectors.EVENT_READ, process)
    return None


def _tell(ended: int, waiting: Any, process: int, connection: socket.socket) -> None:
    """Tell a program how its job ended."""
    waiting.unregister(ended)
    os.close(ended)
    with contextlib.suppress(KeyError):  # the program was gone before
        waiting.unregister(connection)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError), connection:
        connection.sendall(str(status).encode())


def receive(connection: socket.socket) -> Job:
    """Return what a program of this user asks for.

    Raises
    ------
    OSError, ValueError
        It is another user's, it says nothing for 10 s, or nothing that can be understood.
    """
    if peer_uid(connection) != os.getuid():
        raise ValueError("another user")
    connection.settimeout(_PATIENCE_S)
    head, files, *_ = socket.recv_fds(connection, LENGTH, 3)
    try:
        length = int.from_bytes(head, "big")
        if len(files) != 3 or len(head) != LENGTH or length > _MOST_BYTES:
            raise ValueError("no request")
        with connection.makefile("rb") as stream:
            said = json.loads(stream.read(length))
        connection.settimeout(None)
        return Job(**said, files=files)
    except BaseException:
        for file in files:
            os.close(file)
        raise


if __name__ == "__main__":
    main()
