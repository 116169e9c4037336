"""The single row of statements that always have one."""

from typing import TypeVar

import psycopg

__all__ = ["single_row"]

RowT = TypeVar("RowT")


def single_row(cursor: "psycopg.Cursor[RowT]") -> RowT:
    """Return the row of a statement that always gives one (an aggregate, a function, ``RETURNING`` of a locked row).

    Raises
    ------
    psycopg.DataError
        It gave none.
    """
    row = cursor.fetchone()
    if row is None:
        raise psycopg.DataError("a statement that always gives a row gave none")
    return row
