"""Places on the sky or in an image, of whatever people have them in: coordinates, columns, tables, pairs."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alertprod.errors import InputType
from tasks.errors import CallerError

__all__ = ["Places", "places_of"]

F64 = NDArray[np.float64]
EXPECTED = "a SkyCoord, a tuple of two columns (ra, dec), a table with ra and dec (or x and y), pairs, or an array of shape (N, 2)"
_NAMES = (("ra", "dec"), ("coord_ra", "coord_dec"), ("x", "y"))
_RADIANS = ("coord_ra", "coord_dec")


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
        See `EXPECTED`. Numbers without a unit are degrees, or pixels. A tuple of two is (ra, dec), each a number or a
        column; anything else that can be iterated over holds pairs.
    pixel
        Numbers are pixels; None: as a table's columns say, else they are on the sky.

    Raises
    ------
    InputType
        Nothing that names places; the message says what does.
    CallerError
        A declination beyond the poles or columns of two lengths; the message names the row.
    """
    first, second, found = _columns(given, pixel)
    places = Places(np.atleast_1d(first), np.atleast_1d(second), found)
    if places.first.ndim != 1 or places.first.shape != places.second.shape:
        raise CallerError(f"columns of positions differ in length: {places.first.shape} and {places.second.shape}")
    if not found:
        _check_sky(places)
    return places


def _columns(given: Any, pixel: bool | None) -> tuple[F64, F64, bool]:
    if hasattr(given, "icrs") and hasattr(given, "frame"):  # SkyCoord
        if pixel:
            raise InputType("a SkyCoord is on the sky: leave pixel out")
        sky = given.icrs
        return np.asarray(sky.ra.deg, np.float64), np.asarray(sky.dec.deg, np.float64), False
    names = _names(given)
    if names:
        return _of_table(given, names, pixel)
    if isinstance(given, tuple) and len(given) == 2:
        return _numbers(given[0], "first column"), _numbers(given[1], "second column"), bool(pixel)
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputType(f"positions must be {EXPECTED}; got {type(given).__name__}")
    return _of_pairs(given, bool(pixel))


def _names(given: Any) -> list[str]:
    """Return the column names of a table (pandas, astropy, Arrow, structured array, mapping), empty for anything else."""
    for attribute in ("column_names", "colnames", "columns"):
        if (found := getattr(given, attribute, None)) is not None:
            return [str(name) for name in found]
    if isinstance(given, dict):
        return [str(name) for name in given]
    return list(getattr(getattr(given, "dtype", None), "names", None) or ())


def _of_table(table: Any, names: list[str], pixel: bool | None) -> tuple[F64, F64, bool]:
    lower = {name.lower(): name for name in names}
    for first, second in _NAMES:
        if first in lower and second in lower and pixel in (None, first == "x"):
            columns = [_numbers(table[lower[n]], f"column {lower[n]}") for n in (first, second)]
            if first in _RADIANS and not _has_unit(table[lower[first]]):
                columns = [np.degrees(c) for c in columns]
            return columns[0], columns[1], first == "x"
    wanted = {None: "ra and dec, or x and y", True: "x and y", False: "ra and dec"}[pixel]
    raise InputType(f"a table of positions needs columns {wanted}; it has {', '.join(names[:12]) or 'none'}")


def _has_unit(column: Any) -> bool:
    return getattr(column, "unit", None) is not None


def _numbers(column: Any, name: str) -> F64:
    """Return a column as numbers, angles with a unit in degrees; masked and missing values become NaN."""
    unit = getattr(column, "unit", None)
    if unit is not None and str(unit) not in ("pix", "pixel", ""):
        from astropy.units import Quantity, UnitConversionError

        try:
            column = Quantity(np.ma.filled(np.ma.asarray(column, np.float64), np.nan), unit).to_value("deg")
        except UnitConversionError as error:
            raise CallerError(f"{name} of the positions is in {unit}, which is no angle") from error
    if hasattr(column, "to_numpy"):
        column = column.to_numpy()
    try:
        filled = np.ma.filled(np.ma.asarray(column, np.float64), np.nan)
    except (TypeError, ValueError) as error:
        raise InputType(
            f"{name} of the positions holds no numbers: {error}; for sexagesimal text make a SkyCoord"
        ) from error
    return np.asarray(filled, np.float64)


def _of_pairs(given: Iterable[Any], pixel: bool) -> tuple[F64, F64, bool]:
    rows = given if isinstance(given, np.ndarray) else list(given)
    if len(rows) == 0:
        return np.zeros(0), np.zeros(0), pixel
    if not isinstance(rows, np.ndarray) and all(hasattr(row, "icrs") for row in rows):
        columns = [_columns(row, None) for row in rows]
        return np.array([float(c[0]) for c in columns]), np.array([float(c[1]) for c in columns]), False
    try:
        pairs = np.asarray(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise InputType(f"positions must be {EXPECTED}; got {type(given).__name__} of something else") from error
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise InputType(f"positions must be {EXPECTED}; got shape {pairs.shape}")
    return pairs[:, 0].copy(), pairs[:, 1].copy(), pixel


def _check_sky(places: Places) -> None:
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero((np.abs(places.second) > 90) | (np.abs(places.first) > 360))
    if wrong.size:
        row = int(wrong[0])
        raise CallerError(
            f"position {row} is no place on the sky: ra {places.first[row]:g}, dec {places.second[row]:g} (degrees are "
            "expected; for pixels say pixel=True)"
        )
