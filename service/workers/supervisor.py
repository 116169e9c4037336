"""The supervisor: takes visits from the ledger, hands them to job processes, renews leases, records what happened."""

import contextvars
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from apdb import Claim, Database, LeaseLost, Ledger, VisitState
from apdb.queue.changes import look_for_images
from apdb.queue.claims import Patience
from service.crash import crash_at
from service.errors import JobCrashed
from service.intake.submit import image_is_there
from service.observe.log import about_visit
from service.observe.measures import count_visit
from service.observe.spans import record_span
from service.settings import Settings
from service.subprocesses.limits import STUCK
from service.workers.announced import Announced
from service.workers.gate import Gate
from service.workers.job_process import JobProcess
from service.workers.outcomes import after, runs_alone
from tasks.errors import AlertProdError, CallerError, TransientError

__all__ = ["Worker"]

log = logging.getLogger("alertprod.worker")
START_ATTEMPTS = 3  # job processes in a row that die before their first answer: the next ones would die as well
RECORD_S = 60.0  # how long the database is asked to take a failure; then the lease runs out
LOOK_S = 1.0  # between two looks for late images
WATCH_S = 5.0  # at least, between two looks at leases that ran out


class Worker:
    """Runs `settings.workers` slots until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database())
        self._ledger = Ledger(self._database)
        self._announced = Announced(self._database)
        self._patience = Patience(settings.attempts, settings.retry_s)
        self._gate = Gate()
        self._stop, self._release = threading.Event(), threading.Event()
        self._stop_by = float("inf")
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._starting = threading.Lock()
        self._failed_starts = 0
        self._failure: AlertProdError | None = None
        self._jobs: dict[int, JobProcess] = {}
        self.processed = 0

    def stop(self) -> None:
        """Let every slot finish its visit and end; at a second call, or when `drain_s` are over, visits are given back."""
        if self._stop.is_set():
            self._release.set()
        self._stop_by = min(self._stop_by, time.monotonic() + self._settings.drain_s)
        self._stop.set()

    def run(self, until_idle: bool = False) -> None:
        """Work until `stop` is called (or, for tests and tools, until the queue is empty).

        Raises
        ------
        JobCrashed
            Job processes die before their first answer; the message holds what the last one said.
        AlertProdError
            A slot failed in another way that is no visit's fault.
        """
        slots = self._settings.workers or os.cpu_count() or 1
        threads = [threading.Thread(target=self._slot, args=(k, until_idle), daemon=True) for k in range(slots)]
        ended = threading.Event()
        watches = [threading.Thread(target=w, args=(ended,), daemon=True) for w in (self._watch, self._look_for_images)]
        for thread in (*threads, *watches):
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
                if time.monotonic() > self._stop_by:
                    self._release.set()
                if self._release.is_set():
                    self._end_jobs()
        ended.set()
        if self._failure is not None:
            raise self._failure

    def _end_jobs(self) -> None:
        """Kill the job processes; their slots hear it, and give the visits back."""
        for job in list(self._jobs.values()):
            job.process.kill()

    def _watch(self, ended: threading.Event) -> None:
        """Take visits from workers that are silent, also while every slot of this one is busy or waits for a lock."""
        while not ended.wait(max(self._settings.lease_s / 3, WATCH_S)):
            try:
                self._ledger.give_back_lost(self._patience)
            except Exception as error:  # the next look comes; what is broken for good ends the slots
                log.warning("leases: %s", error)

    def _look_for_images(self, ended: threading.Event) -> None:
        """Queue visits whose late images came; apart from `_watch`, for a disk may not answer."""
        roots = [*self._settings.data_roots, self._settings.upload_dir]

        def is_there(uri: str) -> bool:
            with suppress(CallerError):  # a place that may not be read any more: in the end it is late
                return image_is_there(uri, roots)
            return False

        while not ended.wait(LOOK_S):
            try:
                look_for_images(self._database, is_there)
            except Exception as error:  # the next look comes
                log.warning("late images: %s", error)

    def _start_job(self, number: int) -> JobProcess:
        """Start a job process; after some that died at once, the whole worker is told to stop."""
        try:
            job = JobProcess(self._settings)
        except JobCrashed as error:
            with self._starting:
                self._failed_starts += 1
                if self._failed_starts >= START_ATTEMPTS and self._failure is None:
                    text = f"{self._failed_starts} job processes in a row did not start; the last: {error.message}"
                    self._fail(JobCrashed(text))
            raise
        with self._starting:
            self._failed_starts = 0
        self._jobs[number] = job
        return job

    def _fail(self, error: AlertProdError) -> None:
        """End the worker with an error."""
        if not self._stop.is_set():
            self._failure = error
            self.stop()

    def _slot(self, number: int, until_idle: bool) -> None:
        """Work, and end the worker where that fails in a way that nobody expects: a slot less would not be noticed."""
        try:
            self._work(number, until_idle)
        except Exception as error:
            log.exception("slot %d", number)
            said = error if isinstance(error, AlertProdError) else None
            self._fail(said or JobCrashed(f"slot {number} of the worker ended: {type(error).__name__}: {error}"))

    def _work(self, number: int, until_idle: bool) -> None:
        job: JobProcess | None = None
        try:
            while not self._stop.is_set():
                try:
                    job = job or self._start_job(number)
                    claim = self._claim(number)
                except TransientError as error:
                    log.warning("slot %d: %s", number, error)
                    self._stop.wait(1.0)
                    continue
                if claim is None:
                    if until_idle and not self._unfinished():
                        return
                    if not self._announced.prepare(number, job):
                        self._stop.wait(self._settings.poll_s)
                    job = job if job.alive() else None
                    continue
                with about_visit(claim.visit, claim.detector, claim.attempt, claim.message):
                    log.info("attempt begins")
                    job = self._process(job, claim)
        finally:
            if job is not None:
                job.kill()
            self._jobs.pop(number, None)

    def _claim(self, number: int) -> Claim | None:
        """Take the next visit; none while another slot works alone."""
        if not self._gate.open():
            return None
        s = self._settings
        return self._ledger.claim(f"{self._owner}:{number}", s.lease_s, s.order_wait_s, self._patience)

    def _unfinished(self) -> bool:
        counts = self._ledger.counts()
        return counts[VisitState.QUEUED] + counts[VisitState.RUNNING] > 0

    def _process(self, job: JobProcess, claim: Claim) -> JobProcess | None:
        """Run one claim with lease heartbeats; returns the job process if it lives on."""
        crash_at("claimed", self._settings.crash_point)
        finished, lost = threading.Event(), threading.Event()
        here = contextvars.copy_context()  # its lines are about this visit too
        beat = threading.Thread(target=here.run, args=(self._heartbeat, claim, job, finished, lost), daemon=True)
        beat.start()
        try:
            answer = self._run(job, claim)
        finally:
            finished.set()
            beat.join(5)
        if not lost.is_set():  # else another attempt has the visit
            self._record(claim, answer)
        return job if job.alive() else None

    def _run(self, job: JobProcess, claim: Claim) -> dict[str, Any]:
        """Return the answer of a job, or what its death means for the visit."""
        stopped = {"state": "retry", "code": "worker_stopped", "text": "the worker was stopped: nothing was written"}
        with self._gate.inside(runs_alone(claim), self._release.is_set) as entered:
            if not entered:
                return stopped
            try:
                return job.run(claim, self._settings.job_timeout_s)
            except JobCrashed as error:
                job.kill()
                if self._release.is_set():
                    return stopped
                if error.status == -STUCK:
                    text = "its files take more processor time to open than files of their size may: refused"
                    return {"state": VisitState.FAILED, "code": "fits_unreadable", "text": _about(claim, text)}
                return {"state": "retry", "code": error.code, "text": _about(claim, str(error))}

    def _heartbeat(self, claim: Claim, job: JobProcess, finished: threading.Event, lost: threading.Event) -> None:
        while not finished.wait(self._settings.lease_s / 3):
            try:
                self._ledger.renew(claim, self._settings.lease_s)
            except LeaseLost as error:
                log.warning("%s", error)
                lost.set()
                job.process.kill()  # what it does is of no use any more
                return
            except TransientError as error:
                log.warning("lease of visit %d, detector %d: %s", claim.visit, claim.detector, error)

    def _trace(self, claim: Claim, answer: dict[str, Any]) -> None:
        """Record the span of an attempt, where spans are wanted."""
        steps = answer.get("seconds", {})
        facts = {"visit": claim.visit, "detector": claim.detector, "attempt": claim.attempt, "code": answer.get("code")}
        record_span("visit", claim.message.get("traceparent"), sum(steps.values()), facts, steps)

    def _record(self, claim: Claim, answer: dict[str, Any]) -> None:
        """Write a failure to the ledger (success was written by the visit's own transaction)."""
        state = answer["state"]
        self.processed += 1
        self._trace(claim, answer)
        if state == VisitState.DONE:
            count_visit(answer, state)
            facts = {"state": state, "counts": answer.get("counts"), "steps": answer.get("seconds")}
            log.info("visit %d, detector %d: done", claim.visit, claim.detector, extra=facts)
            return
        code, text = str(answer.get("code", "internal")), str(answer.get("text", ""))
        facts = {"state": state, "code": code}
        log.warning("visit %d, detector %d: %s: %s: %s", claim.visit, claim.detector, state, code, text, extra=facts)
        then, deadline = after(answer, claim, self._patience), time.monotonic() + RECORD_S
        count_visit(answer, "retry" if then.retry_in_s is not None else then.state)
        while True:
            try:
                self._ledger.fail(claim, code, text, retry_in_s=then.retry_in_s, state=then.state, counts=then.counts)
                return
            except TransientError as error:
                if time.monotonic() > deadline:  # the lease will run out and the visit be taken again
                    log.error("visit %d, detector %d: %s", claim.visit, claim.detector, error)
                    return
                time.sleep(1)


def _about(claim: Claim, text: str) -> str:
    return f"visit {claim.visit}, detector {claim.detector}: {text}"
