"""The supervisor: takes visits from the ledger, hands them to job processes, renews leases, records what happened."""

import logging
import os
import socket
import threading
import time
from typing import Any

from apdb import Claim, Database, Ledger, VisitState
from service.errors import JobCrashed
from service.settings import Settings
from service.workers.job_process import JobProcess
from tasks.errors import TransientError

__all__ = ["Worker"]

log = logging.getLogger("alertprod.worker")
START_ATTEMPTS = 3  # job processes in a row that die before their first answer: the next ones would die as well


class Worker:
    """Runs `settings.workers` slots until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger(Database(settings.database()))
        self._stop = threading.Event()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._starting = threading.Lock()
        self._failed_starts = 0
        self._failure: JobCrashed | None = None
        self.processed = 0

    def stop(self) -> None:
        """Let every slot finish its visit and end."""
        self._stop.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until `stop` is called (or, for tests and tools, until the queue is empty).

        Raises
        ------
        JobCrashed
            Job processes die before their first answer; the message holds what the last one said.
        """
        slots = self._settings.workers or os.cpu_count() or 1
        threads = [threading.Thread(target=self._slot, args=(k, until_idle), daemon=True) for k in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
        if self._failure is not None:
            raise self._failure

    def _start_job(self) -> JobProcess:
        """Start a job process; after some that died at once, the whole worker is told to stop."""
        try:
            job = JobProcess(self._settings)
        except JobCrashed as error:
            with self._starting:
                self._failed_starts += 1
                if self._failed_starts >= START_ATTEMPTS and self._failure is None:
                    text = f"{self._failed_starts} job processes in a row did not start; the last: {error.message}"
                    self._failure = JobCrashed(text)
                    self.stop()
            raise
        with self._starting:
            self._failed_starts = 0
        return job

    def _slot(self, number: int, until_idle: bool) -> None:
        job: JobProcess | None = None
        try:
            while not self._stop.is_set():
                try:
                    job = job or self._start_job()
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
        return counts[VisitState.QUEUED] + counts[VisitState.RUNNING] > 0

    def _process(self, job: JobProcess, claim: Claim) -> JobProcess | None:
        """Run one claim with lease heartbeats; returns the job process if it lives on."""
        finished = threading.Event()
        beat = threading.Thread(target=self._heartbeat, args=(claim, finished), daemon=True)
        beat.start()
        try:
            answer = job.ask(claim, self._settings.job_timeout_s)
        except JobCrashed as error:
            answer = {"state": "retry", "code": error.code, "text": str(error)}
            job.kill()
        finally:
            finished.set()
            beat.join(5)
        self._record(claim, answer)
        return job if job.process.poll() is None else None

    def _heartbeat(self, claim: Claim, finished: threading.Event) -> None:
        while not finished.wait(self._settings.lease_s / 3):
            try:
                self._ledger.renew(claim, self._settings.lease_s)
            except TransientError as error:
                log.warning("lease of visit %d, detector %d: %s", claim.visit, claim.detector, error)

    def _record(self, claim: Claim, answer: dict[str, Any]) -> None:
        """Write a failure to the ledger (success was written by the visit's own transaction)."""
        state = answer["state"]
        self.processed += 1
        if state == VisitState.DONE:
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
                        claim,
                        code,
                        text,
                        retry_in_s=None,
                        state=VisitState.NO_WORK if state == VisitState.NO_WORK else VisitState.FAILED,
                    )
                return
            except TransientError as error:
                if time.monotonic() > deadline:  # the lease will run out and the visit be taken again
                    log.error("visit %d, detector %d: %s", claim.visit, claim.detector, error)
                    return
                time.sleep(1)
