"""What a person does with dead letters: look at them, have one entered again, discard it."""

from base64 import b64encode
from typing import Any

from apdb import Database, Ledger
from apdb.errors import NotFound
from apdb.queue import dead_letters
from apdb.queue.dead_letters import DeadLetter, DeadLetterState
from service.errors import help_path
from service.intake.headers import ReadsHeaders
from service.intake.message import decode_message
from service.intake.reasons import reason_of
from service.intake.submit import submit_visit
from service.settings import Settings

__all__ = ["describe_letter", "discard", "listed_letters", "requeue", "whole_letter"]


def describe_letter(row: dict[str, Any]) -> dict[str, Any]:
    """Return what people see of a dead letter without its contents."""
    error = {"code": row["errorCode"], "message": row["errorText"], "help": help_path(row["errorCode"])}
    plain = ("id", "state", "topic", "partition", "offset", "size", "topicError")
    times = ("sentAt", "publishedAt", "createdAt", "updatedAt")
    return {
        **{name: row[name] for name in plain},
        **{name: None if row[name] is None else row[name].isoformat() for name in times},
        "error": error,
    }


def _readable(value: bytes | None) -> dict[str, str] | None:
    """Return bytes as text where they are text, else as base64."""
    if value is None:
        return None
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}


def listed_letters(database: Database, state: str | None, limit: int, before: int | None) -> list[dict[str, Any]]:
    """Return descriptions of dead letters, the newest first."""
    with database.session() as connection:
        return [describe_letter(row) for row in dead_letters.listed(connection, state, limit, before)]


def whole_letter(database: Database, number: int) -> dict[str, Any]:
    """Return the description of a dead letter with its key, headers and value.

    Raises
    ------
    NotFound
        There is none of that number.
    """
    with database.session() as connection:
        row, letter = dead_letters.get(connection, number)
    headers = [{"name": name, "value": _readable(value)} for name, value in letter.headers]
    whole = {"key": _readable(letter.key), "headers": headers, "value": _readable(letter.value)}
    return {**describe_letter(row), **whole}


def requeue(database: Database, number: int, settings: Settings, headers: ReadsHeaders) -> dict[str, Any]:
    """Enter the message of a dead letter into the ledger; returns the description of its visit.

    Raises
    ------
    NotFound
        None of that number waits.
    AlertProdError
        It cannot be entered: the dead letter has this reason now.
    """
    letter = _waiting(database, number)
    try:
        visit, _ = submit_visit(decode_message(letter.value), settings, Ledger(database), headers)
    except Exception as error:
        reason = reason_of(error)
        with database.session() as connection:
            dead_letters.set_reason(connection, number, reason.code, str(reason))
        raise reason from error
    with database.session() as connection:
        dead_letters.resolve(connection, number, DeadLetterState.REQUEUED)
    return visit


def _waiting(database: Database, number: int) -> DeadLetter:
    with database.session() as connection:
        row, letter = dead_letters.get(connection, number)
    if row["state"] != DeadLetterState.WAITING:
        raise NotFound(f"dead letter {number} does not wait any more: it is {row['state']}")
    return letter


def discard(database: Database, number: int) -> dict[str, Any]:
    """Set a dead letter aside for good; its row stays. Returns its description.

    Raises
    ------
    NotFound
        None of that number waits.
    """
    with database.session() as connection:
        return describe_letter(dead_letters.resolve(connection, number, DeadLetterState.DISCARDED))
