"""How many alerts passed the filter of each further topic, by night: counted by the transactions that mark a visit as published."""

from collections.abc import Mapping
from typing import Any

import psycopg

__all__ = ["add_yields", "yields"]

_PREFIX = "filter:"  # names of these totals: filter:NIGHT:TOPIC


def add_yields(connection: psycopg.Connection[Any], night: int, passed: Mapping[str, int]) -> None:
    """Add the alerts of one ccdVisit that passed, by topic; a topic that none passed to counts the visit alone.

    Parameters
    ----------
    night
        Integer part of MJD - 0.5 of the exposure.
    """
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO "DeliveryTotals" AS t (name, alerts, visits, "shutterSeconds") VALUES (%s, %s, 1, 0) ON CONFLICT (name) '
            "DO UPDATE SET alerts = t.alerts + excluded.alerts, visits = t.visits + 1",
            [(f"{_PREFIX}{night}:{topic}", count) for topic, count in sorted(passed.items())],
        )


def yields(connection: psycopg.Connection[Any]) -> dict[int, dict[str, int]]:
    """Return the alerts that passed, by night and topic; nights without any count are not there."""
    rows = connection.execute("SELECT name, alerts FROM \"DeliveryTotals\" WHERE name LIKE 'filter:%'").fetchall()
    out: dict[int, dict[str, int]] = {}
    for name, count in rows:
        night, _, topic = name.removeprefix(_PREFIX).partition(":")
        out.setdefault(int(night), {})[topic] = count
    return out
