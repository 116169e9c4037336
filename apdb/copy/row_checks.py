"""The checks of rows before they are stored: what a column cannot hold as it is, is refused with column and row.

Without it PostgreSQL would get the nearest number that fits: an id that a float has rounded, infinity for 1e300, an
object at a declination of 91 degrees.
"""

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb.errors import ApdbError
from apdb.schema.columns import PIXEL_COLUMN, Column
from tasks.arrays import Flags
from tasks.bands import BANDS

__all__ = [
    "MJD_RANGE",
    "check_frame",
    "check_kind",
    "check_numbers",
    "check_time",
    "check_times_of_visit",
    "check_words",
    "refuse",
    "refuse_null",
]

MJD_RANGE = (0.0, 100_000.0)  # 1858 to 2132: a Julian date and seconds lie far beyond
MOST_DAYS_APART = 7_305.0  # 20 years: what is processed anew may be as old as a survey
_SKY = {"ra": (0.0, math.nextafter(360.0, 0.0)), "dec": (-90.0, 90.0)}
_SKY_TEXT = {"ra": "degrees from 0 to below 360", "dec": "degrees from -90 to 90"}
_IDS = ("diaObjectId", "diaSourceId", "diaForcedSourceId")
_BANDS = ("", *BANDS)  # no text is NULL
_NUMBERS = ("integer", "floating", "mixed-integer-float", "boolean", "empty")
_FRONT = (
    "ra",
    "dec",
    "midpointMjdTai",
    "visit",
    "detector",
    "diaObjectId",
    "diaSourceId",
    "diaForcedSourceId",
)  # needed to put rows in order, and for the ledger of stores
_SET_BY_STORE = ("validityStartMjdTai", "validityEndMjdTai")  # whatever the frame says


def check_time(mjd_tai: float, what: str) -> float:
    """Return a time that is an MJD.

    Raises
    ------
    ApdbError
        It is NaN, or out of `MJD_RANGE` (a Julian date, seconds).
    """
    if not MJD_RANGE[0] <= mjd_tai <= MJD_RANGE[1]:
        raise ApdbError(f"{what} is {mjd_tai}, expected an MJD (TAI) between {MJD_RANGE[0]:g} and {MJD_RANGE[1]:g}")
    return mjd_tai


def check_times_of_visit(table: str, frame: pd.DataFrame, columns: Sequence[Column], mjd_tai: float) -> None:
    """Refuse rows, whose times are MJDs, that were not seen within 20 years of the time of their visit.

    Raises
    ------
    ApdbError
        The message names the first such row.
    """
    times = frame.midpointMjdTai.to_numpy(np.float64)
    far = np.abs(times - mjd_tai) > MOST_DAYS_APART
    if far.any():
        row = int(np.argmax(far))
        column = next(c for c in columns if c.name == "midpointMjdTai")
        wanted = f"an MJD (TAI) within {MOST_DAYS_APART:g} days of the time of the visit, which is {mjd_tai:.5f}"
        raise refuse(table, column, frame, row, times[row].item(), wanted)


def check_frame(
    table: str,
    frame: pd.DataFrame,
    columns: Sequence[Column],
    key: Sequence[str] = (),
    *,
    ids: Sequence[str] = (),
    strict: bool = False,
) -> None:
    """Refuse rows that lack a column, have the same key twice, or whose keys, times and places are none.

    All that is looked at before the rows are encoded; `check_numbers` and `check_words` look at the rest then.

    Parameters
    ----------
    columns
        Of the table.
    key
        Columns that together name a row.
    ids
        Further columns each of which names a row.
    strict
        Whether further columns of the frame are refused; else they are not looked at.

    Raises
    ------
    ApdbError
        The message names table, column and the first such row.
    """
    if frame.empty:
        return
    types = dict(zip(frame.columns.tolist(), frame.dtypes.tolist(), strict=True))
    if len(types) != frame.shape[1]:
        raise ApdbError(f"{table}: two columns of the frame have the same name")
    if strict:
        _refuse_unknown(table, types, columns)
    for column in columns:
        name = column.name
        if name not in types:
            if not (column.nullable or column.default is not None or name in _SET_BY_STORE):
                raise ApdbError(f"{table}.{name} must not be NULL, and the frame has no such column")
        elif name in _FRONT and not (isinstance(types[name], np.dtype) and types[name].kind in "iu"):
            _check_alone(table, frame, column)
    for names in (key, *([name] for name in ids)):
        _check_keys(table, frame, names)


def _refuse_unknown(table: str, names: Iterable[str], columns: Sequence[Column]) -> None:
    """Refuse columns that would be lost: the table has no place for them."""
    column_names = {*(c.name for c in columns), PIXEL_COLUMN.name}
    for name in names:
        if name not in column_names:
            near = get_close_matches(str(name), column_names, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ApdbError(f"{table}.{name}: the schema has no such column{hint}: leave it out of the frame")


def refuse(table: str, column: Column, frame: pd.DataFrame, row: int, value: object, wanted: str) -> ApdbError:
    """Return the error about one value: it names the row by its label and its id."""
    return ApdbError(f"{table}.{column.name}: {_row(frame, row, column)} holds {value!r}, expected {wanted}")


def refuse_null(table: str, column: Column, frame: pd.DataFrame, null: Flags) -> ApdbError:
    """Return the error about rows without a value; `null`, shape (rows,), says which."""
    first = _row(frame, int(np.argmax(null)), column)
    return ApdbError(
        f"{table}.{column.name} must not be NULL; {int(null.sum())} of {len(null)} rows have none, the first is {first}"
    )


def _row(frame: pd.DataFrame, row: int, column: Column) -> str:
    name = next((n for n in ("diaSourceId", "diaObjectId") if n in frame.columns and n != column.name), None)
    return f"row {frame.index[row]}" + ("" if name is None else f" ({name} {frame[name].iloc[row]})")


@lru_cache(maxsize=256)
def _may_differ(datatype: str, dtype: np.dtype[Any]) -> bool:
    """Whether a number of a type can be one that the column does not hold."""
    integer_type = {"long": np.int64, "int": np.int32, "short": np.int16, "boolean": np.bool_}.get(datatype)
    return dtype.kind == "f" or not np.can_cast(dtype, np.float64 if integer_type is None else integer_type, "safe")


@lru_cache(maxsize=4096)
def _bounds(name: str, datatype: str, dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the least and the greatest value that a column takes of numbers of a type."""
    if datatype == "boolean":
        return 0, 1
    if datatype in ("long", "int", "short"):
        half = 1 << {"long": 63, "int": 31, "short": 15}[datatype]
        least, most = -half, half - 1
        exact = (1 << (np.finfo(dtype).nmant + 1)) - 1 if dtype.kind == "f" else max(-least, most)
        return max(least, -exact), min(most, exact)
    if name in _SKY:
        return _SKY[name]
    if "Mjd" in name:
        return MJD_RANGE
    most_float = float(np.finfo(np.float32 if datatype == "float" else np.float64).max)
    return -most_float, most_float


@lru_cache(maxsize=256)
def _within(names: tuple[str, ...], datatype: str, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the bounds of columns as arrays that compare exactly with numbers of a type."""
    bounds = [_bounds(name, datatype, dtype) for name in names]
    if dtype.kind not in "iu":
        return np.array([b[0] for b in bounds], np.float64), np.array([b[1] for b in bounds], np.float64)
    own = np.iinfo(dtype)
    low = np.array([max(math.ceil(b[0]), int(own.min)) for b in bounds], dtype)
    return low, np.array([min(math.floor(b[1]), int(own.max)) for b in bounds], dtype)


def check_numbers(table: str, frame: pd.DataFrame, group: Sequence[Column], values: NDArray[Any], null: Flags) -> None:
    """Refuse numbers that their columns cannot hold as they are.

    Parameters
    ----------
    group
        Columns of one type.
    values, null
        Their numbers and which of them are missing, (rows, columns).

    Raises
    ------
    ApdbError
        A number beyond the column's range, infinity, a fraction in a column of whole numbers, a float beyond what it
        holds exactly there, any float as the id of a row, a place off the sky, a time that is no MJD.
    """
    datatype, dtype = group[0].datatype, values.dtype
    if not _may_differ(datatype, dtype):
        return
    if dtype.kind == "f":
        for k, column in enumerate(group):
            if column.name in _IDS and not column.nullable:
                raise refuse(table, column, frame, 0, values[0, k].item(), f"an integer id: {_wanted(column, dtype)}")
    low, high = _within(tuple(c.name for c in group), datatype, dtype)
    good = (values >= low) & (values <= high)
    if dtype.kind == "f" and group[0].dtype.kind in "ib":
        good &= values == np.rint(values)
    good |= null
    if not good.all():
        row, k = (int(i) for i in np.argwhere(~good)[0])
        raise refuse(table, group[k], frame, row, values[row, k : k + 1].tolist()[0], _wanted(group[k], dtype))


def _wanted(column: Column, dtype: np.dtype[Any]) -> str:
    low, high = _bounds(column.name, column.datatype, dtype)
    if column.dtype.kind in "ib":
        more = " (larger ids are no longer exact in floats: give integers)" if dtype.kind == "f" else ""
        return f"a whole number from {low} to {high}{more}: it does not fit {column.datatype}"
    if column.name in _SKY:
        return _SKY_TEXT[column.name]
    unit = "an MJD (TAI) " if "Mjd" in column.name else "a finite number "
    return f"{unit}from {low:g} to {high:g}"


def check_kind(table: str, frame: pd.DataFrame, column: Column) -> None:
    """Refuse what is no number in a column of Python objects or of one of pandas' own types.

    Raises
    ------
    ApdbError
        Text, a date, or another object.
    """
    series = frame[column.name]
    if pd.api.types.infer_dtype(series, skipna=True) in _NUMBERS:
        return
    missing = np.array(series.isna(), bool)
    row = next((r for r, v in enumerate(series) if not missing[r] and not _is_number(v)), None)
    if row is not None:
        raise refuse(table, column, frame, row, series.iloc[row], "a number")


def _check_alone(table: str, frame: pd.DataFrame, column: Column) -> None:
    """Check one column of numbers before anything is done with it."""
    series = frame[column.name]
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "iuf":
        values = series.to_numpy()
        low, high = _bounds(column.name, column.datatype, values.dtype)
        if column.dtype.kind == "f" and low <= float(values.min()) and float(values.max()) <= high:
            return  # also without NaN, which these would return
    else:
        check_kind(table, frame, column)
        series = pd.to_numeric(series)
    null = np.array(series.isna(), bool)
    if null.any() and not column.nullable:
        raise refuse_null(table, column, frame, null)
    if not null.all():
        values = series[~null].to_numpy()
        check_numbers(table, frame[~null], [column], values[:, None], np.zeros((len(values), 1), bool))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number | np.bool_)


def check_words(
    table: str, frame: pd.DataFrame, column: Column, codes: NDArray[np.intp], words: Iterable[object]
) -> None:
    """Refuse text that its column cannot hold as it is: each word once (bands and versions repeat).

    `codes`, shape (rows,), are the numbers of the rows' `words`.

    Raises
    ------
    ApdbError
        No text, too long, with characters that the database has not, or a band that is none.
    """
    for code, word in enumerate(words):
        wanted = "text"
        if isinstance(word, str):
            wanted = "text without NUL and without halves of characters"
            if column.length is not None and len(word) > column.length:
                wanted = f"at most {column.length} characters: it is longer than {column.length} characters"
            elif not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in word):
                if column.name != "band" or word in _BANDS:
                    continue
                wanted = f"one of {', '.join(BANDS)}: no other band is known"
        raise refuse(table, column, frame, int(np.argmax(codes == code)), word, wanted)


def _check_keys(table: str, frame: pd.DataFrame, key: Sequence[str]) -> None:
    names = [k for k in key if k in frame.columns]
    if not names or frame[names[0]].is_unique:
        return
    again = np.array(frame.duplicated(names), bool)
    if not again.any():
        return
    row = int(np.argmax(again))
    first = int(np.argmax(np.array((frame[names] == frame[names].iloc[row]).all(axis=1), bool)))
    named = ", ".join(f"{n} {frame[n].iloc[row]}" for n in names)
    raise ApdbError(
        f"{table}.{names[0]}: rows {frame.index[first]} and {frame.index[row]} have the same {named}: a row is stored once"
    )
