"""The audit table: who changed what in rows that were already published."""

import json
from typing import Any

import psycopg

__all__ = ["audit"]


def audit(connection: psycopg.Connection[Any], action: str, table: str, count: int, detail: Any) -> None:
    """Enter a change: what, how many rows, and which."""
    connection.execute(
        'INSERT INTO "ApdbAudit" (action, "tableName", count, detail) VALUES (%s, %s, %s, %s)',
        (action, table, count, json.dumps(detail)),
    )
