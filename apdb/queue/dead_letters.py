"""Dead letters: visit messages that could not be entered, whole, with where they came from and why."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.audit import audit
from apdb.errors import NotFound
from apdb.rows import single_row

__all__ = [
    "DeadLetter",
    "DeadLetterState",
    "add",
    "counts",
    "get",
    "listed",
    "mark_published",
    "resolve",
    "set_reason",
    "unpublished",
]

Headers = Sequence[tuple[str, bytes | None]]


class DeadLetterState(StrEnum):
    """A dead letter waits for a person, who has it entered again or discards it."""

    WAITING = "waiting"
    REQUEUED = "requeued"
    DISCARDED = "discarded"


@dataclass(frozen=True)
class DeadLetter:
    """A message that could not be entered.

    Parameters
    ----------
    topic, partition, offset
        Where it came from.
    key, value, headers
        What it was, byte by byte.
    sent_at
        Its own time.
    code, text
        Why it could not be entered.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    sent_at: datetime | None
    code: str
    text: str

    @property
    def digest(self) -> str:
        """What tells it from another message at the same place of a topic that was made anew."""
        return hashlib.sha256(b"\0".join([self.key or b"", self.value or b""])).hexdigest()


# everything but key and value, which may be large
_SHOWN = (
    'id, topic, partition, "offset", length(value) AS size, "sentAt", "errorCode", "errorText", state, "topicError", '
    '"publishedAt", "createdAt", "updatedAt"'
)
_SAME_MESSAGE = 'topic = %s AND partition = %s AND "offset" = %s AND digest = %s'


def _plain(text: str) -> str:
    """Return text as the database can hold it: no NUL, no half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def add(connection: psycopg.Connection[Any], letter: DeadLetter) -> tuple[int, bool]:
    """Keep a dead letter; returns its number and whether its topic has it. The same message again is one row."""
    headers = [[_plain(k), None if v is None else b64encode(v).decode()] for k, v in letter.headers]
    message_key = (letter.topic, letter.partition, letter.offset, letter.digest)
    connection.execute(
        'INSERT INTO "DeadLetter" (topic, partition, "offset", digest, key, value, headers, "sentAt", "errorCode", '
        '"errorText", state) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING',
        (
            *message_key, letter.key, letter.value, json.dumps(headers), letter.sent_at, letter.code, _plain(letter.text),
            DeadLetterState.WAITING,
        ),
    )  # fmt: skip
    row = single_row(
        connection.execute(f'SELECT id, "publishedAt" IS NOT NULL FROM "DeadLetter" WHERE {_SAME_MESSAGE}', message_key)
    )
    return int(row[0]), bool(row[1])


def mark_published(connection: psycopg.Connection[Any], number: int, refused: str | None = None) -> None:
    """Note that the topic of dead letters has one, or why it refused it."""
    connection.execute(
        'UPDATE "DeadLetter" SET "publishedAt" = CASE WHEN %s::text IS NULL THEN now() END, "topicError" = %s WHERE id = %s',
        (refused, None if refused is None else _plain(refused), number),
    )


def unpublished(connection: psycopg.Connection[Any], limit: int) -> list[int]:
    """Return the numbers of dead letters that their topic lacks, the oldest first."""
    rows = connection.execute('SELECT id FROM "DeadLetter" WHERE "publishedAt" IS NULL ORDER BY id LIMIT %s', (limit,))
    return [int(row[0]) for row in rows.fetchall()]


def listed(
    connection: psycopg.Connection[Any], state: str | None = None, limit: int = 100, before: int | None = None
) -> list[dict[str, Any]]:
    """Return what is known of dead letters without their contents, the newest first; of one state, before a number."""
    cursor = connection.cursor(row_factory=dict_row)
    return cursor.execute(
        f'SELECT {_SHOWN} FROM "DeadLetter" WHERE (%(state)s::text IS NULL OR state = %(state)s) AND '
        "(%(before)s::bigint IS NULL OR id < %(before)s) ORDER BY id DESC LIMIT %(limit)s",
        {"state": state, "limit": limit, "before": before},
    ).fetchall()


def counts(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Return the number of dead letters by state."""
    rows = connection.execute('SELECT state, count(*) FROM "DeadLetter" GROUP BY state').fetchall()
    return {state.value: 0 for state in DeadLetterState} | dict(rows)


def get(connection: psycopg.Connection[Any], number: int) -> tuple[dict[str, Any], DeadLetter]:
    """Return what is known of a dead letter, and the letter itself.

    Raises
    ------
    NotFound
        There is none of that number.
    """
    cursor = connection.cursor(row_factory=dict_row)
    row = cursor.execute(f'SELECT {_SHOWN}, key, value, headers FROM "DeadLetter" WHERE id = %s', (number,)).fetchone()
    if row is None:
        raise NotFound(f"no dead letter {number}: 'alertprod dead-letters list' shows those that are there")
    key, value = row.pop("key"), row.pop("value")
    headers = [(k, None if v is None else b64decode(v)) for k, v in row.pop("headers")]
    origin = (row["topic"], row["partition"], row["offset"])
    return row, DeadLetter(*origin, key, value, headers, row["sentAt"], row["errorCode"], row["errorText"])


def set_reason(connection: psycopg.Connection[Any], number: int, code: str, text: str) -> None:
    """Note why a dead letter could not be entered again."""
    connection.execute(
        'UPDATE "DeadLetter" SET "errorCode" = %s, "errorText" = %s, "updatedAt" = now() WHERE id = %s',
        (code, _plain(text), number),
    )


def resolve(connection: psycopg.Connection[Any], number: int, state: DeadLetterState) -> dict[str, Any]:
    """Set a dead letter that waits to ``requeued`` or ``discarded``; returns what is known of it. It is audited.

    Raises
    ------
    NotFound
        None of that number waits.
    """
    with connection.transaction():
        cursor = connection.cursor(row_factory=dict_row)
        row = cursor.execute(
            f'UPDATE "DeadLetter" SET state = %s, "updatedAt" = now() WHERE id = %s AND state = %s RETURNING {_SHOWN}',
            (state, number, DeadLetterState.WAITING),
        ).fetchone()
        if row is None:
            raise NotFound(f"no dead letter {number} waits: 'alertprod dead-letters list' shows those that do")
        identity = {"id": number, "topic": row["topic"], "partition": row["partition"], "offset": row["offset"]}
        audit(connection, f"{state} dead letter", "DeadLetter", 1, identity)
    return row
