"""Whole tables as frames: latest objects, all sources and forced sources, the ledger."""

from typing import Any

import pandas as pd
from psycopg import sql
from psycopg.rows import dict_row

from apdb.copy.decode import select_frame
from apdb.database import Database
from apdb.schema.columns import columns_of

__all__ = ["all_rows", "latest_objects", "ledger_rows"]


def latest_objects(database: Database) -> pd.DataFrame:
    """Return the open version of every DiaObject."""
    rest = sql.SQL('WHERE t."validityEndMjdTai" IS NULL ORDER BY t."diaObjectId"')
    with database.session() as connection:
        return select_frame(connection, "DiaObject", columns_of("DiaObject"), rest)


def all_rows(database: Database, table: str) -> pd.DataFrame:
    """Return every row of DiaSource or DiaForcedSource in order of time and id."""
    key = {"DiaSource": "diaSourceId", "DiaForcedSource": "diaForcedSourceId"}[table]
    rest = sql.SQL('ORDER BY t."midpointMjdTai", t.{}').format(sql.Identifier(key))
    with database.session() as connection:
        return select_frame(connection, table, columns_of(table), rest)


def ledger_rows(database: Database) -> list[dict[str, Any]]:
    """Return every row of the ledger in order of time."""
    with database.session() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        cursor.execute('SELECT * FROM "VisitLedger" ORDER BY "midpointMjdTai", visit, detector')
        return cursor.fetchall()
