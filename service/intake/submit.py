"""The use case behind every door, HTTP, Kafka and commands: check visit messages and enter them into the ledger."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apdb import Database, Ledger, VisitState
from apdb.queue.entries import Entered, Entry, enter, enter_new
from apdb.queue.keys import RequestKey, keep_answer, known_answer, take_key
from service.errors import BadMessage, help_path
from service.intake.headers import ReadsHeaders
from service.intake.message import VisitMessage, local_path, parse_message, resolve_message
from service.observe.log import about
from service.observe.traces import current_traceparent, trace_id
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError

__all__ = ["Answer", "Submission", "content_digest", "describe", "image_is_there", "submit_visit"]

LIMIT_S = 30.0  # of a transaction: then the database counts as away
Answer = tuple[int, Any]  # status and body

log = logging.getLogger("alertprod.submit")


def submit_visit(data: Any, settings: Settings, ledger: Ledger, headers: ReadsHeaders) -> tuple[dict[str, Any], bool]:
    """Enter a visit; returns its description and whether it is new. `headers` reads those of the image where they are needed.

    Raises
    ------
    BadMessage, ForbiddenLocation, VisitConflict, VisitRunning, ReleasesExhausted, InstrumentError, FitsUnreadable,
    DatabaseUnavailable
    """
    row, new = ledger.enter(_prepared(data, settings, headers))
    _tell(row, new)
    return describe(row), new


@dataclass(frozen=True)
class Submission:
    """Enters messages in one transaction, with the key under which they came.

    Parameters
    ----------
    settings, headers
        As for `submit_visit`.
    database
        Where they go.
    key
        Of the request; None without.
    """

    settings: Settings
    headers: ReadsHeaders
    database: Database
    key: RequestKey | None = None

    def one(self, data: Any) -> tuple[Answer, bool]:
        """Enter one message; returns the answer, and whether it was given before.

        Raises
        ------
        AlertProdError
            As `submit_visit`; or the key came with another message.
        """
        return self._keyed(lambda: [_prepared(data, self.settings, self.headers)], _answer_of_one)

    def many(self, messages: Sequence[Any]) -> tuple[Answer, bool]:
        """Enter many messages; what cannot be entered does the others no harm, and its result says why.

        Returns
        -------
        answer, replayed
            202 where all were taken, 207 else; ``accepted``, ``refused``, and ``results`` in the order of the messages.

        Raises
        ------
        TransientError
            Nothing was entered.
        KeyReused
            The key came with other messages.
        """
        return self._keyed(lambda: [self._tried(data) for data in messages], _answer_of_many)

    def _tried(self, data: Any) -> Entry | AlertProdError:
        try:
            return _prepared(data, self.settings, self.headers)
        except TransientError:
            raise
        except AlertProdError as error:
            return error

    def _keyed(
        self,
        prepare: "Callable[[], Sequence[Entry | AlertProdError]]",
        answer_of: Callable[[list[Entered | AlertProdError]], Answer],
    ) -> tuple[Answer, bool]:
        """Answer with what is known of the key; else enter, and keep the answer in the same transaction."""
        if self.key is not None and (earlier_answer := self._known(self.key)) is not None:
            return earlier_answer, True
        prepared = prepare()  # which may read files: no transaction waits for them
        entries = [p for p in prepared if isinstance(p, Entry)]
        if self.key is None and len(prepared) == len(entries) == 1 and (new := self._at_once(entries[0])) is not None:
            return answer_of([new]), False
        with self.database.session(LIMIT_S) as connection, connection.transaction():
            if self.key is not None and (earlier_answer := take_key(connection, self.key)) is not None:
                return earlier_answer, True
            entered = enter(connection, entries) if entries else []
            each = iter(entered)
            answer = answer_of([next(each) if isinstance(p, Entry) else p for p in prepared])
            if self.key is not None:
                keep_answer(connection, self.key, *answer)
        for one in entered:
            if one.row is not None:
                _tell(one.row, one.new)
        return answer, False

    def _at_once(self, entry: Entry) -> Entered | None:
        """Enter a visit that never came, which most are, without the round trips of a transaction; else None."""
        with self.database.session(LIMIT_S) as connection:
            entered = enter_new(connection, entry)
        if entered is not None and entered.row is not None:
            _tell(entered.row, True)
        return entered

    def _known(self, key: RequestKey) -> Answer | None:
        with self.database.session(LIMIT_S) as connection:
            return known_answer(connection, key)


def _tell(row: dict[str, Any], new: bool) -> None:
    """Write that a visit was entered, under its trace."""
    with about(visit=row["visit"], detector=row["detector"], trace_id=trace_id(row["message"].get("traceparent"))):
        log.info("visit %d, detector %d: %s", row["visit"], row["detector"], "entered" if new else "is known")


def content_digest(*content: Any) -> str:
    """Return in short what a request is about."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prepared(data: Any, settings: Settings, headers: ReadsHeaders) -> Entry:
    """Check a message, and see whether its image is there where it may be late."""
    from exposure.instrument import load_instrument  # reads times: loaded by the first message

    roots = [*settings.data_roots, settings.upload_dir]
    message = parse_message(data)
    wait_s = _late(message, settings, roots)
    message = resolve_message(message, roots, headers)
    slots = load_instrument(message.instrument).packer().n_releases
    return Entry({"traceparent": current_traceparent(), **message.as_json()}, *message.key, slots, wait_s)


def _late(message: VisitMessage, settings: Settings, roots: list[Path]) -> float | None:
    """Return how long a message may wait for its image; None where that is there, or is not waited for."""
    wait_s = settings.image_wait_s if message.imageWaitS is None else message.imageWaitS
    if not wait_s or image_is_there(message.science, roots):
        return None
    if message.visit is None or message.detector is None:
        raise BadMessage(
            "its image is not there: a message that comes before it must say visit and detector, which are in its header"
        )
    return wait_s


def image_is_there(uri: str, roots: list[Path]) -> bool:
    """Whether the file of an image is there, with something in it.

    Raises
    ------
    ForbiddenLocation
        It is none that may be read.
    """
    from exposure.io.opening import split_choice

    file, _ = split_choice(str(local_path(uri, roots)))
    try:
        return file.is_file() and file.stat().st_size > 0
    except OSError:
        return False


def _answer_of_one(results: list[Entered | AlertProdError]) -> Answer:
    (result,) = results
    if isinstance(result, AlertProdError):
        raise result
    if result.row is None:
        raise result.error or AssertionError("neither entered nor refused")
    return 202, {**describe(result.row), "new": result.new}


def _answer_of_many(results: list[Entered | AlertProdError]) -> Answer:
    told = [_result(r) for r in results]
    refused = sum("error" in r for r in told)
    return 207 if refused else 202, {"accepted": len(told) - refused, "refused": refused, "results": told}


def _result(result: Entered | AlertProdError) -> dict[str, Any]:
    error = result if isinstance(result, AlertProdError) else result.error
    if error is not None:
        return {"error": {"code": error.code, "message": str(error), "help": help_path(error.code)}}
    row = result.row if isinstance(result, Entered) else None
    if row is None:
        raise AssertionError("neither entered nor refused")
    state = {name: row[name] for name in ("visit", "detector", "state")}
    return {**state, "new": isinstance(result, Entered) and result.new}


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a client sees of a ledger row."""
    error = None
    if row["errorCode"]:
        error = {"code": row["errorCode"], "message": row["errorText"], "help": help_path(row["errorCode"])}
    waits = row["state"] == VisitState.WAITING and row["waitUntil"] is not None
    return {
        "visit": row["visit"],
        "detector": row["detector"],
        "state": row["state"],
        "attempt": row["attempt"],
        "priority": row["priority"],
        "instrument": row["instrument"],
        "band": row["band"],
        "midpointMjdTai": row["midpointMjdTai"],
        "release": row["release"],
        "traceId": trace_id(row["message"].get("traceparent")),
        "counts": row["counts"],
        "seconds": row["seconds"],
        "error": error,
        "waitUntil": row["waitUntil"].isoformat() if waits else None,
        "createdAt": row["createdAt"].isoformat(),
        "updatedAt": row["updatedAt"].isoformat(),
        "finishedAt": None if row["finishedAt"] is None else row["finishedAt"].isoformat(),
    }
