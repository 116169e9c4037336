"""Places on the sky or in an image, of whatever people have them in: coordinates, columns, tables, pairs, files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from alertprod.errors import InputType
from tasks.arrays import F64
from tasks.errors import CallerError

__all__ = ["Places", "places_of"]

EXPECTED = (
    "a SkyCoord, a tuple of two columns (ra, dec), a table with ra and dec (or x and y), pairs, an array of shape (N, 2) "
    "or the path of a table"
)
_PIXELS = ("x", "y")


@dataclass(frozen=True)
class Places:
    """N places: ICRS degrees (right ascension, declination), or frame pixels where `pixel` is set; NaN is no place."""

    first: F64
    second: F64
    pixel: bool = False

    def __len__(self) -> int:
        return int(self.first.size)


def places_of(given: Any, pixel: bool | None = None) -> Places:
    """Return the places of anything that names them.

    Parameters
    ----------
    given
        See `EXPECTED`. Numbers without a unit are degrees, or pixels. A tuple of two is (ra, dec), each a number, a text or
        a column; anything else that can be iterated over holds pairs.
    pixel
        Numbers are pixels; None: as a table's columns say, else they are on the sky.

    Raises
    ------
    InputType
        Nothing that names places; the message says what does.
    CallerError, BadPositions
        Columns of two lengths, values that are no angles or beyond the poles; the message names column and row.
    """
    if isinstance(given, str | PathLike) and not pixel:
        from service.processing.positions import read_positions

        given = read_positions(Path(given))
    first, second, in_pixels = _columns(given, pixel)
    if first.ndim != 1 or first.shape != second.shape:
        raise CallerError(f"columns of positions differ in length: {first.shape} and {second.shape}")
    return Places(first, second, in_pixels)


def _columns(given: Any, pixel: bool | None) -> tuple[F64, F64, bool]:
    if hasattr(given, "icrs") and hasattr(given, "frame"):  # SkyCoord
        if pixel:
            raise InputType("a SkyCoord is on the sky: leave pixel out")
        sky = given.icrs
        ra, dec = (np.atleast_1d(np.asarray(v.deg, np.float64)) for v in (sky.ra, sky.dec))
        return ra, dec, False
    names = _names(given)
    if names:
        return _of_table(given, names, pixel)
    if isinstance(given, tuple) and len(given) == 2:
        return _of_two(given[0], given[1], bool(pixel))
    if isinstance(given, str | bytes | PathLike | Mapping) or not isinstance(given, Iterable):
        raise InputType(f"positions must be {EXPECTED}; got {type(given).__name__}")
    return _of_pairs(given, bool(pixel))


def _names(given: Any) -> list[str]:
    """Return the column names of a table (pandas, astropy, Arrow, structured array, mapping), empty for anything else."""
    for attribute in ("column_names", "colnames", "columns"):
        if (columns := getattr(given, attribute, None)) is not None:
            return [str(name) for name in columns]
    if isinstance(given, Mapping):
        return [str(name) for name in given]
    return list(getattr(getattr(given, "dtype", None), "names", None) or ())


def _of_table(table: Any, names: list[str], pixel: bool | None) -> tuple[F64, F64, bool]:
    """Return two columns: those on the sky where there are any, unless pixels are asked for."""
    from forced.positions import Column, sky_columns

    angles = [] if pixel else [name for name in names if _may_be_angle(name)]
    if angles:
        columns = [Column(name, *_values(table[name])) for name in angles]
        return *sky_columns(columns, "the table of positions", missing_allowed=True), False
    in_pixels = [name for wanted in _PIXELS for name in names if name.lower() == wanted]
    if pixel is False or len(in_pixels) != 2:
        wanted = {None: "ra and dec, or x and y", True: "x and y", False: "ra and dec"}[pixel]
        raise InputType(f"a table of positions needs columns {wanted}; it has {', '.join(names[:12])}")
    first, second = (_numbers(table[name], f"column {name}") for name in in_pixels)
    return first, second, True


def _may_be_angle(name: str) -> bool:
    """Whether a column may hold right ascensions or declinations: the others need not be looked at."""
    from forced.positions import DEC_NAMES, RA_NAMES

    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return plain in RA_NAMES or plain in DEC_NAMES


def _of_two(first: Any, second: Any, pixel: bool) -> tuple[F64, F64, bool]:
    if pixel:
        return _numbers(first, "the first column"), _numbers(second, "the second column"), True
    from forced.positions import degrees_of

    ra, dec = _values(first), _values(second)
    return (
        degrees_of(*ra, "right ascensions of the positions", hours=True, missing_allowed=True),
        degrees_of(*dec, "declinations of the positions", missing_allowed=True),
        False,
    )


def _values(column: Any) -> tuple[Any, str | None]:
    """Return a column as an array with one axis, and its unit."""
    unit = getattr(column, "unit", None)
    column = column.to_numpy() if hasattr(column, "to_numpy") else getattr(column, "value", column)
    array = np.ma.asarray(column) if isinstance(column, np.ma.MaskedArray) else np.asarray(column)
    return np.atleast_1d(array), None if unit is None or not str(unit).strip() else str(unit)


def _numbers(column: Any, name: str) -> F64:
    """Return a column of pixels as numbers; masked and missing values become NaN."""
    try:
        return np.asarray(np.ma.filled(np.ma.asarray(_values(column)[0], np.float64), np.nan))
    except (TypeError, ValueError) as error:
        raise InputType(f"{name} of the positions holds no numbers: {error}") from error


def _of_pairs(given: Iterable[Any], pixel: bool) -> tuple[F64, F64, bool]:
    rows = given if isinstance(given, np.ndarray) else list(given)
    if len(rows) == 0:
        return np.zeros(0), np.zeros(0), pixel
    if not isinstance(rows, np.ndarray) and all(hasattr(row, "icrs") for row in rows):
        columns = [_columns(row, None) for row in rows]
        return np.concatenate([c[0] for c in columns]), np.concatenate([c[1] for c in columns]), False
    try:
        pairs = np.asarray(rows)
    except ValueError as error:  # rows of several lengths
        raise InputType(f"positions must be {EXPECTED}; got {type(given).__name__} of something else") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputType(f"positions must be {EXPECTED}; got shape {pairs.shape}")
    return _of_two(pairs[:, 0], pairs[:, 1], pixel)
