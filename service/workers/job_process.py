"""One job process as its supervisor sees it: started, asked, killed, and heard when it dies."""

import json
import select
import subprocess
import sys
import threading
from collections import deque
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from apdb import Claim
from service.errors import JobCrashed
from service.settings import Settings
from service.subprocesses.children import child_environment, pipe_of, program, without_secrets
from tasks.errors import TransientError

__all__ = ["JobProcess"]

START_S = 120.0
KEPT_LINES, KEPT_CHARACTERS = 40, 1500
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip


class _Echo(threading.Thread):
    """Passes on what a process says on standard error, and keeps the end of it."""

    def __init__(self, pipe: IO[str]) -> None:
        super().__init__(daemon=True)
        self._pipe, self._lines = pipe, deque[str](maxlen=KEPT_LINES)

    def run(self) -> None:
        with suppress(ValueError, OSError):  # the pipe was closed meanwhile, or nobody reads our standard error
            for line in self._pipe:
                self._lines.append(line)
                sys.stderr.write(line)
                sys.stderr.flush()

    def end(self) -> str:
        """Return the last lines, waiting a little for what is still on its way."""
        self.join(2.0)
        return "".join(list(self._lines))[-KEPT_CHARACTERS:].strip()


class JobProcess:
    """One job process and its pipes.

    Raises
    ------
    JobCrashed
        It died before its first answer; the message holds the end of its standard error.
    TransientError
        It could not start now, but may later (no database).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        environment = child_environment(settings, **_ONE_THREAD)
        environment.setdefault("ALERTPROD_THREADS", "1")  # the other cores have jobs of their own
        self.process = subprocess.Popen(
            program("service.workers.job"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            bufsize=1,
        )
        self._echo = _Echo(pipe_of(self.process.stderr))
        self._echo.start()
        try:
            self._check(self.read(START_S))
        except TransientError:
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
            The process ended, or gave no answer in time (then it is killed).
        """
        answers = pipe_of(self.process.stdout)
        ready, _, _ = select.select([answers], [], [], timeout_s)
        if not ready:
            self.kill()
            raise JobCrashed(f"no answer within {timeout_s:.0f} s: the job process was killed")
        line = answers.readline()
        if not line:
            raise JobCrashed(f"the job process ended with status {self.process.wait(timeout=10)}{self._last_words()}")
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise JobCrashed(f"the job process answered with no JSON object: {line[:200]!r}")
        return answer

    def _last_words(self) -> str:
        text = without_secrets(self._echo.end(), self._settings)
        return f": {text}" if text else ""

    def ask(self, claim: Claim, timeout_s: float) -> dict[str, Any]:
        """Hand over a claim and wait for the answer."""
        try:
            pipe_of(self.process.stdin).write(json.dumps(asdict(claim)) + "\n")
        except OSError as error:
            raise JobCrashed("the job process is gone") from error
        return self.read(timeout_s)

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
