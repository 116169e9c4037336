"""Tokens of the HTTP API as rows: only their hashes are kept, so that nobody can use what stands in the database."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from apdb.errors import NotFound

__all__ = ["StoredToken", "add_token", "find_token", "list_tokens", "revoke_token", "sessions_of"]

USED_EVERY_S = 60  # last use is written no oftener: a read must not cost a write
_FIELDS = (
    '"tokenId" AS token_id, name, hash, scopes, "createdAt" AS created_at, "createdBy" AS created_by, '
    '"expiresAt" AS expires_at, "lastUsedAt" AS last_used_at, "revokedAt" AS revoked_at, "revokedBy" AS revoked_by, '
    'GREATEST(extract(epoch FROM LEAST("expiresAt", CASE WHEN "createdBy" LIKE \'session of %%\' THEN '
    'coalesce("lastUsedAt", "createdAt") + interval \'1 hour\' END) - now()), 0)::float8 AS seconds_left'
)


@dataclass(frozen=True)
class StoredToken:
    """One token without its secret.

    Parameters
    ----------
    token_id
        Public name: it may stand in logs.
    name
        Who the token was made for.
    hash
        SHA-256 of the token.
    scopes
        What it allows.
    created_at, created_by, expires_at, last_used_at, revoked_at, revoked_by
        Its life.
    seconds_left
        Until it expires, by the clock of the database; 0 where it has. A session also expires an hour after its last use.
    """

    token_id: str
    name: str
    hash: bytes
    scopes: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    seconds_left: float

    @property
    def is_session(self) -> bool:
        """Whether it was made from another token, for a browser."""
        return self.created_by.startswith("session of ")

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "valid" if self.seconds_left > 0 else "expired"


def add_token(
    connection: psycopg.Connection[Any],
    token_id: str,
    name: str,
    digest: bytes,
    scopes: Sequence[str],
    days: float,
    by: str,
) -> None:
    """Enter a token that is valid for a number of days from now."""
    connection.execute(
        'INSERT INTO "AccessToken" ("tokenId", name, hash, scopes, "createdBy", "expiresAt") VALUES '
        "(%s, %s, %s, %s, %s, now() + make_interval(secs => %s))",
        (token_id, name, digest, list(scopes), by, days * 86400.0),
    )


def find_token(connection: psycopg.Connection[Any], digest: bytes) -> StoredToken | None:
    """Return the token of a hash whatever its state, None where there is none; of a valid one the use is noted."""
    cursor = connection.cursor(row_factory=class_row(StoredToken))
    cursor.execute(f'SELECT {_FIELDS} FROM "AccessToken" WHERE hash = %s', (digest,))
    token = cursor.fetchone()
    if token is not None and token.state == "valid":
        with suppress(psycopg.errors.ReadOnlySqlTransaction):  # who may read a standby is known there too
            connection.execute(
                'UPDATE "AccessToken" SET "lastUsedAt" = now() WHERE "tokenId" = %s AND '
                '("lastUsedAt" IS NULL OR "lastUsedAt" < now() - make_interval(secs => %s))',
                (token.token_id, USED_EVERY_S),
            )
    return token


def list_tokens(connection: psycopg.Connection[Any]) -> list[StoredToken]:
    """Return all tokens, the newest first."""
    cursor = connection.cursor(row_factory=class_row(StoredToken))
    cursor.execute(f'SELECT {_FIELDS} FROM "AccessToken" ORDER BY "createdAt" DESC, "tokenId"', ())
    return cursor.fetchall()


def sessions_of(connection: psycopg.Connection[Any], name: str) -> list[StoredToken]:
    """Return the sessions of a name that have not ended, the newest first."""
    cursor = connection.cursor(row_factory=class_row(StoredToken))
    cursor.execute(
        f'SELECT {_FIELDS} FROM "AccessToken" WHERE name = %s AND "createdBy" LIKE \'session of %%\' AND "revokedAt" IS NULL '
        'AND "expiresAt" > now() ORDER BY "createdAt" DESC, "tokenId"',
        (name,),
    )
    return [token for token in cursor.fetchall() if token.state == "valid"]


def revoke_token(connection: psycopg.Connection[Any], token_id: str, by: str) -> None:
    """Make a token useless for ever, and every session that was made from it; one that is revoked stays as it was.

    Raises
    ------
    NotFound
        There is none of that id.
    """
    done = connection.execute(
        'UPDATE "AccessToken" SET "revokedAt" = coalesce("revokedAt", now()), "revokedBy" = coalesce("revokedBy", %s) '
        'WHERE "tokenId" = %s OR "createdBy" = %s',
        (by, token_id, f"session of {token_id}"),
    ).rowcount
    if done == 0:
        raise NotFound(f"no token {token_id}: 'alertprod tokens list' shows their ids")
