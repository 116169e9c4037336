"""``alertprod-job``: ``pipetask`` in a job of a batch, run by a process of this machine that has loaded everything already.

Loading the Rubin packages and the tasks takes a processor four seconds. The first job of a batch on a machine starts a
server of processes (`middleware.batch.job_server`), which loads once and forks; a later job is a fork of it. This program
hands over its arguments, environment, folder and open files, and waits; without a server it is ``pipetask``.
"""

import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["IDLE", "LENGTH", "STARTED", "address", "hand_over", "idle_s", "main"]

IDLE = "ALERTPROD_JOB_SERVER_S"
"""Seconds that a server waits for another job (60); 0: none is started."""
STARTED = b"+"
"""What a server says when a job runs; how it ended follows, as a number, negative where a signal ended it."""
LENGTH = 4
"""Bytes that say how long a request is."""
# what changes what is loaded, or how; the rest of an environment is the job's own
_LOADED = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_", "NUMBA_", "OPENCV_", "ALERTPROD_", "LSST_", "DAF_BUTLER_")
_TRIES = 3
_SIGNALLED = 128  # a shell's status of a program that a signal ended is this and the signal's number
_CREDENTIALS = struct.Struct("3i")  # process, user, group


def main() -> None:
    """Run ``pipetask`` with the arguments of this program."""
    arguments = sys.argv[1:]
    status = None
    # a job of HTCondor ends with all that it started: a server would end with the first
    if sys.platform == "linux" and "_CONDOR_SCRATCH_DIR" not in os.environ and idle_s() > 0:
        status = hand_over(
            arguments, address(arguments, os.environ), [sys.executable, "-P", "-m", "middleware.batch.job_server"]
        )
    if status is None:
        program = str(Path(sys.prefix) / "bin" / "pipetask")
        os.execv(program, [program, *arguments])  # noqa: S606 (it takes the place of this program)
    sys.exit(status if status >= 0 else _SIGNALLED - status)


def idle_s() -> float:
    """Return how long a server waits for another job, seconds."""
    with contextlib.suppress(ValueError):
        return float(os.environ.get(IDLE, "60"))
    return 60.0


def address(arguments: list[str], environment: "os._Environ[str] | dict[str, str]") -> bytes:
    """Return the name of the server's socket, in Linux's name space without files: of a user, an installation, and a batch.

    A batch is known by its graph of quanta; so code that was changed is loaded by the next batch.
    """
    batch = [a for a in arguments if a.endswith(".qg")]
    loaded = sorted((k, v) for k, v in environment.items() if k.startswith(_LOADED))
    key = json.dumps([os.getuid(), sys.prefix, __file__, batch, loaded])
    return b"\0alertprod-job-" + hashlib.sha256(key.encode()).hexdigest()[:32].encode()


def hand_over(arguments: list[str], name: bytes, server: list[str]) -> int | None:
    """Let a server run the arguments, which is started where there is none.

    Parameters
    ----------
    arguments
        Of ``pipetask``.
    name
        Of the socket.
    server
        Program that serves; the descriptor of its socket is added.

    Returns
    -------
    status
        How the job ended (negative: the signal that ended it), None where no server took it.
    """
    for _ in range(_TRIES):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(name)
            except ConnectionRefusedError:
                with contextlib.suppress(OSError):  # another job was quicker: it is there now
                    _start(name, server)
                continue
            if peer_uid(connection) != os.getuid():
                return None
            try:
                _send(connection, arguments)
                if connection.recv(1) != STARTED:
                    continue  # it ended at this moment, or could not load
            except OSError:
                continue
            said = b"".join(iter(lambda: connection.recv(64), b""))
            return int(said) if said else 1  # the server was killed, and the job with it
    return None


def peer_uid(connection: socket.socket) -> int:
    """Return the user at the other end."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(told)[1])


def _start(name: bytes, server: list[str]) -> None:
    """Listen, and start the server with the socket: jobs that come while it loads wait in its queue."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(name)
        listening.listen(1024)
        number = listening.fileno()
        nothing: Any = subprocess.DEVNULL  # a file of this job would stay open as long as the server lives
        subprocess.Popen(
            [*server, str(number)],
            pass_fds=[number],
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            start_new_session=True,
        )


def _send(connection: socket.socket, arguments: list[str]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    said = {"arguments": arguments, "folder": str(Path.cwd()), "umask": umask, "environment": dict(os.environ)}
    text = json.dumps(said).encode()
    socket.send_fds(connection, [len(text).to_bytes(LENGTH, "big")], [0, 1, 2])
    connection.sendall(text)


if __name__ == "__main__":
    main()
