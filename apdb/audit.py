"""The audit: who changed which rows that were stored, and why."""

import json
from typing import Any

import psycopg

__all__ = ["audit"]


def audit(connection: psycopg.Connection[Any], action: str, table: str, count: int, detail: Any) -> None:
    """Enter a change in the caller's transaction: the action, the table, the number of rows, and which (as JSON)."""
    connection.execute(
        'INSERT INTO "ApdbAudit" (action, "tableName", count, detail) VALUES (%s, %s, %s, %s)',
        (action, table, count, json.dumps(detail)),
    )
