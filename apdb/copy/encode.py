"""Writing rows by binary COPY, grouped by type with numpy and laid out by one compiled pass."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.copy.row_checks import check_kind, check_numbers, check_words, refuse, refuse_null
from apdb.schema.columns import Column
from tasks.arrays import F64, I32, I64, U8, Flags
from tasks.compiled import compiled

__all__ = ["EncodedRows", "copy_in", "encode", "id_array", "number_array", "write_rows"]

_HEADER = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8
_TRAILER = b"\xff\xff"
_FIRST_VALUE = 6  # bytes from the begin of a row: number of fields (2), length of the first (4)
_WIRE = {
    "long": ">i8", "int": ">i4", "short": ">i2", "float": ">f4", "double": ">f8", "boolean": "u1",
}  # fmt: skip
# an id of 0 means "none" in frames without NULLs; in the database it would look like an object that owns sources
_IDS_WITHOUT_ZERO = ("diaObjectId", "ssObjectId", "parentDiaSourceId")
_NOT_CONTENT = ("timeProcessedMjdTai",)  # differs between two processings of the same input


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready for COPY: column names, body, where each row begins in it, and the digest of what they say."""

    columns: tuple[str, ...]
    body: U8
    starts: I64
    digest: bytes

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.starts)

    def with_first(self, values: F64) -> "EncodedRows":
        """Return the rows with other values, shape (rows,), of their first column, which must be a double without NULLs."""
        body = self.body.copy()
        body[self.starts[:, None] + _FIRST_VALUE + np.arange(8)] = values.astype(">f8").view(np.uint8).reshape(-1, 8)
        return replace(self, body=body)


def encode(
    table: str, frame: pd.DataFrame, columns: Sequence[Column], first: str | None = None, *, check: bool = True
) -> EncodedRows:
    """Encode the frame's rows; columns that the frame lacks are left to the database's defaults.

    Parameters
    ----------
    first
        The column that comes first (see `EncodedRows.with_first`).
    check
        False for rows that come from the database itself.

    Raises
    ------
    ApdbError
        NULL in a column that must not have any, or what the column cannot hold as it is (see `apdb.copy.row_checks`).
    """
    held = {
        name: (k, dtype)
        for k, (name, dtype) in enumerate(zip(frame.columns.tolist(), frame.dtypes.tolist(), strict=True))
    }
    # columns of one type stand together, so that pandas and numpy handle them as one matrix
    groups: dict[Any, list[Column]] = {}
    for c in sorted(columns, key=lambda c: c.name != first):
        if c.name in held:
            dtype = held[c.name][1]
            plain = isinstance(dtype, np.dtype) and dtype.kind in "iufb" and c.dtype != object and c.name != first
            groups.setdefault((c.datatype, dtype) if plain else c.name, []).append(c)
    n, names = len(frame), []
    payload, widths, nulls, lengths = [], [], [], []
    digest = hashlib.blake2b(digest_size=16)
    for group in groups.values():
        raw, null, size = _group(table, frame, group, [held[c.name][0] for c in group], check)
        for k, c in enumerate(group):
            if not c.nullable and null[:, k].any():
                raise refuse_null(table, c, frame, null[:, k])
        keep = [k for k, c in enumerate(group) if c.name not in _NOT_CONTENT]
        width = raw.shape[1] // len(group)
        digest.update(",".join(group[k].name for k in keep).encode())
        all_count = len(keep) == len(group)
        digest.update(raw.data if all_count else np.ascontiguousarray(raw.reshape(n, len(group), width)[:, keep]).data)
        digest.update(np.ascontiguousarray(null if all_count else null[:, keep]).data)
        names += [c.name for c in group]
        payload.append(raw)
        widths += [width] * len(group)
        nulls.append(null)
        lengths.append(size)
    if not names:
        return EncodedRows((), np.zeros(0, np.uint8), np.zeros(n, np.int64), digest.digest())
    body, starts = _lay_out(
        np.concatenate(payload, axis=1),
        np.array(widths, np.int64),
        np.concatenate(nulls, axis=1),
        np.concatenate(lengths, axis=1),
    )
    return EncodedRows(tuple(names), body, starts, digest.digest())


@compiled
def _lay_out(payload: U8, widths: I64, nulls: Flags, lengths: I32) -> tuple[U8, I64]:
    """Return the rows as COPY takes them (field count, then length and bytes of each value), and where each begins.

    Parameters
    ----------
    payload
        Shape (N, sum of widths): the bytes of all values of a row, padded to their widths.
    widths
        Shape (columns,).
    nulls, lengths
        Shape (N, columns): NULL is a length of -1 and no value.
    """
    n, columns = nulls.shape
    out = np.empty(n * (2 + 4 * columns + payload.shape[1]), np.uint8)
    starts = np.empty(n, np.int64)
    offset = np.int64(0)
    for row in range(n):
        starts[row] = offset
        out[offset], out[offset + 1] = columns >> 8, columns & 255
        offset += 2
        begin = 0
        for k in range(columns):
            size = np.int64(lengths[row, k])
            if nulls[row, k]:
                out[offset : offset + 4] = 255
                offset += 4
            else:
                out[offset], out[offset + 1] = (size >> 24) & 255, (size >> 16) & 255
                out[offset + 2], out[offset + 3] = (size >> 8) & 255, size & 255
                offset += 4
                for b in range(size):
                    out[offset + b] = payload[row, begin + b]
                offset += size
            begin += widths[k]
    return out[:offset], starts


def _group(
    table: str, frame: pd.DataFrame, group: list[Column], positions: list[int], check: bool
) -> tuple[U8, Flags, I32]:
    """Return bytes (N, columns x width), NULLs (N, columns) and lengths (N, columns) of columns of one type."""
    first = group[0]
    if first.dtype == object:
        return _text_bytes(table, frame, first)
    if len(group) == 1:
        series = frame[first.name]
        if not isinstance(series.dtype, np.dtype) or series.dtype.kind not in "iufb":
            check_kind(table, frame, first)
        values, null = _numbers(series)
        values, null = values[:, None], null[:, None]
    else:
        values = frame.take(positions, axis=1).to_numpy()
        null = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if check:
        check_numbers(table, frame, group, values, null)
    for k, c in enumerate(group):
        if c.nullable and c.name in _IDS_WITHOUT_ZERO:
            null[:, k] |= values[:, k] == 0
    wire = np.dtype(_WIRE[first.datatype])
    with np.errstate(invalid="ignore", over="ignore"):
        encoded = (np.where(null, 0, values) if null.any() else values).astype(wire, order="C")
    n = len(values)
    raw = encoded.view(np.uint8).reshape(n, len(group) * wire.itemsize)
    return raw, null, np.full((n, len(group)), wire.itemsize, np.int32)


def _numbers(series: "pd.Series[Any]") -> tuple[NDArray[Any], Flags]:
    """Return the values and which of them are missing (NaN, None, NA)."""
    if isinstance(series.dtype, pd.api.extensions.ExtensionDtype):
        null = np.array(series.isna(), bool)
        kind = getattr(series.dtype, "numpy_dtype", np.dtype(np.float64))
        return series.to_numpy(dtype=kind, na_value=kind.type(0)), null
    values = series.to_numpy()
    if values.dtype == object:
        null = np.array(series.isna(), bool)
        if null.all():
            return np.zeros(len(values)), null
        return series.where(~null, 0).infer_objects().to_numpy(), null
    return values, np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _text_bytes(table: str, frame: pd.DataFrame, column: Column) -> tuple[U8, Flags, I32]:
    series = frame[column.name]
    null = np.array(series.isna(), bool)
    try:
        codes, names = pd.factorize(series)
    except TypeError:  # what has no hash is no text either
        raise refuse(table, column, frame, 0, series.iloc[0], "text") from None
    check_words(table, frame, column, codes, names)
    words = [x.encode() for x in names]
    width = max([1, *(len(w) for w in words)])
    padded = np.array([*words, b""], dtype=f"S{width}")  # code -1, a missing value, is the last
    raw = padded[codes].view(np.uint8).reshape(len(series), width)
    lengths = np.array([*(len(w) for w in words), 0], np.int32)[codes]
    if column.nullable:
        null = null | (lengths == 0)
    return raw, null[:, None], lengths[:, None]


def id_array(ids: I64) -> str:
    """Return ids, shape (N,), as the text of an array, for ``%s::bigint[]``: a list of thousands takes many times as long."""
    return "{" + str(ids.tolist())[1:-1] + "}"


def number_array(values: F64) -> str:
    """Return numbers, shape (N,), as the text of an array, for ``%s::float8[]``; NaN is NULL."""
    return "{" + str(values.tolist())[1:-1].replace("nan", "NULL") + "}"


@lru_cache(maxsize=64)
def _copy_statement(table: str, columns: tuple[str, ...]) -> bytes:
    """Return the statement that takes rows of a table: to put a hundred names together takes longer than to send them."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), names).as_bytes(None)


def write_rows(
    connection: psycopg.Connection[Any], table: str, rows: EncodedRows, meanwhile: Callable[[], Any] | None = None
) -> int:
    """Append encoded rows to a table; returns their number.

    Parameters
    ----------
    meanwhile
        What to do when the rows are on their way, before the answer is waited for.
    """
    if rows.count == 0:
        return 0
    with connection.cursor() as cursor, cursor.copy(_copy_statement(table, rows.columns)) as copy:
        copy.write(_HEADER)
        copy.write(rows.body.data)
        copy.write(_TRAILER)
        if meanwhile is not None:
            meanwhile()
    return rows.count


def copy_in(
    connection: psycopg.Connection[Any],
    table: str,
    frame: pd.DataFrame,
    columns: Sequence[Column],
    *,
    check: bool = True,
) -> int:
    """Encode and append the frame's rows (`check` as for `encode`); returns their number."""
    return 0 if frame.empty else write_rows(connection, table, encode(table, frame, columns, check=check))
