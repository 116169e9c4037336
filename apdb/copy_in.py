"""Writing rows by binary COPY, encoded with numpy: all rows are laid out at once and a byte mask leaves out NULLs."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.errors import ApdbError
from apdb.schema import Column

__all__ = ["EncodedRows", "copy_in", "encode", "write_rows"]

_HEADER = b"PGCOPY\n\xff\r\n\x00" + b"\x00" * 8
_TRAILER = b"\xff\xff"
_WIRE = {
    "long": ">i8", "int": ">i4", "short": ">i2", "float": ">f4", "double": ">f8", "boolean": "u1",
}  # fmt: skip
# an id of 0 means "none" in frames without NULLs; in the database it would look like an object that owns sources
_IDS_WITHOUT_ZERO = ("diaObjectId", "ssObjectId", "parentDiaSourceId")
_NOT_CONTENT = ("timeProcessedMjdTai",)  # differs between two processings of the same input


@dataclass(frozen=True)
class EncodedRows:
    """Rows ready for COPY: column names, body, number of rows, and the digest of what they say."""

    columns: tuple[str, ...]
    body: bytes
    count: int
    digest: bytes


def encode(table: str, frame: pd.DataFrame, columns: Sequence[Column]) -> EncodedRows:
    """Encode the frame's rows; columns that the frame lacks are left to the database's defaults.

    Raises
    ------
    ApdbError
        NULL in a column that must not have any, text that is too long, or a number out of the column's range.
    """
    present = [c for c in columns if c.name in frame.columns]
    n = len(frame)
    digest = hashlib.blake2b(digest_size=16)
    parts = []
    for c in present:
        values, lengths, null = _column_bytes(table, frame[c.name], c)
        if null.any() and not c.nullable:
            raise ApdbError(f"{table}.{c.name} must not be NULL; {int(null.sum())} of {n} rows have none")
        parts.append((values, lengths, null))
        if c.name not in _NOT_CONTENT:
            digest.update(c.name.encode())
            digest.update(np.packbits(null).tobytes())
            digest.update(values.tobytes())
    return EncodedRows(tuple(c.name for c in present), _lay_out(n, parts), n, digest.digest())


def _lay_out(n: int, parts: list[tuple[NDArray[np.uint8], NDArray[np.int64] | int, NDArray[np.bool_]]]) -> bytes:
    """Join field count, length words and values into COPY's rows."""
    total = 2 + sum(4 + values.shape[1] for values, _, _ in parts)
    buffer, keep = np.zeros((n, total), np.uint8), np.ones((n, total), bool)
    buffer[:, :2] = np.frombuffer(np.array([len(parts)], ">i2").tobytes(), np.uint8)
    at, ragged = 2, False
    for values, lengths, null in parts:
        width = values.shape[1]
        if isinstance(lengths, int) and not null.any():
            buffer[:, at : at + 4] = np.frombuffer(np.array([lengths], ">i4").tobytes(), np.uint8)
        else:
            words = np.where(null, -1, lengths).astype(">i4")
            buffer[:, at : at + 4] = words.view(np.uint8).reshape(n, 4)
            keep[:, at + 4 : at + 4 + width] = np.arange(width) < np.where(null, 0, lengths)[:, None]
            ragged = True
        buffer[:, at + 4 : at + 4 + width] = values
        at += 4 + width
    return buffer[keep].tobytes() if ragged else buffer.tobytes()


def _column_bytes(
    table: str, series: "pd.Series[Any]", column: Column
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | int, NDArray[np.bool_]]:
    """Return bytes (N, width), lengths (one number when all are equal) and NULLs of one column."""
    if column.dtype == object:
        return _text_bytes(table, series, column)
    values, null = _numbers(series)
    if column.nullable and column.name in _IDS_WITHOUT_ZERO:
        null = null | (values == 0)
    wire = np.dtype(_WIRE[column.datatype])
    if wire.kind == "i" and values.dtype.kind in "iuf" and len(values):
        limit = np.iinfo(column.dtype)
        good = null | ((values >= limit.min) & (values <= limit.max))
        if values.dtype == np.uint64:
            # unsigned ids keep their bits (the upper half becomes negative)
            good |= column.datatype == "long"
        if not good.all():
            raise ApdbError(f"{table}.{column.name}: {values[~good][0]} does not fit {column.datatype}")
    with np.errstate(invalid="ignore", over="ignore"):
        cleaned = np.where(null, 0, values) if null.any() else values
        encoded = cleaned.astype(wire)
    raw = np.ascontiguousarray(encoded).view(np.uint8).reshape(len(values), wire.itemsize)
    return raw, wire.itemsize, null


def _numbers(series: "pd.Series[Any]") -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the values and which of them are missing (NaN, None, NA)."""
    if isinstance(series.dtype, pd.api.extensions.ExtensionDtype):
        null = series.isna().to_numpy(bool)
        kind = getattr(series.dtype, "numpy_dtype", np.dtype(np.float64))
        return series.to_numpy(dtype=kind, na_value=kind.type(0)), null
    values = series.to_numpy()
    if values.dtype == object:
        null = series.isna().to_numpy(bool)
        if null.all():
            return np.zeros(len(values)), null
        filled = series.where(~null, 0)
        return filled.infer_objects().to_numpy(), null
    return values, np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _text_bytes(
    table: str, series: "pd.Series[Any]", column: Column
) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    null = series.isna().to_numpy(bool)
    codes, names = pd.factorize(series.astype(object).where(~null, "").astype(str))
    words = [str(x).encode() for x in names]
    long = [w for w in words if column.length is not None and len(w.decode()) > column.length]
    if long:
        raise ApdbError(f"{table}.{column.name}: {long[0].decode()!r} is longer than {column.length} characters")
    width = max([1, *(len(w) for w in words)])
    padded = np.array([*words, b""], dtype=f"S{width}")
    raw = padded[codes].view(np.uint8).reshape(len(series), width)
    lengths = np.array([*(len(w) for w in words), 0], np.int64)[codes]
    return raw, lengths, (null | (lengths == 0)) if column.nullable else null


def write_rows(connection: psycopg.Connection[Any], table: str, rows: EncodedRows) -> int:
    """Append encoded rows to a table; returns their number."""
    if rows.count == 0:
        return 0
    names = sql.SQL(", ").join(sql.Identifier(name) for name in rows.columns)
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), names)
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(_HEADER)
        copy.write(rows.body)
        copy.write(_TRAILER)
    return rows.count


def copy_in(connection: psycopg.Connection[Any], table: str, frame: pd.DataFrame, columns: Sequence[Column]) -> int:
    """Encode and append the frame's rows; returns their number."""
    return 0 if frame.empty else write_rows(connection, table, encode(table, frame, columns))
