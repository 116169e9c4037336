"""The supervisor: takes visits from the ledger, hands them to job processes, renews leases, records what happened."""

import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from apdb import Claim, Database, Ledger
from service.errors import JobCrashed
from service.settings import Settings
from tasks.errors import TransientError

__all__ = ["Worker"]

log = logging.getLogger("alertprod.worker")


class _Job:
    """One job process and its two pipes."""

    def __init__(self, settings: Settings) -> None:
        environment = {**os.environ, **settings.environment(), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        environment.setdefault("ALERTPROD_THREADS", "1")  # the other cores have jobs of their own
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.job"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, bufsize=1,
        )  # fmt: skip
        self.read(120.0)

    def read(self, timeout_s: float) -> dict[str, Any]:
        """Return the next answer.

        Raises
        ------
        JobCrashed
            The process ended, or gave no answer in time (then it is killed).
        """
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        if not ready:
            self.kill()
            raise JobCrashed(f"no answer within {timeout_s:.0f} s: the job process was killed")
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait(timeout=10)
            raise JobCrashed(f"the job process ended with status {code}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def ask(self, claim: Claim, timeout_s: float) -> dict[str, Any]:
        """Hand over a claim and wait for the answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(claim.__dict__) + "\n")
        except OSError as error:
            raise JobCrashed("the job process is gone") from error
        return self.read(timeout_s)

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue


class Worker:
    """Runs `settings.workers` slots until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger(Database(settings.database()))
        self._stop = threading.Event()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self.processed = 0

    def stop(self) -> None:
        """Let every slot finish its visit and end."""
        self._stop.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until `stop` is called (or, for tests and tools, until the queue is empty)."""
        slots = self._settings.workers or os.cpu_count() or 1
        threads = [threading.Thread(target=self._slot, args=(k, until_idle), daemon=True) for k in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)

    def _slot(self, number: int, until_idle: bool) -> None:
        job: _Job | None = None
        try:
            while not self._stop.is_set():
                try:
                    job = job or _Job(self._settings)
                    claim = self._ledger.claim(
                        f"{self._owner}:{number}", self._settings.lease_s, self._settings.order_wait_s
                    )
                except TransientError as error:
                    log.warning("slot %d: %s", number, error)
                    self._stop.wait(1.0)
                    continue
                if claim is None:
                    if until_idle and not self._unfinished():
                        return
                    self._stop.wait(self._settings.poll_s)
                    continue
                job = self._process(job, claim)
        finally:
            if job is not None:
                job.kill()

    def _unfinished(self) -> bool:
        counts = self._ledger.counts()
        return counts["queued"] + counts["running"] > 0

    def _process(self, job: _Job, claim: Claim) -> _Job | None:
        """Run one claim with lease heartbeats; returns the job process if it lives on."""
        done = threading.Event()
        beat = threading.Thread(target=self._heartbeat, args=(claim, done), daemon=True)
        beat.start()
        try:
            answer = job.ask(claim, self._settings.job_timeout_s)
        except JobCrashed as error:
            answer = {"state": "retry", "code": error.code, "text": str(error)}
            job.kill()
        finally:
            done.set()
            beat.join(5)
        self._record(claim, answer)
        return job if job.process.poll() is None else None

    def _heartbeat(self, claim: Claim, done: threading.Event) -> None:
        while not done.wait(self._settings.lease_s / 3):
            try:
                self._ledger.renew(claim, self._settings.lease_s)
            except TransientError as error:
                log.warning("lease of visit %d, detector %d: %s", claim.visit, claim.detector, error)

    def _record(self, claim: Claim, answer: dict[str, Any]) -> None:
        """Write a failure to the ledger (success was written by the visit's own transaction)."""
        state = answer["state"]
        self.processed += 1
        if state == "done":
            return
        code, text = str(answer.get("code", "internal")), str(answer.get("text", ""))
        log.warning("visit %d, detector %d: %s: %s: %s", claim.visit, claim.detector, state, code, text)
        deadline = time.monotonic() + 60
        while True:
            try:
                if state == "retry" and code == "waiting":
                    self._ledger.fail(claim, code, text, retry_in_s=0.5, counts=False)
                elif state == "retry" and claim.failures + 1 < self._settings.attempts:
                    self._ledger.fail(claim, code, text, retry_in_s=self._settings.retry_s * 2**claim.failures)
                else:
                    self._ledger.fail(
                        claim, code, text, retry_in_s=None, state="no_work" if state == "no_work" else "failed"
                    )
                return
            except TransientError as error:
                if time.monotonic() > deadline:  # the lease will run out and the visit be taken again
                    log.error("visit %d, detector %d: %s", claim.visit, claim.detector, error)
                    return
                time.sleep(1)
