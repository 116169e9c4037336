"""Reading rows by binary COPY: the bytes of all rows are taken apart by one compiled pass, NULLs included.

A Python object per value is what makes a database client slow; here a value costs a few nanoseconds.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.copy.stream import copy_rows, word
from apdb.schema.columns import Column
from tasks.arrays import I64, U8, Flags
from tasks.compiled import compiled

__all__ = ["query_arrays", "query_frame", "select_frame", "select_frame_in_parts", "stream_frames"]

_DTYPES = {"long": "i8", "int": "i4", "short": "i2", "float": "f4", "double": "f8", "boolean": "u1"}


def select_frame(
    connection: psycopg.Connection[Any],
    table: str,
    columns: Sequence[Column],
    rest: sql.Composable,
    parameters: Sequence[Any] = (),
    *,
    nullable: bool = False,
) -> pd.DataFrame:
    """Return rows of ``table`` (alias t) as a frame.

    Parameters
    ----------
    rest
        What follows ``FROM table t``.
    nullable
        True gives pandas' nullable types (``Int64``, ``boolean``) to nullable integers and flags, and None to text;
        False turns their NULLs into 0, False and "". NULL floats are NaN in both.
    """
    return _join(_read_pieces(connection, table, columns, rest, parameters), columns, nullable)


def query_frame(
    connection: psycopg.Connection[Any],
    query: sql.Composable,
    columns: Sequence[Column],
    parameters: Sequence[Any] = (),
    meanwhile: Callable[[], object] | None = None,
) -> pd.DataFrame:
    """Return the answer of a query, also one that changes rows and returns them, its columns in the order of `columns`.

    `meanwhile` is called while the server works.
    """
    return pd.DataFrame(query_arrays(connection, query, columns, parameters, meanwhile))


def query_arrays(
    connection: psycopg.Connection[Any],
    query: sql.Composable,
    columns: Sequence[Column],
    parameters: Sequence[Any] = (),
    meanwhile: Callable[[], object] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the same column by column, each of shape (rows,), for those who want no frame."""
    pieces = list(copy_rows(connection, _copy(connection, query, parameters), meanwhile))
    return _to_columns(_whole(pieces), columns, False)


def select_frame_in_parts(
    connections: Sequence[psycopg.Connection[Any]],
    table: str,
    columns: Sequence[Column],
    rest: sql.Composable,
    parameters: Sequence[Sequence[Any]],
    *,
    nullable: bool = False,
) -> pd.DataFrame:
    """Return the rows of one query with several sets of parameters, each on its own connection at the same time.

    Most of a large read is the server turning values into bytes, which one backend does on one core.
    """

    def read(k: int) -> list[U8]:
        return _read_pieces(connections[k], table, columns, rest, parameters[k])

    if len(connections) == 1:
        return _join(read(0), columns, nullable)
    with ThreadPoolExecutor(len(connections)) as pool:
        parts = list(pool.map(read, range(len(connections))))
    return _join([piece for part in parts for piece in part], columns, nullable)


def _read_pieces(
    connection: psycopg.Connection[Any],
    table: str,
    columns: Sequence[Column],
    rest: sql.Composable,
    parameters: Sequence[Any],
) -> list[U8]:
    """Return the bytes of the rows."""
    chosen = sql.SQL(", ").join(sql.Identifier("t", c.name) for c in columns)
    query = sql.SQL("SELECT {} FROM {} t {}").format(chosen, sql.Identifier(table), rest)
    return list(copy_rows(connection, _copy(connection, query, parameters)))


def _join(pieces: list[U8], columns: Sequence[Column], nullable: bool) -> pd.DataFrame:
    return _to_frame(_whole(pieces), columns, nullable)


def _whole(pieces: list[U8]) -> U8:
    return pieces[0] if len(pieces) == 1 else np.concatenate([*pieces, np.empty(0, np.uint8)])


def stream_frames(
    connection: psycopg.Connection[Any],
    query: sql.Composable,
    columns: Sequence[Column],
    parameters: Sequence[Any] = (),
) -> Iterator[pd.DataFrame]:
    """Yield the answer of a query (its columns in the order of `columns`) in nullable frames of a few megabytes.

    Memory stays at one frame, whatever the length of the answer. An empty answer yields one empty frame.
    """
    given = False
    for piece in copy_rows(connection, _copy(connection, query, parameters)):
        yield _to_frame(piece, columns, nullable=True)
        given = True
    if not given:
        yield _to_frame(np.empty(0, np.uint8), columns, nullable=True)


def _copy(connection: psycopg.Connection[Any], query: sql.Composable, parameters: Sequence[Any]) -> bytes:
    copy = sql.SQL("COPY ({}) TO STDOUT (FORMAT BINARY)").format(query)
    return psycopg.ClientCursor(connection).mogrify(copy, parameters).encode()


def _width(column: Column) -> int:
    """Bytes of a value; of text of a known length in UTF-8 at most, of other text 0."""
    if column.dtype == object:
        return 4 * column.length if column.length else 0
    return np.dtype(_DTYPES[column.datatype]).itemsize


def _to_frame(data: U8, columns: Sequence[Column], nullable: bool) -> pd.DataFrame:
    """Return rows as a frame; copied into blocks of one type: a frame of a hundred blocks is slow to work with."""
    return pd.DataFrame(_to_columns(data, columns, nullable))


def _to_columns(data: U8, columns: Sequence[Column], nullable: bool) -> dict[str, Any]:
    n, longest = _measure(data, len(columns))
    widths = np.array([_width(c) for c in columns], np.int64)
    widths = np.maximum(np.where(widths == 0, longest, widths), 1)
    text = np.array([c.dtype == object for c in columns])
    # each column begins at a multiple of eight bytes, so that its values can be used where they lie
    sizes = (widths * n + 7) // 8 * 8
    starts = np.concatenate([[0], np.cumsum(sizes)])
    values = np.zeros(int(starts[-1]), np.uint8)
    nulls = np.zeros((len(columns), n), np.bool_)
    if n and _take_apart(data, widths, text, starts, values, nulls) != n:
        raise RuntimeError("the COPY answer does not have the columns that were asked for")
    out: dict[str, Any] = {}
    for k, c in enumerate(columns):
        raw = values[starts[k] : starts[k] + widths[k] * n]
        out[c.name] = _column(c, raw, int(widths[k]), nulls[k], nullable)
    return out


@compiled
def _measure(data: U8, columns: int) -> tuple[int, I64]:
    """Return the number of rows, and the length of the longest value of each column."""
    out = np.zeros(columns, np.int64)
    offset, rows = np.int64(0), 0
    while offset < data.size:
        offset += 2
        for k in range(columns):
            length = np.int64(word(data, offset))
            offset += 4
            if length != 0xFFFFFFFF:
                out[k] = max(out[k], length)
                offset += length
        rows += 1
    return rows, out


@compiled
def _take_apart(
    data: U8,
    widths: I64,
    text: Flags,
    starts: I64,
    values: U8,
    nulls: Flags,
) -> int:
    """Copy the fields of COPY rows to columns, numbers in this machine's byte order; returns the number of rows.

    A row that does not have the expected fields ends the work early.

    Parameters
    ----------
    data
        Rows as COPY sends them: number of fields, then length and bytes of each.
    widths, text
        Bytes of a value, and whether it is text, of each column.
    starts
        Where each column begins in `values`.
    values, nulls
        Filled: bytes of all columns; shape (columns, rows).
    """
    offset, row, columns = np.int64(0), 0, widths.size
    words, longs, shorts = values.view(np.uint32), values.view(np.uint64), values.view(np.uint16)
    while offset < data.size:
        if (data[offset] << 8 | data[offset + 1]) != columns:
            return row
        offset += 2
        for k in range(columns):
            length = np.int64(word(data, offset))
            offset += 4
            if length == 0xFFFFFFFF:
                nulls[k, row] = True
                continue
            width = widths[k]
            if length > width or (length < width and not text[k]):
                return -1
            if text[k]:
                target = starts[k] + row * width
                for b in range(length):
                    values[target + b] = data[offset + b]
            elif width == 4:
                words[(starts[k] >> 2) + row] = word(data, offset)
            elif width == 8:
                longs[(starts[k] >> 3) + row] = np.uint64(word(data, offset)) << np.uint64(32) | np.uint64(
                    word(data, offset + 4)
                )
            elif width == 1:
                values[starts[k] + row] = data[offset]
            else:
                shorts[(starts[k] >> 1) + row] = np.uint16(data[offset]) << np.uint16(8) | np.uint16(data[offset + 1])
            offset += length
        row += 1
    return row


def _column(column: Column, raw: U8, width: int, null: Flags, nullable: bool) -> Any:
    if column.dtype == object:
        return _strings(raw.view(f"S{width}") if raw.size else np.zeros(0, "S1"), null, None if nullable else "")
    values = raw.view(_DTYPES[column.datatype])
    if values.dtype.kind == "f":
        if null.any():
            values[null] = np.nan
        return values
    if column.datatype == "boolean":
        values = values.view(np.bool_)
    if not (nullable and column.nullable):
        return values
    if column.datatype == "boolean":
        return pd.arrays.BooleanArray(values, null)
    return pd.arrays.IntegerArray(values, null)


def _strings(raw: NDArray[np.bytes_], null: Flags, missing: str | None) -> NDArray[np.object_]:
    """Decode by distinct value: such columns hold a few names, repeated."""
    if raw.itemsize <= 8:
        padded = np.zeros((len(raw), 8), np.uint8)
        padded[:, : raw.itemsize] = raw.view(np.uint8).reshape(len(raw), raw.itemsize)
        codes, distinct = pd.factorize(padded.view(np.int64).ravel())
        names = [x.to_bytes(8, "little", signed=True).rstrip(b"\0").decode() for x in distinct.tolist()]
    else:
        codes, distinct_bytes = pd.factorize(raw.astype(object))
        names = [x.decode() for x in distinct_bytes]
    out = np.array([*names, None], dtype=object)[codes]
    out[null] = missing
    return out
