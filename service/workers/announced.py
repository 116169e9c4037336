"""Which announcements of next visits a slot of a worker has yet to prepare, while it has no visit."""

import logging
import threading
import time
from contextlib import suppress
from typing import Any

from apdb import Database
from apdb.announcements import announced
from service.errors import JobCrashed
from service.workers.job_process import JobProcess
from tasks.errors import TransientError

__all__ = ["Announced"]

log = logging.getLogger("alertprod.worker")
LOOK_S = 2.0  # between two looks, of all slots
PREPARE_S = 30.0  # for one announcement: then the job process is ended


class Announced:
    """The announcements that hold, looked up once for all slots; each slot prepares each of them once, the newest first."""

    def __init__(self, database: Database) -> None:
        self._database, self._lock = database, threading.Lock()
        self._rows: list[dict[str, Any]] = []
        self._last_look = float("-inf")
        self._done: dict[int, set[int]] = {}

    def prepare(self, slot: int, job: JobProcess) -> bool:
        """Have one announcement prepared by the job process of a slot; False where there is none."""
        row = self._next(slot)
        if row is None:
            return False
        try:
            log.info("next visit %d: %s", row["id"], job.prepare(row["announcement"], PREPARE_S))
        except JobCrashed as error:
            log.warning("next visit %d: %s", row["id"], error)
            job.kill()
        return True

    def _next(self, slot: int) -> dict[str, Any] | None:
        with self._lock:
            if time.monotonic() - self._last_look >= LOOK_S:
                self._last_look = time.monotonic()
                with suppress(TransientError), self._database.session(10.0) as connection:
                    self._rows = announced(connection)
            done = self._done.setdefault(slot, set())
            done &= {row["id"] for row in self._rows}
            row = next((row for row in self._rows if row["id"] not in done), None)
            if row is not None:
                done.add(row["id"])
            return row
