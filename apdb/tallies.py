"""Numbers that grow as long as a survey runs - visits by state, alerts in all and by night - at a cost that does not.

The triggers of ``tallies.sql`` append a row for each change, within the transaction that makes it: whoever changes waits for nobody.
A number is the sum of its changes. Who reads many of them puts them together to one row of each name.
"""

from collections.abc import Iterable
from typing import Any

import psycopg

__all__ = ["MANY", "alerts_of_nights", "alerts_of_topic", "fold", "visits_by_state"]

MANY = 2_000  # changes: to add these up takes less than a millisecond
FOLD_LOCK = 7_006
_VISITS = "visits:"
_FOLD = (
    'WITH gone AS (DELETE FROM "Tally" RETURNING name, night, change) INSERT INTO "Tally" (name, night, change) '
    "SELECT name, night, sum(change) FROM gone GROUP BY name, night HAVING sum(change) <> 0"
)
_MAY_FOLD = (
    "SELECT NOT (pg_is_in_recovery() OR current_setting('transaction_read_only')::bool) AND has_table_privilege('\"Tally\"', "
    "'INSERT') AND has_table_privilege('\"Tally\"', 'DELETE')"
)


def visits_by_state(connection: psycopg.Connection[Any], states: Iterable[str]) -> dict[str, int]:
    """Return the number of visits in each of these states; on an autocommit connection that may write, many changes are put together."""
    names = {_VISITS + str(state): str(state) for state in states}
    rows = connection.execute(
        'SELECT name, sum(change)::bigint, count(*) FROM "Tally" WHERE name = ANY(%s) GROUP BY name',
        (list(names),),
    ).fetchall()
    if sum(n for _, _, n in rows) > MANY:
        fold(connection)
    return dict.fromkeys(names.values(), 0) | {names[name]: number for name, number, _ in rows}


def fold(connection: psycopg.Connection[Any]) -> bool:
    """Put the changes of each name together, unless somebody is about it, or this session may not write; returns whether it did.

    What is not committed yet stays as it is. The numbers are the same before and after.
    """
    if connection.execute(_MAY_FOLD).fetchone() != (True,):
        return False
    with connection.transaction():
        if connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (FOLD_LOCK,)).fetchone() != (True,):
            return False
        connection.execute(_FOLD)
    return True


def alerts_of_topic(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Return numbers of alerts: ``stored``, ``published``, ``in_topic`` (as counted there), ``dropped``, ``held`` and ``waiting``."""
    names = ("stored", "published", "in_topic", "dropped")
    rows = connection.execute(
        'SELECT name, sum(change)::bigint FROM "Tally" WHERE name = ANY(%s) GROUP BY name',
        ([f"alerts:{name}" for name in names],),
    ).fetchall()
    held, waiting = connection.execute(
        'SELECT coalesce(sum(count) FILTER (WHERE "heldReason" IS NOT NULL), 0), coalesce(sum(count) FILTER (WHERE "heldReason" '
        'IS NULL), 0) FROM "AlertOutbox" WHERE "publishedAt" IS NULL AND "droppedAt" IS NULL'
    ).fetchone() or (0, 0)
    found = {name.removeprefix("alerts:"): number for name, number in rows}
    return {name: found.get(name, 0) for name in names} | {"held": int(held), "waiting": int(waiting)}


def alerts_of_nights(connection: psycopg.Connection[Any], most: int) -> list[dict[str, Any]]:
    """Return ``night``, ``visits``, ``alerts`` and ``published`` of the newest nights that have alerts, at most so many.

    A night is the integer part of MJD - 0.5 of the exposure's end; None where that is not known.
    """
    rows = connection.execute(
        "SELECT night, coalesce(sum(change) FILTER (WHERE name = 'night:visits'), 0)::bigint, coalesce(sum(change) FILTER (WHERE name "
        "= 'night:alerts'), 0)::bigint, coalesce(sum(change) FILTER (WHERE name = 'night:published'), 0)::bigint FROM \"Tally\" "
        "WHERE name IN ('night:visits', 'night:alerts', 'night:published') GROUP BY night ORDER BY night DESC LIMIT %s",
        (most,),
    ).fetchall()
    return [{"night": n, "visits": v, "alerts": a, "published": p} for n, v, a, p in rows]
