"""The record of who did what over HTTP and with tokens, and how much of a day's quota is used, as rows."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from apdb.rows import single_row

__all__ = ["Act", "RecordedAct", "count_visits", "record", "recorded"]


@dataclass(frozen=True)
class Act:
    """Something that somebody did, or was refused.

    Parameters
    ----------
    principal
        Who.
    action
        What: a method and a path of the API, or a command.
    target
        On what: the address of a visit, the id of a token.
    status
        HTTP status of the answer.
    address
        Network address of the client.
    request_id
        Key under which the request stands in the log.
    detail
        More, as JSON; never a secret.
    """

    principal: str
    action: str
    target: str | None = None
    status: int | None = None
    address: str | None = None
    request_id: str | None = None
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class RecordedAct(Act):
    """An act with the time at which it was entered."""

    id: int
    at: datetime


def record(connection: psycopg.Connection[Any], act: Act) -> None:
    """Enter an act."""
    connection.execute(
        'INSERT INTO "AccessAudit" (principal, action, target, status, address, "requestId", detail) '
        "VALUES (%s, %s, %s, %s, %s, %s, %s)",
        (
            act.principal,
            act.action,
            act.target,
            act.status,
            act.address,
            act.request_id,
            None if act.detail is None else json.dumps(act.detail),
        ),
    )


def recorded(
    connection: psycopg.Connection[Any], *, principal: str | None = None, limit: int = 100
) -> list[RecordedAct]:
    """Return what was done, the newest first; by one principal where it is given."""
    cursor = connection.cursor(row_factory=class_row(RecordedAct))
    cursor.execute(
        'SELECT id, at, principal, action, target, status, address, "requestId" AS request_id, detail FROM "AccessAudit" '
        "WHERE %(principal)s::text IS NULL OR principal = %(principal)s ORDER BY id DESC LIMIT %(limit)s",
        {"principal": principal, "limit": limit},
    )
    return cursor.fetchall()


def count_visits(connection: psycopg.Connection[Any], principal: str, visits: int = 1) -> tuple[int, float]:
    """Add visits to what a principal submitted today (UTC, by the clock of the database); negative numbers give back.

    Returns
    -------
    used, seconds_left
        The sum of the day, and the time until the next begins.
    """
    row = single_row(
        connection.execute(
            "INSERT INTO \"AccessUsage\" (principal, day, visits) VALUES (%s, (now() AT TIME ZONE 'UTC')::date, %s) "
            'ON CONFLICT (principal, day) DO UPDATE SET visits = "AccessUsage".visits + excluded.visits '
            "RETURNING visits, extract(epoch FROM (date_trunc('day', now() AT TIME ZONE 'UTC') + interval '1 day') "
            "- (now() AT TIME ZONE 'UTC'))::float8",
            (principal, visits),
        )
    )
    return int(row[0]), float(row[1])
