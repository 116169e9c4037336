"""Bulk rows by binary COPY, encoded and decoded with numpy: no Python object per value.

Reading asks PostgreSQL for NULL-free columns of fixed width (COALESCE), so that a whole answer is one structured
array. Writing lays all rows out with their length words and leaves out, by a byte mask, what is NULL.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.schema import Column

__all__ = ["copy_in", "select_frame"]

_HEADER = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8
_TRAILER = b"\xff\xff"
_WIRE = {
    "long": ">i8", "int": ">i4", "short": ">i2", "float": ">f4", "double": ">f8", "boolean": "u1",
}  # fmt: skip
_EMPTY = {"long": "0", "int": "0", "short": "0", "float": "'NaN'::real", "double": "'NaN'::float8", "boolean": "false"}


def _text_width(column: Column) -> int:
    return int(column.length or 32)


def _read_expression(column: Column, alias: str) -> sql.Composable:
    name = sql.Identifier(alias, column.name)
    if column.datatype in ("char", "string", "text"):
        width = sql.Literal(_text_width(column))
        return sql.SQL("rpad(COALESCE({}, ''), {})::bytea").format(name, width)
    if not column.nullable:
        return name
    return sql.SQL("COALESCE({}, {})").format(name, sql.SQL(_EMPTY[column.datatype]))


def select_frame(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[Column], rest: sql.Composable,
    parameters: Sequence[Any] = (),
) -> pd.DataFrame:  # fmt: skip
    """Return rows of ``table`` (alias t) as a frame: NULL numbers become NaN or 0, NULL flags False, NULL text "".

    Parameters
    ----------
    rest
        What follows ``FROM table t``.
    """
    chosen = sql.SQL(", ").join(_read_expression(c, "t") for c in columns)
    query = sql.SQL("COPY (SELECT {} FROM {} t {}) TO STDOUT (FORMAT BINARY)").format(
        chosen, sql.Identifier(table), rest
    )
    text = psycopg.ClientCursor(connection).mogrify(query, parameters)
    return _decode(_copy_out(connection, text.encode()), columns)


def _copy_out(connection: psycopg.Connection[Any], query: bytes) -> bytes:
    """Run a COPY TO STDOUT at libpq level: iterating over rows in Python would cost more than the query."""
    pg = connection.pgconn
    result = pg.exec_(query)
    if result.status != psycopg.pq.ExecStatus.COPY_OUT:
        raise psycopg.errors.error_from_result(result)
    chunks = []
    while True:
        size, data = pg.get_copy_data(0)
        if size <= 0:
            break
        chunks.append(bytes(data))
    while (result := pg.get_result()) is not None:  # type: ignore[assignment]
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    return b"".join(chunks)


def _decode(data: bytes, columns: Sequence[Column]) -> pd.DataFrame:
    fields: list[tuple[str, str]] = [("n", ">i2")]
    for k, c in enumerate(columns):
        fields += [(f"l{k}", ">i4"), (f"v{k}", _WIRE.get(c.datatype, f"S{_text_width(c)}"))]
    row = np.dtype(fields)
    body = data[len(_HEADER) : -len(_TRAILER)] if data else b""
    if len(body) % row.itemsize:
        raise RuntimeError(f"COPY answer of {len(body)} bytes is no multiple of the row width {row.itemsize}")
    rows = np.frombuffer(body, dtype=row)
    out = {}
    for k, c in enumerate(columns):
        values = rows[f"v{k}"]
        if c.dtype == object:
            out[c.name] = (
                np.char.rstrip(np.char.decode(values, "utf-8")).astype(object) if len(rows) else values.astype(object)
            )
        else:
            out[c.name] = values.astype(c.dtype)
    return pd.DataFrame(out)


def _encode(frame: pd.DataFrame, columns: Sequence[Column]) -> bytes:
    """Return the COPY body of the frame's rows."""
    n = len(frame)
    widths = [_text_width(c) if c.dtype == object else np.dtype(_WIRE[c.datatype]).itemsize for c in columns]
    total = 2 + sum(4 + w for w in widths)
    buffer, keep = np.zeros((n, total), np.uint8), np.ones((n, total), bool)
    buffer[:, :2] = np.frombuffer(np.array([len(columns)], ">i2").tobytes(), np.uint8)
    at = 2
    for c, width in zip(columns, widths, strict=True):
        raw, length, null = _column_bytes(frame[c.name], c, width)
        length = np.where(null, -1, length).astype(">i4")
        buffer[:, at : at + 4] = length.view(np.uint8).reshape(n, 4)
        buffer[:, at + 4 : at + 4 + width] = raw
        held = np.arange(width)[None, :] < np.where(null, 0, length.astype(np.int64))[:, None]
        keep[:, at + 4 : at + 4 + width] = held
        at += 4 + width
    return buffer[keep].tobytes()


def _column_bytes(
    series: "pd.Series[Any]", column: Column, width: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Return bytes (N, width), lengths and NULLs of one column; NaN, None and ids of 0 in nullable columns are NULL."""
    n = len(series)
    if column.dtype == object:
        filled = series.fillna("").astype(str).to_numpy()
        encoded = np.char.encode(filled.astype(f"U{width}"), "utf-8").astype(f"S{width}")
        lengths = np.char.str_len(encoded).astype(np.int64)
        raw = np.frombuffer(encoded.tobytes(), np.uint8).reshape(n, width)
        return raw, lengths, (lengths == 0) & column.nullable
    values = series.to_numpy()
    if values.dtype == object:
        values = pd.to_numeric(series, errors="coerce").to_numpy(np.float64)
    null = np.zeros(n, bool)
    if column.nullable and values.dtype.kind == "f":
        null = np.isnan(values)
    if column.nullable and column.name in ("diaObjectId", "ssObjectId", "parentDiaSourceId"):
        null = null | (values == 0)
    with np.errstate(invalid="ignore"):
        wire = np.where(null, 0, values).astype(_WIRE[column.datatype])
    raw = np.frombuffer(np.ascontiguousarray(wire).tobytes(), np.uint8).reshape(n, width)
    return raw, np.full(n, width, np.int64), null


def copy_in(connection: psycopg.Connection[Any], table: str, frame: pd.DataFrame, columns: Sequence[Column]) -> int:
    """Append the frame's rows to a table; returns their number. Columns the frame lacks must have defaults."""
    if frame.empty:
        return 0
    present = [c for c in columns if c.name in frame.columns]
    names = sql.SQL(", ").join(sql.Identifier(c.name) for c in present)
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), names)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(_HEADER)
        copy.write(_encode(frame, present))
        copy.write(_TRAILER)
    return len(frame)
