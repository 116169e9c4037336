"""Pictures of visits and places, made in a child process: the process of the API runs no code of pixels."""

import json
import logging
import queue
import threading
import time
import weakref
from base64 import b64decode
from collections import OrderedDict
from typing import Any

from fastapi import Request

from apdb import Ledger
from apdb.errors import Busy, NotFound
from service.errors import JobCrashed
from service.pages.shared import resources_of
from service.settings import Settings
from service.subprocesses.answering import AnsweringProcess
from tasks.errors import AlertProdError, CallerError, TransientError

__all__ = ["Viewer", "viewer_of"]

MODULE = "service.processing.looking.viewer_process"
WAIT_S = 30.0  # for the child, when it works for somebody else
ANSWER_S = 120.0
KEPT_BYTES = 64 << 20  # of pictures and cutouts that were made
KEPT_LEAST = 4096  # bytes that an answer counts for beside its pictures
MOST_WAITING = 12  # threads for the child: the API's others answer meanwhile
MOST_RENDERING = 8  # that are made, or wait for it, at the same time
READY_S = 60.0  # an answer that was made for a page is given to those who ask again
MOST_READY = 64


class Viewer:
    """One child process, started when it is needed; several threads may ask."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._free: queue.LifoQueue[AnsweringProcess | None] = queue.LifoQueue()
        self._free.put(None)
        self._kept: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._size, self._lock = 0, threading.Lock()
        self._places = threading.BoundedSemaphore(MOST_WAITING)
        self._making: set[str] = set()
        self._ready: OrderedDict[str, tuple[float, dict[str, Any] | AlertProdError]] = OrderedDict()
        weakref.finalize(self, _end, self._free)

    def ask(self, ledger: Ledger, visit: int, detector: int, **question: Any) -> dict[str, Any]:
        """Return an answer of `service.processing.looking.viewer_process`.

        Raises
        ------
        NotFound
            The ccdVisit never came.
        Busy
            The child works for somebody else.
        AlertProdError
            Why the visit cannot be looked at.
        """
        row = ledger.get(visit, detector)
        if row is None:
            raise NotFound("never came: nobody sent a message for it", visit=visit, detector=detector)
        about = {"visit": visit, "detector": detector, "attempt": row["attempt"], **question}
        key = json.dumps(about, sort_keys=True)
        if question["what"] in ("place", "where"):  # what is stored may have changed
            return self._asked({**about, "message": row["message"]})
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        answer = self._asked({**about, "message": row["message"]})
        self._keep(key, answer)
        return answer

    def soon(self, ledger: Ledger, visit: int, detector: int, *questions: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to the last of some questions where it is there; None while a thread asks them in their order.

        Who asks again gets the answer, for `READY_S` after it came.

        Raises
        ------
        Busy
            Others wait for too much already.
        AlertProdError
            Why there is no answer.
        """
        key = json.dumps([visit, detector, questions], sort_keys=True)
        with self._lock:
            kept = self._ready.get(key)
            if kept is not None and time.monotonic() - kept[0] < READY_S:
                if isinstance(kept[1], AlertProdError):
                    raise kept[1]
                return kept[1]
            if key in self._making:
                return None
            if len(self._making) >= MOST_RENDERING:
                raise Busy("other visits are being looked at: try again")
            self._making.add(key)
        threading.Thread(target=self._make, args=(key, ledger, visit, detector, questions), daemon=True).start()
        return None

    def _make(self, key: str, ledger: Ledger, visit: int, detector: int, questions: tuple[dict[str, Any], ...]) -> None:
        answer: dict[str, Any] | AlertProdError = TransientError("nothing was made")
        try:
            for question in questions:
                answer = self.ask(ledger, visit, detector, **question)
        except AlertProdError as error:
            answer = error
        except Exception:  # the thread has nobody else to tell
            logging.getLogger("alertprod.viewer").exception("visit %s, detector %s", visit, detector)
            answer = TransientError("the pictures could not be made: the log of the API says why")
        finally:
            with self._lock:
                self._making.discard(key)
                self._ready[key] = time.monotonic(), answer
                while len(self._ready) > MOST_READY:
                    self._ready.popitem(last=False)

    def picture(self, ledger: Ledger, visit: int, detector: int, **question: Any) -> bytes:
        """Return a picture as PNG; errors as for `ask`."""
        return b64decode(self.ask(ledger, visit, detector, what="picture", **question)["png"])

    def _keep(self, key: str, answer: dict[str, Any]) -> None:
        with self._lock:
            if key in self._kept:  # another thread was first
                return
            self._kept[key] = answer
            self._size += _size(key, answer)
            while self._size > KEPT_BYTES:
                self._size -= _size(*self._kept.popitem(last=False))

    def _asked(self, question: dict[str, Any]) -> dict[str, Any]:
        if not self._places.acquire(blocking=False):
            raise Busy("many visits are being looked at: try again")
        try:
            return self._asked_child(question)
        finally:
            self._places.release()

    def _asked_child(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            child = self._free.get(timeout=WAIT_S)
        except queue.Empty:
            raise Busy("another visit is being looked at: try again") from None
        try:
            if child is None or not child.alive():
                child = AnsweringProcess(self._settings, MODULE)
            return _checked(child.ask(question, ANSWER_S))
        except JobCrashed:
            if child is not None:
                child.kill()
            raise
        finally:
            self._free.put(child if child is not None and child.alive() else None)


def viewer_of(request: Request) -> Viewer:
    """Return the viewer of the application that answers a request."""
    app = request.app
    if getattr(app.state, "viewer", None) is None:
        app.state.viewer = Viewer(resources_of(request).settings)
    viewer: Viewer = app.state.viewer
    return viewer


def _size(key: str, answer: dict[str, Any]) -> int:
    """Return the bytes that an answer takes, but for small numbers: pictures and cutouts are text in it."""
    return KEPT_LEAST + len(key) + sum(len(value) for value in answer.values() if isinstance(value, str))


def _end(free: "queue.LifoQueue[AnsweringProcess | None]") -> None:
    while not free.empty():
        child = free.get_nowait()
        if child is not None:
            child.kill()


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    error = answer.get("error")
    if error is None:
        return answer
    kind: type[AlertProdError] = TransientError if error.get("retriable") else CallerError
    told = kind(str(error["message"]))
    told.code = str(error["code"])
    raise told
