"""Tables of sky positions as people write them: ids and ICRS degrees out of columns with many names, units and notations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from forced.errors import BadPositions
from tasks.arrays import F64, I64, Flags

__all__ = ["Column", "degrees_of", "integer_ids", "sky_columns", "sky_positions"]

RA_NAMES = {
    "ra": None, "radeg": "deg", "radegrees": "deg", "rad": None, "rahours": "h", "rahour": "h", "rah": "h", "rahr": "h",
    "rahms": "h", "raj2000": None, "raj2000deg": "deg", "raicrs": None, "raicrsdeg": "deg", "rightascension": None,
    "rightascensiondeg": "deg", "alphaj2000": None, "alpha": None, "coordra": "rad", "raradians": "rad", "rarad": "rad",
}  # fmt: skip
DEC_NAMES = {
    "dec": None, "decl": None, "de": None, "decdeg": "deg", "decdegrees": "deg", "decdms": None, "dedeg": "deg",
    "decj2000": None, "dej2000": None, "dej2000deg": "deg", "decj2000deg": "deg", "decicrs": None, "deicrs": None,
    "decicrsdeg": "deg", "deicrsdeg": "deg", "declination": None, "declinationdeg": "deg", "deltaj2000": None,
    "delta": None, "coorddec": "rad", "decradians": "rad", "decrad": "rad",
}  # fmt: skip
ID_NAMES = ("id", "objectid", "diaobjectid", "objid", "sourceid", "targetid", "starid", "identifier", "ident", "name",
            "objectname", "objname", "targetname", "starname", "sourcename", "mainid", "designation", "object", "target",
            "star", "source", "label", "number", "no", "recno")  # fmt: skip
_DEGREES = {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "rad": 180 / np.pi, "radian": 180 / np.pi, "h": 15.0, "hr": 15.0,
            "hour": 15.0, "hours": 15.0, "hourangle": 15.0, "arcmin": 1 / 60, "arcsec": 1 / 3600, "mas": 1 / 3.6e6}  # fmt: skip
_SEXAGESIMAL = re.compile(
    r"^(?P<sign>[+\-\u2212]?)\s*(?P<a>\d{1,3})\s*(?P<by>[:hHdD\u00b0\s])\s*(?P<b>\d{1,2}(?:\.\d*)?)"
    r"(?:\s*[:mM'\u2032\s]\s*(?P<c>\d{1,2}(?:\.\d*)?)?)?\s*[sS\"\u2033']{0,2}$"
)
_SHOWN = 3


@dataclass(frozen=True)
class Column:
    """One column of a table: its name there, values (masked where they are missing) and unit."""

    name: str
    values: Any
    unit: str | None = None


def sky_positions(columns: Sequence[Column], what: str) -> pd.DataFrame:
    """Return id, ra, dec (ICRS deg, ra in [0, 360)) of a table.

    Right ascensions in sexagesimal notation are hours unless the unit, or a ``d``, says degrees; numbers are degrees unless
    the unit, or the name of the column, says otherwise.

    Parameters
    ----------
    what
        What the table is called in messages.

    Returns
    -------
    positions : `pandas.DataFrame`
        ``id`` is int64; uint64 where a number needs it; text where the ids are no numbers.

    Raises
    ------
    BadPositions
        A column is missing or is there twice, a value is missing, is no angle or out of range, an id occurs twice, or there
        is no row at all. The message names the column and the rows.
    """
    ra, dec = sky_columns(columns, what)
    identity, _ = _find(columns, dict.fromkeys(ID_NAMES), "ids", what)
    if len(ra) == 0:
        raise BadPositions(f"{what} holds no position")
    return pd.DataFrame({"id": _ids(identity, what), "ra": ra, "dec": dec})


def sky_columns(columns: Sequence[Column], what: str, *, missing_allowed: bool = False) -> tuple[F64, F64]:
    """Return ra and dec (ICRS deg, ra in [0, 360)) of a table; see `sky_positions`.

    Parameters
    ----------
    missing_allowed
        Missing values are NaN; else they are refused.

    Raises
    ------
    BadPositions
        A column is missing or is there twice, or a value is no angle or out of range.
    """
    ra, ra_unit = _find(columns, RA_NAMES, "right ascensions", what)
    dec, dec_unit = _find(columns, DEC_NAMES, "declinations", what)
    where = [f"{what}: column {column.name}" for column in (ra, dec)]
    first = degrees_of(ra.values, ra.unit or ra_unit, where[0], hours=True, missing_allowed=missing_allowed)
    return np.mod(first, 360.0), degrees_of(dec.values, dec.unit or dec_unit, where[1], missing_allowed=missing_allowed)


def _find(columns: Sequence[Column], names: Mapping[str, str | None], of: str, what: str) -> tuple[Column, str | None]:
    """Return the column whose name comes first in `names`, and the unit that its name says."""
    plain = [re.sub(r"[^a-z0-9]", "", c.name.lower()) for c in columns]
    for name, unit in names.items():
        matching = [c for c, p in zip(columns, plain, strict=True) if p == name]
        exact = [c for c in matching if c.name.strip() == name] or [c for c in matching if c.name.startswith("_")]
        if len(matching) > 1 and len(exact) != 1:
            raise BadPositions(
                f"{what} has two columns of {of}, {matching[0].name!r} and {matching[1].name!r}: keep one"
            )
        if matching:
            return (exact or matching)[0], unit
    have = ", ".join(repr(c.name) for c in columns[:20]) or "none"
    usual = ", ".join(list(names)[:3])
    raise BadPositions(f"{what} has no column of {of} (such as {usual}); its columns are {have}")


def degrees_of(values: Any, unit: str | None, where: str, hours: bool = False, *, missing_allowed: bool = False) -> F64:
    """Return angles in degrees, of numbers or of text (decimal or sexagesimal).

    Parameters
    ----------
    unit
        Of the numbers; degrees when None. ``h:m:s`` and ``d:m:s`` speak of text.
    where
        Table and column, for messages.
    hours
        Right ascensions: -360 to 360 degrees are allowed, and sexagesimal text is in hours.
    missing_allowed
        Missing values are NaN in the result; else they are refused.

    Raises
    ------
    BadPositions
    """
    array, missing = _masked(values)
    text_unit = _text_unit(unit)
    factor = 1.0 if text_unit is not None or unit is None else _DEGREES.get(unit.strip().lower())
    if factor is None or (factor == 15.0 and not hours):
        raise BadPositions(f"{where}: {unit!r} is no unit of it; use deg")
    if array.dtype.kind in "fiu":
        out = array.astype(np.float64) * factor
    elif array.dtype.kind in "OUS":
        out = _text_degrees(
            _strings(array), factor, text_unit or ("d" if unit and factor == 1.0 else None), where, hours
        )
    else:
        raise BadPositions(f"{where}: expected angles, got values of type {array.dtype}")
    out = np.where(missing, np.nan, out)
    _refuse(np.isinf(out) if missing_allowed else ~np.isfinite(out), array, where, "has no value")
    limit = 360.0 if hours else 90.0
    _refuse(np.abs(out) > limit, array, where, f"is outside +-{limit:.0f} deg")
    return out


def _text_unit(unit: str | None) -> str | None:
    """Return h or d where the unit speaks of sexagesimal text in hours or degrees."""
    plain = re.sub(r"[^a-z]", "", (unit or "").lower())
    return {"hms": "h", "dms": "d"}.get(plain)


def _text_degrees(text: "pd.Series[str]", factor: float, unit: str | None, where: str, hours: bool) -> F64:
    """Return degrees of text; blank text is NaN."""
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64) * factor
    others = np.isnan(numbers) & ~text.str.lower().isin(("", "nan", "null", "none", "--")).to_numpy()
    if not others.any():
        return numbers
    parts = text[others].str.extract(_SEXAGESIMAL)
    bad = np.zeros(len(text), bool)
    bad[others] = parts["a"].isna().to_numpy()
    _refuse(bad, text.to_numpy(), where, "is no angle")
    a, b, c = (pd.to_numeric(parts[k]).fillna(0.0).to_numpy(np.float64) for k in "abc")
    bad[others] = (b >= 60) | (c > 60)
    _refuse(bad, text.to_numpy(), where, "has 60 minutes or seconds, or more")
    by = parts["by"].str.lower().to_numpy()
    default = unit == "h" or (unit is None and hours)
    in_hours = (by == "h") | (default & ~np.isin(by, ("d", "\u00b0")))
    bad[others] = in_hours & (a + b / 60 + c / 3600 > 24) | (in_hours & (not hours))
    _refuse(bad, text.to_numpy(), where, "is no number of hours of right ascension")
    sign = np.where(parts["sign"].isin(["-", "\u2212"]), -1.0, 1.0)
    numbers[others] = sign * (a + b / 60 + c / 3600) * np.where(in_hours, 15.0, 1.0)
    return numbers


def _masked(values: Any) -> tuple[NDArray[Any], Flags]:
    """Return values and where they are missing (masked, None, pandas NA)."""
    if isinstance(values, np.ma.MaskedArray):
        return np.asarray(values.data), np.ma.getmaskarray(values)
    array = np.asarray(values)
    missing = np.asarray(pd.isna(values)) if array.dtype.kind == "O" else np.zeros(array.shape, bool)
    if array.dtype.kind == "O" and not missing.all():  # numbers among missing ones keep their digits
        kinds = {type(v) for v in array[~missing]}
        if all(issubclass(k, int | np.integer) and k is not bool for k in kinds):
            numbers = np.where(missing, 0, array).tolist()
            array = np.array(numbers, np.int64 if max(numbers) <= np.iinfo(np.int64).max else object)
        elif all(issubclass(k, float | int | np.floating | np.integer) for k in kinds):
            array = np.where(missing, np.nan, array).astype(np.float64)
    return array, missing


def _strings(array: NDArray[Any]) -> "pd.Series[str]":
    text = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in array]
    return pd.Series(text, dtype=object).str.strip()


def _refuse(bad: Flags, values: NDArray[Any], where: str, why: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        shown = ", ".join(f"row {r + 1} ({str(values[r])!r})" for r in rows[:_SHOWN])
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        raise BadPositions(f"{where}: {shown}{more} {why}")


def integer_ids(values: Any, where: str) -> I64:
    """Return ids as int64, nothing rounded and nothing wrapped.

    Raises
    ------
    BadPositions
        They are no integers, or do not fit; the message names `where`.
    """
    array, missing = _masked(values)
    if array.dtype.kind not in "iu":
        raise BadPositions(f"{where} must be int64, got {array.dtype}")
    _refuse(missing, array, where, "has no value")
    if array.dtype.kind == "u":
        _refuse(array > np.uint64(np.iinfo(np.int64).max), array, where, "does not fit in int64")
    return array.astype(np.int64)


def _ids(column: Column, what: str) -> Any:
    """Return ids as int64, as uint64 or object integers where they need it, else as text; each occurs once."""
    where = f"{what}: column {column.name}"
    array, missing = _masked(column.values)
    out: Any = array
    if array.dtype.kind in "OUS":
        text = _strings(array)
        missing = missing | (text.str.lower().isin(("", "nan", "--"))).to_numpy()
        out = text.to_numpy(object)
        if not missing.any() and text.str.fullmatch(r"-?(0|[1-9]\d{0,19})").all():
            out = np.array([int(v) for v in text], dtype=object)
    _refuse(missing, array, where, "has no value")
    if array.dtype.kind == "f":
        _refuse(
            ~(np.abs(array) < 2**53) | (array != np.rint(array)),
            array,
            where,
            "is no integer, or was rounded as a float",
        )
        out = array.astype(np.int64)
    elif array.dtype.kind not in "iuOUS":
        raise BadPositions(f"{where}: expected numbers or names, got values of type {array.dtype}")
    ids = pd.Series(_narrow(out))
    twice = ids.duplicated()
    _refuse(twice.to_numpy(), ids.to_numpy(), where, "came before")
    return ids.to_numpy()


def _narrow(ids: Any) -> Any:
    """Return integers in int64, else in uint64, else as text; anything else as it is."""
    if ids.dtype.kind in "iu" or (ids.dtype.kind == "O" and all(isinstance(v, int) for v in ids)):
        low, high = int(min(ids)), int(max(ids))
        if low >= np.iinfo(np.int64).min and high <= np.iinfo(np.int64).max:
            return ids.astype(np.int64)
        if low >= 0 and high <= np.iinfo(np.uint64).max:
            return ids.astype(np.uint64)
        return np.array([str(v) for v in ids], dtype=object)
    return ids
