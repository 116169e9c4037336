"""Avro bytes of whole tables: rows of a frame become records without one Python object per value.

Each record is encoded by a compiled loop over (row, field); an alert takes the bytes of its rows as slices.
Encoding: https://avro.apache.org/docs/1.12.0/specification/#binary-encoding
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alerts.errors import AlertError
from alerts.packets.schemas import fields_of
from alerts.packets.wire import varint
from tasks.arrays import I64, U8, Flags
from tasks.compiled import compiled

__all__ = ["EncodedRows", "encode_rows"]

_FLOAT, _DOUBLE, _INTEGER, _BOOLEAN, _STRING, _NULL = range(6)
_KIND = {"float": _FLOAT, "double": _DOUBLE, "int": _INTEGER, "long": _INTEGER, "boolean": _BOOLEAN, "string": _STRING}
_ONE = np.uint64(1)  # unsigned indices need no look at negative ones
_WIDTH = {_FLOAT: 5, _DOUBLE: 9, _INTEGER: 11, _BOOLEAN: 2, _STRING: 6, _NULL: 1}
_ZERO_IS_NULL = frozenset(("diaObjectId", "ssObjectId", "parentDiaSourceId"))


@compiled(inline=True)
def _put_varint(out: U8, offset: np.uint64, value: int) -> np.uint64:
    """Write a whole number as Avro does (zigzag, seven bits a byte); returns the next offset."""
    rest = np.uint64((value << 1) ^ (value >> 63))
    while rest > np.uint64(0x7F):
        out[offset] = np.uint8(rest & np.uint64(0x7F)) | np.uint8(0x80)
        rest = rest >> np.uint64(7)
        offset += _ONE
    out[offset] = np.uint8(rest)
    return offset + _ONE


_Scalar = TypeVar("_Scalar", bound=np.generic)


class _Lines(NamedTuple):
    """Values of N rows by kind, one line for each column.

    `floats` and `doubles` are the bits of IEEE numbers; `empty` says which `integers` are missing; in `booleans` 2 is
    missing; `codes` are numbers of words, -1 is missing, and word k is ``words[word_ends[k]:word_ends[k + 1]]``.
    """

    floats: NDArray[np.uint32]
    doubles: NDArray[np.uint64]
    integers: I64
    empty: Flags
    booleans: U8
    codes: I64
    words: U8
    word_ends: I64


@compiled(inline=True)
def _put_reals(
    out: U8, offset: np.uint64, lines: NDArray[Any], first: int, last: int, row: np.uint64, may: bool, width: int
) -> np.uint64:
    """Write the number of a row of lines first..last-1, whose bits are unsigned integers of `width` bytes.

    Returns the next offset. The bits of a NaN, without the sign, are more than those of infinity. Nullable numbers are
    written without a branch: a null is a value whose bytes are overwritten.
    """
    infinity = np.uint64(0x7F800000) if width == 4 else np.uint64(0x7FF0000000000000)
    unsigned = (np.uint64(1) << np.uint64(8 * width - 1)) - _ONE
    for s in range(first, last):
        value = np.uint64(lines[s, row])
        some = np.uint64(1)
        if may:
            some = np.uint64((value & unsigned) <= infinity)
            out[offset] = np.uint8(some << _ONE)
            offset += _ONE
        for k in range(width):
            out[offset + np.uint64(k)] = np.uint8((value >> np.uint64(8 * k)) & np.uint64(0xFF))
        offset += some * np.uint64(width)
    return offset


@compiled(inline=True)
def _put_booleans(out: U8, offset: np.uint64, lines: U8, first: int, last: int, row: np.uint64, may: bool) -> np.uint64:
    """Write the flag of a row of lines first..last-1 (2 is null); returns the next offset."""
    for s in range(first, last):
        value = lines[s, row]
        some = np.uint64(1)
        if may:
            some = np.uint64(value <= 1)
            out[offset] = np.uint8(some << _ONE)
            offset += _ONE
        out[offset] = value & np.uint8(1)
        offset += some
    return offset


@compiled
def _encode(runs: I64, columns: _Lines, out: U8, offsets: I64) -> None:
    """Write every row.

    Parameters
    ----------
    runs
        Shape (M, 4): kind, first line of its kind, number of lines, nullable, of stretches of neighbouring fields.
    columns
        The values.
    out
        Filled with the records; has room for all fields of each row with their values.
    offsets
        Shape (N + 1,), the first 0: filled with the ends of the records.
    """
    floats, doubles, integers, empty, booleans, codes, words, word_ends = columns
    offset = np.uint64(0)
    for n in range(offsets.size - 1):
        row = np.uint64(n)
        for r in range(runs.shape[0]):
            kind, first, last, may = runs[r, 0], runs[r, 1], runs[r, 1] + runs[r, 2], runs[r, 3] != 0
            if kind == _FLOAT:
                offset = _put_reals(out, offset, floats, first, last, row, may, 4)
            elif kind == _DOUBLE:
                offset = _put_reals(out, offset, doubles, first, last, row, may, 8)
            elif kind == _NULL:
                for _ in range(first, last):
                    out[offset] = 0
                    offset += _ONE
            elif kind == _INTEGER:
                for s in range(first, last):
                    null = may and empty[s, row]
                    if may:
                        out[offset] = 0 if null else 2
                        offset += _ONE
                    if not null:
                        offset = _put_varint(out, offset, integers[s, row])
            elif kind == _BOOLEAN:
                offset = _put_booleans(out, offset, booleans, first, last, row, may)
            else:
                for s in range(first, last):
                    code = codes[s, row]
                    null = may and code < 0
                    if may:
                        out[offset] = 0 if null else 2
                        offset += _ONE
                    if not null:
                        begin, end = word_ends[code], word_ends[code + 1]
                        offset = _put_varint(out, offset, end - begin)
                        for k in range(begin, end):
                            out[offset] = words[k]
                            offset += _ONE
        offsets[n + 1] = offset


@dataclass(frozen=True)
class EncodedRows:
    """Encoded records one after the other; record k is ``data[offsets[k]:offsets[k + 1]]``."""

    data: memoryview
    offsets: list[int]

    def row(self, k: int) -> memoryview:
        """Return one record."""
        return self.data[self.offsets[k] : self.offsets[k + 1]]

    def array(self, first: int, last: int) -> tuple[bytes, memoryview, bytes]:
        """Return the pieces of an Avro array of the records first..last-1."""
        if last <= first:
            return b"", self.data[:0], b"\0"
        return varint(last - first), self.data[self.offsets[first] : self.offsets[last]], b"\0"


def _numbers(values: "pd.Series[Any]", dtype: type[np.floating]) -> NDArray[Any]:
    plain = values.to_numpy() if isinstance(values.dtype, np.dtype) and values.dtype.kind in "fiu" else None
    # pandas looks for missing values in any case, which numpy's own columns show as NaN already
    return np.ascontiguousarray(values.to_numpy(dtype, na_value=np.nan) if plain is None else plain, dtype)


class _Table:
    """Values of a frame sorted by kind."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.floats: list[NDArray[np.uint32]] = []
        self.doubles: list[NDArray[np.uint64]] = []
        self.integers: list[I64] = []
        self.empty: list[Flags] = []
        self.booleans: list[U8] = []
        self.codes: list[I64] = []
        self.words: list[bytes] = [b""]

    def add(self, name: str, kind: int, values: "pd.Series[Any]") -> int:
        """Take a column; returns its line."""
        if kind == _FLOAT:
            self.floats.append(_numbers(values, np.float32).view(np.uint32))
            return len(self.floats) - 1
        if kind == _DOUBLE:
            self.doubles.append(_numbers(values, np.float64).view(np.uint64))
            return len(self.doubles) - 1
        if kind == _INTEGER:
            return self._add_integers(name, values)
        if kind == _BOOLEAN:
            return self._add_booleans(values)
        return self._add_strings(values)

    def _add_integers(self, name: str, values: "pd.Series[Any]") -> int:
        if values.dtype.kind == "u" and self.n and int(values.max()) > np.iinfo(np.int64).max:
            raise AlertError(f"{name}: {values.max()} does not fit a long of the alert schema")
        if values.dtype.kind in "iu" and isinstance(values.dtype, np.dtype):
            numbers, missing = values.to_numpy(np.int64), np.zeros(self.n, np.bool_)
        else:
            missing = values.isna().to_numpy(np.bool_)
            numbers = values.fillna(0).to_numpy().astype(np.int64)
        self.empty.append(missing | (numbers == 0) if name in _ZERO_IS_NULL else missing)
        self.integers.append(numbers)
        return len(self.integers) - 1

    def _add_booleans(self, values: "pd.Series[Any]") -> int:
        if values.dtype == np.bool_:
            flags = values.to_numpy().view(np.uint8)
        else:
            missing = values.isna().to_numpy(np.bool_)
            flags = values.where(~missing, False).to_numpy().astype(np.uint8)
            flags[missing] = 2
        self.booleans.append(flags)
        return len(self.booleans) - 1

    def _add_strings(self, values: "pd.Series[Any]") -> int:
        codes, words = pd.factorize(values)  # a missing one has code -1, the last of the lookup
        lookup = [len(self.words) + k if w != "" else -1 for k, w in enumerate(words)]
        self.words += [str(w).encode() for w in words]
        self.codes.append(np.array([*lookup, -1], np.int64)[codes])
        return len(self.codes) - 1

    def lines(self) -> _Lines:
        """Return the columns by kind."""
        ends = np.cumsum([0, *(len(w) for w in self.words)], dtype=np.int64)
        words = np.frombuffer(b"".join(self.words) or b"\0", np.uint8)
        return _Lines(
            self._stacked(self.floats, np.uint32),
            self._stacked(self.doubles, np.uint64),
            self._stacked(self.integers, np.int64),
            self._stacked(self.empty, np.bool_),
            self._stacked(self.booleans, np.uint8),
            self._stacked(self.codes, np.int64),
            words,
            ends,
        )

    def _stacked(self, lines: list[NDArray[_Scalar]], dtype: type[_Scalar]) -> NDArray[_Scalar]:
        return np.stack(lines) if lines else np.zeros((0, self.n), dtype)


def encode_rows(frame: pd.DataFrame, record: str) -> EncodedRows:
    """Encode the rows of a frame as records of the alert schema.

    Columns that the frame lacks are null, or zero where the schema has no null. NaN becomes null where the schema
    allows it, and so does an id of 0.

    Parameters
    ----------
    frame
        Columns named as the fields.
    record
        ``diaSource``, ``diaForcedSource``, ``diaObject``, ``ssSource`` or ``mpc_orbits``.

    Raises
    ------
    AlertError
        An unsigned number beyond what a long holds.
    """
    fields = fields_of(record)
    table = _Table(len(frame))
    kinds, slots = np.zeros(len(fields), np.int64), np.zeros(len(fields), np.int64)
    nullable = np.array([may for _, _, may in fields])
    for k, (name, avro, may) in enumerate(fields):
        kinds[k] = _KIND[avro]
        if name in frame:
            slots[k] = table.add(name, int(kinds[k]), frame[name])
        elif may:
            kinds[k] = _NULL
        else:
            zero: Any = pd.Series([""] * len(frame)) if avro == "string" else pd.Series(np.zeros(len(frame)))
            slots[k] = table.add(name, int(kinds[k]), zero.astype(bool) if avro == "boolean" else zero)
    if (kinds == _STRING).any():
        _no_string_is_missing(table, kinds, nullable, slots)
    longest = max((len(w) for w in table.words), default=0)
    width = sum(_WIDTH[int(k)] for k in kinds) + longest * int((kinds == _STRING).sum())
    out = np.empty(max(width * len(frame), 1), np.uint8)
    offsets = np.zeros(len(frame) + 1, np.int64)
    _encode(_runs(kinds, nullable, slots), table.lines(), out, offsets)
    return EncodedRows(memoryview(out.data)[: int(offsets[-1])], offsets.tolist())


def _runs(kinds: I64, nullable: Flags, slots: I64) -> I64:
    """Return (kind, first line, lines, nullable) of each stretch of fields of one sort, which have lines in a row."""
    first = np.flatnonzero(np.r_[True, (np.diff(kinds) != 0) | (nullable[1:] != nullable[:-1])])
    return np.column_stack([kinds[first], slots[first], np.diff(np.r_[first, kinds.size]), nullable[first]])


def _no_string_is_missing(table: _Table, kinds: I64, nullable: Flags, slots: I64) -> None:
    """An empty string is null where that is allowed, else the empty word (number 0)."""
    for k in np.flatnonzero((kinds == _STRING) & ~nullable):
        codes = table.codes[int(slots[k])]
        codes[codes < 0] = 0
