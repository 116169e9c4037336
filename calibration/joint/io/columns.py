"""Columns of source tables as plain numbers and flags, whatever kind of column a file or a frame holds them in."""

from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import infer_dtype

from calibration.errors import JointCalibrationError
from tasks.arrays import I64, Flags

__all__ = ["flags", "plain_numbers"]

_IDS = ("visit", "detector", "sourceId")
_NUMBERS = ("floating", "integer", "mixed-integer-float", "boolean", "decimal", "empty")  # of a column of objects


def plain_numbers(table: pd.DataFrame, but: "set[str]") -> pd.DataFrame:
    """Return the table with all its columns `but` some as float64, NaN where nothing is known, or integers as they are.

    Ids are integers; -1, which no image has, where nothing is known.

    Raises
    ------
    JointCalibrationError
        A column holds text or something else that is no number; the message names it.
    """
    changed = {}
    for name in table.columns:
        column = table[name]
        plain = isinstance(column.dtype, np.dtype) and column.dtype.kind in "iufb"
        if name in but or (plain and (name not in _IDS or column.dtype.kind in "iu")):
            continue
        if not plain and infer_dtype(column, skipna=True) not in _NUMBERS:
            raise JointCalibrationError(
                f"column {name} of the source tables holds no numbers, for example {column.dropna().iloc[0]!r}"
            )
        if name in _IDS and pd.api.types.is_integer_dtype(column.dtype):
            changed[name] = column.to_numpy(np.int64, na_value=-1)
            continue
        if name in _IDS and not plain and infer_dtype(column, skipna=True) in ("integer", "decimal"):
            changed[name] = _integers(column)
            continue
        values = column.to_numpy(np.float64, na_value=np.nan)
        changed[name] = np.where(np.isfinite(values), values, -1).astype(np.int64) if name in _IDS else values
    return table.assign(**changed) if changed else table


def _integers(column: "pd.Series[Any]") -> I64:
    """Return the ids (N,) of a column of objects, as a float of which one above 2^53 would be another."""
    try:
        return column.where(column.notna(), -1).to_numpy(np.int64)
    except OverflowError as error:
        raise JointCalibrationError(
            f"column {column.name} of the source tables holds numbers of more than 63 bits, for example {column.max()}"
        ) from error


def flags(table: pd.DataFrame, name: str, unknown: bool) -> Flags:
    """Return a column of flags (N,); where nothing is known the answer is `unknown`.

    Raises
    ------
    JointCalibrationError
        The column holds text.
    """
    column = table[name]
    if column.dtype == bool:
        return column.to_numpy()
    known = column.notna().to_numpy()
    out = np.full(len(table), unknown)
    if column.dtype == object or isinstance(column.dtype, pd.StringDtype):
        words = [value for value in column[known].unique() if isinstance(value, str)]
        if words:
            raise JointCalibrationError(f"column {name} of the source tables holds no flags, for example {words[0]!r}")
    out[known] = column[known].to_numpy(bool)
    return out
