"""Headers of foreign files, read in child processes with limits: never in the process that takes messages."""

import queue
import weakref
from pathlib import Path
from typing import Any, Protocol

from apdb.errors import Busy
from service.errors import JobCrashed, StorageUnavailable
from service.settings import Settings
from service.subprocesses.answering import AnsweringProcess
from service.subprocesses.limits import STUCK, cpu_allowance_s
from tasks.errors import AlertProdError, CallerError, TransientError

__all__ = ["HeaderReader", "ReadsHeaders", "read_facts"]

CHILDREN = 2
WAIT_S = 15.0  # for a child that is free
SLACK_S = 20.0  # beyond its processor time: then it is the storage that does not answer
_MODULE = "service.intake.header_process"


class ReadsHeaders(Protocol):
    """Reads visit, detector and time of an image."""

    def __call__(self, path: Path, instrument: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Return them by the names of a visit message; `facts` is what the message says of the image."""


def read_facts(path: Path, instrument: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return visit, detector and time from the headers of a file, read in this process: for files of one's own.

    Raises
    ------
    FitsUnreadable, CardInvalid, InstrumentError
        With what to do.
    """
    from exposure.instrument import load_instrument
    from exposure.io.native import open_fits
    from exposure.io.plain import header_visit_info

    with open_fits(path) as hdus:
        info = header_visit_info(hdus, load_instrument(instrument), facts, path)
    return {"visit": info.visit, "detector": info.detector, "midpointMjdTai": info.midpoint_mjd_tai}


class HeaderReader:
    """Reads headers in child processes, which are started when they are needed and kept; several threads may ask.

    A child has limits of memory, processor time and file size. What it cannot do within them is the file's fault.
    """

    def __init__(self, settings: Settings, children: int = CHILDREN) -> None:
        self._settings = settings
        self._free: queue.LifoQueue[AnsweringProcess | None] = queue.LifoQueue()
        for _ in range(children):
            self._free.put(None)
        self._end = weakref.finalize(self, _end, self._free)

    def __call__(self, path: Path, instrument: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Return visit, detector and time of an image by the names of a visit message.

        Raises
        ------
        AlertProdError
            As the child found it: code and text; or the file is too much for it (``fits_unreadable``).
        Busy
            Every child reads.
        """
        try:
            child = self._free.get(timeout=WAIT_S)
        except queue.Empty:
            raise Busy("headers of other messages are being read: try again") from None
        question = {"path": str(path), "instrument": instrument, "facts": facts}
        timeout_s = cpu_allowance_s([path]) + SLACK_S
        try:
            for last in (
                False,
                True,
            ):  # one that had died, or dies in a way that need not be the file's fault, is replaced once
                if child is None or not child.alive():
                    child = AnsweringProcess(self._settings, _MODULE)
                try:
                    return _checked(child.ask(question, timeout_s))
                except JobCrashed as error:
                    child.kill()
                    if last or error.status in (None, -STUCK):
                        raise _told(error, path) from error
            raise AssertionError("unreachable")
        finally:
            self._free.put(child if child is not None and child.alive() else None)

    def close(self) -> None:
        """End the children; so does the end of this object, and that of the process."""
        self._end()


def _end(free: "queue.LifoQueue[AnsweringProcess | None]") -> None:
    """Kill the children that are free."""
    while True:
        try:
            child = free.get_nowait()
        except queue.Empty:
            return
        if child is not None:
            child.kill()


def _told(error: JobCrashed, path: Path) -> AlertProdError:
    """Return what the death of a child means for the file that it read."""
    from exposure.errors import FitsUnreadable

    if error.status is None:
        return StorageUnavailable(f"{path.name}: its header was not read in time: does the storage answer?")
    why = (
        "takes more processor time than a file of its size may"
        if error.status == -STUCK
        else f"ends the process that reads it (status {error.status})"
    )
    return FitsUnreadable(f"{path.name} {why}: refused")


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if error is None:
        return answer
    kind = TransientError if error["retriable"] else CallerError
    told = kind(str(error["message"]))
    told.code = str(error["code"])
    raise told
