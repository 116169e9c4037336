"""How visits come into the ledger: one or many in a transaction, each once, with what may replace them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.errors import ApdbError, ReleasesExhausted, VisitConflict, VisitRunning
from apdb.queue.states import VisitState
from apdb.rows import single_row

__all__ = ["RELEASES", "RUNNING", "Entered", "Entry", "enter", "enter_new"]

RELEASES = 64
RUNNING = "it is being processed: send it again when it has ended"
_NO_CONTENT = ("traceparent", "priority", "reprocess", "imageWaitS")  # of a message: how, not what is processed

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A visit that is to be entered.

    Parameters
    ----------
    message
        A visit message as JSON.
    visit, detector
        Its key.
    releases
        Release slots that the ids of its instrument have.
    wait_s
        Seconds that it may wait for its image, which is not there yet; None where it is, or need not be.
    """

    message: dict[str, Any]
    visit: int
    detector: int
    releases: int = RELEASES
    wait_s: float | None = None

    @property
    def key(self) -> tuple[int, int]:
        """Visit and detector."""
        return self.visit, self.detector

    @property
    def state(self) -> VisitState:
        """The state that it begins in."""
        return VisitState.QUEUED if self.wait_s is None else VisitState.WAITING

    @cached_property
    def digest(self) -> str:
        """What the message asks for, in short: how it is to be treated does not count."""
        content = {k: v for k, v in self.message.items() if k not in _NO_CONTENT}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Entered:
    """What became of an entry: its row, and whether it changed the ledger; or why it could not be entered."""

    row: Row | None
    new: bool = False
    error: ApdbError | None = None


_INSERT = """
INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, priority, "midpointMjdTai", band, "waitUntil")
SELECT v, d, i, m::jsonb, h, s, p, t, b, now() + make_interval(secs => w) FROM unnest(%s::bigint[], %s::int[], %s::text[], %s::text[],
  %s::text[], %s::text[], %s::int[], %s::float8[], %s::text[], %s::float8[]) u(v, d, i, m, h, s, p, t, b, w)
ON CONFLICT (visit, detector) DO NOTHING RETURNING *
"""


def enter_new(connection: psycopg.Connection[Any], entry: Entry) -> Entered | None:
    """Enter a visit that never came, by one statement that needs no transaction around it; None, at no change, where it came."""
    inserted = _insert(connection.cursor(row_factory=dict_row), [entry])
    return Entered(inserted[0], True) if inserted else None


def enter(connection: psycopg.Connection[Any], entries: Sequence[Entry]) -> list[Entered]:
    """Enter visits within the caller's transaction; returns what became of each, in their order.

    The same message again changes nothing. With ``reprocess = "replace"`` the message of a visit that waits is replaced, and
    one that has ended is queued again, with the next release slot where rows of it are stored. What cannot be entered
    (`VisitConflict`, `VisitRunning`, `ReleasesExhausted`) does the others no harm.
    """
    cursor = connection.cursor(row_factory=dict_row)
    ordered = sorted(entries, key=lambda e: e.key)  # two that enter the same visits wait for each other in one order
    inserted = _insert(cursor, ordered)
    new = {(row["visit"], row["detector"]): row for row in inserted}
    results: dict[int, Entered] = {}
    for entry in ordered:
        if (row := new.get(entry.key)) is not None and row["messageHash"] == entry.digest:
            results[id(entry)] = Entered(new.pop(entry.key), True)
            continue
        try:
            results[id(entry)] = _again(cursor, entry)
        except ApdbError as error:
            results[id(entry)] = Entered(None, error=error)
    return [results[id(entry)] for entry in entries]


def _insert(cursor: psycopg.Cursor[Row], entries: Sequence[Entry]) -> list[Row]:
    """Return the rows of those that never came."""
    values = [
        (
            e.visit,
            e.detector,
            e.message["instrument"],
            json.dumps(e.message),
            e.digest,
            e.state.value,
            e.message.get("priority", 0),
            e.message.get("midpointMjdTai"),
            e.message.get("band"),
            e.wait_s,
        )
        for e in entries
    ]
    return cursor.execute(_INSERT, [list(column) for column in zip(*values, strict=True)]).fetchall()


def _again(cursor: psycopg.Cursor[Row], entry: Entry) -> Entered:
    """Treat a visit that came before."""
    row = single_row(
        cursor.execute('SELECT * FROM "VisitLedger" WHERE visit = %s AND detector = %s FOR UPDATE', entry.key)
    )
    _refuse_other_camera(cursor, row, entry)
    if entry.message.get("reprocess") == "replace":
        return _replace(cursor, row, entry)
    if row["messageHash"] != entry.digest:
        raise VisitConflict(
            "this (visit, detector) came before with another message: send reprocess=replace to replace it",
            visit=entry.visit,
            detector=entry.detector,
        )
    if row["state"] == VisitState.WAITING and entry.state == VisitState.QUEUED:  # its image came
        cursor.execute(
            'UPDATE "VisitLedger" SET state = %s, "nextAt" = now(), "updatedAt" = now() WHERE visit = %s AND detector = %s '
            "RETURNING *",
            (VisitState.QUEUED, *entry.key),
        )
        return Entered(single_row(cursor))
    return Entered(row)


def _refuse_other_camera(cursor: psycopg.Cursor[Row], row: Row, entry: Entry) -> None:
    """Refuse an image of another camera whose visit has the number of one that is stored: it would take its place.

    By the names in the messages: that of the camera is in the instrument's file, which a worker reads.
    """
    if row["instrument"] == entry.message["instrument"]:
        return
    query = 'SELECT 1 FROM "StoreLedger" WHERE visit = %s AND detector = %s LIMIT 1'
    if cursor.execute(query, entry.key).fetchone() is not None:
        raise VisitConflict(
            f"this (visit, detector) is stored, of instrument {row['instrument']}, not {entry.message['instrument']}: give the visits "
            "of one camera other numbers, or withdraw this one first",
            visit=entry.visit,
            detector=entry.detector,
        )


def _replace(cursor: psycopg.Cursor[Row], row: Row, entry: Entry) -> Entered:
    """Queue a visit that came before with another message."""
    where = {"visit": row["visit"], "detector": row["detector"]}
    if row["state"] == VisitState.RUNNING:
        raise VisitRunning(RUNNING, **where)
    same = row["message"].get("reprocess") == "replace" and row["messageHash"] == entry.digest
    if row["state"] == entry.state and same:
        return Entered(row)
    release = row["release"] + (row["state"] in (VisitState.DONE, VisitState.WITHDRAWN))
    if release >= entry.releases:
        raise ReleasesExhausted(
            f"all {entry.releases} release slots are used, by the first processing and {entry.releases - 1} replacements: ids for "
            "another one would be those of earlier rows; withdraw the visit, or enter the image under another visit number",
            **where,
        )
    message = entry.message
    cursor.execute(
        'UPDATE "VisitLedger" SET state = %s, message = %s, "messageHash" = %s, release = %s, priority = %s, '
        '"midpointMjdTai" = coalesce(%s, "midpointMjdTai"), band = coalesce(%s, band), instrument = %s, '
        '"waitUntil" = now() + make_interval(secs => %s), '
        '"nextAt" = now(), "errorCode" = NULL, "errorText" = NULL, "finishedAt" = NULL, failures = 0, "updatedAt" = now() '
        "WHERE visit = %s AND detector = %s RETURNING *",
        (
            entry.state,
            json.dumps(message),
            entry.digest,
            release,
            message.get("priority", 0),
            message.get("midpointMjdTai"),
            message.get("band"),
            message["instrument"],
            entry.wait_s,
            *entry.key,
        ),
    )
    return Entered(single_row(cursor), True)
