"""A child process that answers: one JSON line in, one JSON line out; started, asked, killed, and heard when it dies."""

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import IO, Any

from service.errors import JobCrashed
from service.observe.log import json_line, text_of
from service.settings import Settings
from service.subprocesses.children import child_environment, pipe_of, program, without_secrets
from tasks.errors import TransientError

__all__ = ["AnsweringProcess"]

START_S = 120.0
KEPT_LINES, KEPT_CHARACTERS = 40, 1500
_CHUNK, _LONGEST = 1 << 16, 1 << 24  # bytes of an answer
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip


class _Echo(threading.Thread):
    """Passes on what a process says on standard error, as lines of the log, and keeps the end of it as text."""

    def __init__(self, pipe: IO[bytes], module: str, pid: int) -> None:
        super().__init__(daemon=True)
        self._pipe, self._lines = pipe, deque[str](maxlen=KEPT_LINES)
        self._module, self._pid = module, pid

    def run(self) -> None:
        with suppress(ValueError, OSError):  # the pipe was closed meanwhile, or nobody reads our standard error
            for raw in self._pipe:
                line = raw.decode(errors="replace")
                said = text_of(line)
                self._lines.append(line if said is None else f"{said}\n")
                if said is None:  # of a library, or of what ends the process
                    line = json_line(line.rstrip("\n"), f"{self._module}.output", child=self._pid) + "\n"
                sys.stderr.write(line)
                sys.stderr.flush()

    def end(self) -> str:
        """Return the last lines, waiting a little for what is still on its way."""
        self.join(2.0)
        return "".join(list(self._lines))[-KEPT_CHARACTERS:].strip()


class AnsweringProcess:
    """One child process and its pipes.

    Parameters
    ----------
    module
        Of ours; it answers once when it is ready.

    Raises
    ------
    JobCrashed
        It died before its first answer; the message holds the end of its standard error.
    TransientError
        It could not start now, but may later (no database).
    """

    def __init__(self, settings: Settings, module: str) -> None:
        self._settings = settings
        environment = child_environment(settings, **_ONE_THREAD)
        environment.setdefault("ALERTPROD_THREADS", "1")  # the other cores have jobs of their own
        self.process = subprocess.Popen(
            program(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        self._buffer = bytearray()
        self._echo = _Echo(pipe_of(self.process.stderr), module, self.process.pid)
        self._echo.start()
        try:
            self._check(self.read(START_S))
        except BaseException:
            self.kill()
            raise

    def _check(self, answer: dict[str, Any]) -> None:
        start = answer.get("start")
        if start is not None:
            kind = TransientError if start["retriable"] else JobCrashed
            raise kind(without_secrets(f"{start['code']}: {start['message']}", self._settings))

    def read(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer.

        Raises
        ------
        JobCrashed
            The process ended, gave no answer in time (then it is killed), or none that can be read.
        """
        line = self._line(timeout_s)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            self.kill()
            raise JobCrashed(f"the process answered with no JSON object: {bytes(line[:200])!r}")
        return answer

    def _line(self, timeout_s: float) -> bytes:
        """Return the next whole line; half of one is waited for no longer than a whole one."""
        descriptor, deadline = pipe_of(self.process.stdout).fileno(), time.monotonic() + timeout_s
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or len(self._buffer) > _LONGEST or not waiting.poll(1e3 * left):
                self.kill()
                raise JobCrashed(f"no answer within {timeout_s:.0f} s: the job process was killed")
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                raise self._death()
            self._buffer += chunk
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    def _death(self) -> JobCrashed:
        try:
            status = self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it closed its standard output and goes on: of no use any more
            self.kill()
            status = self.process.wait(timeout=10)
        text = without_secrets(self._echo.end(), self._settings)
        error = JobCrashed(f"the job process ended with status {status}{f': {text}' if text else ''}")
        error.status = status
        return error

    def ask(self, question: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Ask, and wait for the answer; errors as for `read`."""
        pipe = pipe_of(self.process.stdin)
        try:
            pipe.write(json.dumps(question).encode() + b"\n")
            pipe.flush()
        except (OSError, ValueError) as error:
            raise self._death() from error
        return self.read(timeout_s)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait(timeout=10)
        self._echo.join(2.0)
        heard = None if self._echo.is_alive() else self.process.stderr  # a child of its own may still hold the pipe
        for pipe in (self.process.stdin, self.process.stdout, heard):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
