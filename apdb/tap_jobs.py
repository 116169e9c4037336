"""Queries that run while nobody waits (IVOA UWS 1.1): their phases, and their answers until they are destroyed."""

import json
import secrets
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

from apdb.errors import BadQuery, Busy, NotFound

__all__ = [
    "ACTIVE", "change_job", "create_job", "delete_job", "end_job", "is_executing", "job_of", "jobs_of", "keep_waiting", "leave_job",
    "move_job", "result_of", "session_name", "stop_statement",
]  # fmt: skip

KEPT_DAYS = 7
MOST_ACTIVE = 20  # of one owner
LIMIT_S = 900.0  # one that runs for so long, or waits and is not said to wait, was left by its process
ACTIVE = ("QUEUED", "EXECUTING")
_COLUMNS = '"jobId", owner, phase, parameters, "createdAt", "startedAt", "endedAt", "destroyAt", error, "mediaType"'


def create_job(connection: psycopg.Connection[Any], owner: str, parameters: dict[str, str]) -> str:
    """Enter a job that waits to be started; returns its id. Those that are to be destroyed by now, are.

    Raises
    ------
    Busy
        The owner has many that are not over.
    """
    connection.execute('DELETE FROM "TapJob" WHERE "destroyAt" < now()')
    (active,) = connection.execute(
        "SELECT count(*) FROM \"TapJob\" WHERE owner = %s AND phase IN ('PENDING', 'QUEUED', 'EXECUTING') AND \"createdAt\" > "
        "now() - interval '1 hour'",
        (owner,),
    ).fetchone() or (0,)
    if active >= MOST_ACTIVE:
        raise Busy(f"{active} queries of {owner} are not over: wait for them, or delete some")
    number = secrets.token_hex(12)
    connection.execute(
        'INSERT INTO "TapJob" ("jobId", owner, phase, parameters, "destroyAt") VALUES (%s, %s, \'PENDING\', %s, now() + '
        "make_interval(days => %s))",
        (number, owner, json.dumps(parameters), KEPT_DAYS),
    )
    return number


def job_of(connection: psycopg.Connection[Any], owner: str, number: str) -> dict[str, Any]:
    """Return a job; one whose process went away has failed.

    Raises
    ------
    NotFound
        The owner has none of this id.
    """
    _give_up(connection)
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            f'SELECT {_COLUMNS} FROM "TapJob" WHERE "jobId" = %s AND owner = %s', (number, owner)
        ).fetchone()
    if row is None:
        raise NotFound(f"there is no query {number}")
    return row


def jobs_of(
    connection: psycopg.Connection[Any],
    owner: str,
    phases: Sequence[str] = (),
    after: datetime | None = None,
    last: int | None = None,
) -> list[dict[str, Any]]:
    """Return the jobs of an owner, the newest first: those of some phases, made after a time, the last few; 500 at most."""
    _give_up(connection)
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            f'SELECT {_COLUMNS} FROM "TapJob" WHERE owner = %(owner)s AND (%(phases)s::text[] IS NULL OR phase = ANY(%(phases)s)) AND '
            '(%(after)s::timestamptz IS NULL OR "createdAt" > %(after)s) ORDER BY "createdAt" DESC, "jobId" LIMIT %(last)s',
            {
                "owner": owner,
                "phases": list(phases) or None,
                "after": after,
                "last": min(500 if last is None else last, 500),
            },
        ).fetchall()


def _give_up(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "UPDATE \"TapJob\" SET phase = 'ERROR', \"endedAt\" = now(), error = 'the process that ran it went away: start it again' "
        'WHERE phase = ANY(%s) AND coalesce("startedAt", "createdAt") < now() - make_interval(secs => %s)',
        (list(ACTIVE), LIMIT_S),
    )


def move_job(connection: psycopg.Connection[Any], number: str, before: tuple[str, ...], after: str) -> bool:
    """Bring a job from one of some phases into another; False where it was in none of them.

    ``startedAt`` is when it was last said to wait, then when it began.
    """
    return (
        connection.execute(
            'UPDATE "TapJob" SET phase = %s, "startedAt" = CASE WHEN %s IN (\'QUEUED\', \'EXECUTING\') THEN now() ELSE "startedAt" END, '
            '"endedAt" = CASE WHEN %s = \'ABORTED\' THEN now() END WHERE "jobId" = %s AND phase = ANY(%s)',
            (after, after, after, number, list(before)),
        ).rowcount
        == 1
    )


def end_job(
    connection: psycopg.Connection[Any], number: str, result: bytes | None, media_type: str | None, error: str | None
) -> None:
    """Store the answer of a job, or why there is none; one that was aborted or deleted meanwhile stays so."""
    connection.execute(
        'UPDATE "TapJob" SET phase = %s, "endedAt" = now(), result = %s, "mediaType" = %s, error = %s WHERE "jobId" = %s AND '
        "phase = 'EXECUTING'",
        ("COMPLETED" if error is None else "ERROR", result, media_type, error, number),
    )


def result_of(connection: psycopg.Connection[Any], owner: str, number: str) -> tuple[bytes, str]:
    """Return the answer of a job, and its media type.

    Raises
    ------
    NotFound
        There is none.
    """
    row = connection.execute(
        'SELECT result, "mediaType" FROM "TapJob" WHERE "jobId" = %s AND owner = %s AND phase = \'COMPLETED\'',
        (number, owner),
    ).fetchone()
    if row is None:
        raise NotFound(f"query {number} has no answer")
    return bytes(row[0]), str(row[1])


def keep_waiting(connection: psycopg.Connection[Any], numbers: Collection[str]) -> None:
    """Say of jobs that wait in a process that it still has them."""
    connection.execute(
        'UPDATE "TapJob" SET "startedAt" = now() WHERE "jobId" = ANY(%s) AND phase = \'QUEUED\'', (list(numbers),)
    )


def leave_job(connection: psycopg.Connection[Any], number: str) -> None:
    """Enter that the process which had a job stops before its end."""
    connection.execute(
        "UPDATE \"TapJob\" SET phase = 'ERROR', \"endedAt\" = now(), error = 'the service was stopped: start it again' "
        'WHERE "jobId" = %s AND phase = ANY(%s)',
        (number, list(ACTIVE)),
    )


def change_job(
    connection: psycopg.Connection[Any],
    owner: str,
    number: str,
    *,
    parameters: dict[str, str] | None = None,
    destroy_at: datetime | None = None,
) -> None:
    """Give a job that was not started other parameters, or any job another time of its end: a week from its making at most.

    Raises
    ------
    NotFound
        The owner has none of this id.
    BadQuery
        Its parameters cannot be changed any more.
    """
    row = job_of(connection, owner, number)
    if parameters is not None and (
        connection.execute(
            'UPDATE "TapJob" SET parameters = %s WHERE "jobId" = %s AND owner = %s AND phase = \'PENDING\'',
            (json.dumps(row["parameters"] | parameters), number, owner),
        ).rowcount
        != 1
    ):
        raise BadQuery(f"query {number} was started: its parameters stay as they are")
    if destroy_at is not None:
        connection.execute(
            'UPDATE "TapJob" SET "destroyAt" = least(%s, "createdAt" + make_interval(days => %s)) WHERE "jobId" = %s AND owner = %s',
            (destroy_at, KEPT_DAYS, number, owner),
        )


def session_name(number: str) -> str:
    """Return how a connection calls itself that runs the statement of a job."""
    return f"alertprod tap {number}"


def is_executing(connection: psycopg.Connection[Any], number: str) -> bool:
    """Whether a job is still wanted whose statement is about to begin."""
    return (
        connection.execute('SELECT 1 FROM "TapJob" WHERE "jobId" = %s AND phase = \'EXECUTING\'', (number,)).fetchone()
        is not None
    )


def stop_statement(connection: psycopg.Connection[Any], number: str) -> None:
    """End the connection that runs the statement of a job, in whatever process: the statement ends with it.

    A mere cancellation would be lost where the statement is about to begin.
    """
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND usename = current_user",
        (session_name(number),),
    )


def delete_job(connection: psycopg.Connection[Any], owner: str, number: str) -> None:
    """Delete a job and its answer.

    Raises
    ------
    NotFound
        The owner has none of this id.
    """
    removed = connection.execute('DELETE FROM "TapJob" WHERE "jobId" = %s AND owner = %s', (number, owner)).rowcount
    if not removed:
        raise NotFound(f"there is no query {number}")
