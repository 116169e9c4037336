"""Labels that people give to detections: stored, taken back, and as a table for the training of reliability."""

from typing import Any

import psycopg
from psycopg import sql

from apdb.errors import NotFound
from apdb.queries import Query, check_limit
from apdb.schema.columns import Column, columns_of, named

__all__ = ["LABELS", "LABEL_COLUMNS", "labels_query", "remove_label", "store_label"]

LABELS = ("real", "bogus", "unsure")
_OF_SOURCE = (
    "visit", "detector", "diaObjectId", "ra", "dec", "x", "y", "band", "midpointMjdTai", "snr", "psfFlux", "psfFluxErr",
    "reliability",
)  # fmt: skip
LABEL_COLUMNS: tuple[Column, ...] = (
    *named(columns_of("DiaSource"), "diaSourceId"), Column("label", "text", False, None, "", f"one of {', '.join(LABELS)}"),
    Column("principal", "text", False, None, "", "who gave it"), Column("labelledMjdUtc", "double", False, None, "d"),
    *named(columns_of("DiaSource"), *_OF_SOURCE),
)  # fmt: skip


def store_label(connection: psycopg.Connection[Any], source_id: int, principal: str, label: str) -> None:
    """Store the label that somebody gives to a detection, instead of an earlier one of his.

    Raises
    ------
    NotFound
        There is no such detection.
    """
    source = connection.execute('SELECT 1 FROM "DiaSource" WHERE "diaSourceId" = %s LIMIT 1', (source_id,)).fetchone()
    if source is None:
        raise NotFound(f"there is no DiaSource {source_id}")
    connection.execute(
        'INSERT INTO "SourceLabel" ("diaSourceId", principal, label) VALUES (%s, %s, %s) ON CONFLICT ("diaSourceId", principal) '
        "DO UPDATE SET label = excluded.label, at = now()",
        (source_id, principal, label),
    )


def remove_label(connection: psycopg.Connection[Any], source_id: int, principal: str) -> None:
    """Take back a label.

    Raises
    ------
    NotFound
        He gave none.
    """
    removed = connection.execute(
        'DELETE FROM "SourceLabel" WHERE "diaSourceId" = %s AND principal = %s', (source_id, principal)
    ).rowcount
    if not removed:
        raise NotFound(f"{principal} gave no label to DiaSource {source_id}")


def labels_query(limit: int = 100_000) -> Query:
    """Labels with what is known of their detections, in the order in which they were given.

    Raises
    ------
    BadQuery
        A limit that is none.
    """
    statement = sql.SQL(
        'SELECT l."diaSourceId", l.label, l.principal, extract(epoch FROM l.at)::float8 / 86400 + 40587 AS "labelledMjdUtc", {} '
        'FROM "SourceLabel" l JOIN "DiaSource" d USING ("diaSourceId") ORDER BY l.at, l."diaSourceId", l.principal LIMIT %s'
    ).format(sql.SQL(", ").join(sql.Identifier("d", name) for name in _OF_SOURCE))
    return Query("labels", LABEL_COLUMNS, statement, (check_limit(limit),), limit)
