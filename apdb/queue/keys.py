"""Keys under which something was submitted: the answer of the first time is kept with it, in one transaction."""

import json
from dataclasses import dataclass
from typing import Any

import psycopg

from apdb.errors import KeyReused

__all__ = ["KEEP_DAYS", "RequestKey", "keep_answer", "known_answer", "prune_keys", "take_key"]

KEEP_DAYS = 3.0


@dataclass(frozen=True)
class RequestKey:
    """Who submits, the key that he gave, and what he submits, in short."""

    principal: str
    key: str
    digest: str


def known_answer(connection: psycopg.Connection[Any], key: RequestKey) -> tuple[int, Any] | None:
    """Return status and body of the answer that this key got before, None for a new one.

    Raises
    ------
    KeyReused
        The key came before with something else.
    """
    row = connection.execute(
        'SELECT digest, status, answer FROM "IdempotencyKey" WHERE principal = %s AND key = %s',
        (key.principal, key.key),
    ).fetchone()
    if row is None:
        return None
    if row[0] != key.digest:
        raise KeyReused(f"the Idempotency-Key {key.key!r} came before with something else: take a new one")
    return int(row[1]), row[2]


def take_key(connection: psycopg.Connection[Any], key: RequestKey) -> tuple[int, Any] | None:
    """Make a key that of the caller's transaction; returns the answer where another was first, whose end is waited for.

    Raises
    ------
    KeyReused
        As `known_answer`.
    """
    inserted = connection.execute(
        'INSERT INTO "IdempotencyKey" (principal, key, digest) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING 1',
        (key.principal, key.key, key.digest),
    ).fetchone()
    return None if inserted is not None else known_answer(connection, key)


def keep_answer(connection: psycopg.Connection[Any], key: RequestKey, status: int, answer: Any) -> None:
    """Keep the answer of a key with what it entered."""
    connection.execute(
        'UPDATE "IdempotencyKey" SET status = %s, answer = %s WHERE principal = %s AND key = %s',
        (status, json.dumps(answer), key.principal, key.key),
    )


def prune_keys(connection: psycopg.Connection[Any], days: float = KEEP_DAYS) -> int:
    """Forget the keys of long ago; returns how many."""
    return connection.execute(
        'DELETE FROM "IdempotencyKey" WHERE "createdAt" < now() - make_interval(secs => %s)', (days * 86_400.0,)
    ).rowcount
