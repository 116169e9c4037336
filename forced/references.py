"""Tables of reference positions, in any of the accepted forms, as one frame of ids and angles."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from forced.errors import ForcedPhotometryError
from forced.positions import degrees_of, integer_ids
from tasks.arrays import F64

__all__ = ["ReferenceColumns", "frame_of", "source_catalog"]


@dataclass(frozen=True)
class ReferenceColumns:
    """What the columns of a reference are called: `id`, `ra` and `dec` (degrees, ICRS)."""

    id: str
    ra: str
    dec: str


def frame_of(table: Any, columns: ReferenceColumns) -> pd.DataFrame:
    """Return a table of N positions as a frame of ids and degrees.

    Parameters
    ----------
    table
        A frame, an Arrow or astropy table, or a structured array (N,): with `columns`, which are handed on as they are,
        or a source catalogue with id, coord_ra and coord_dec (rad).

    Raises
    ------
    BadPositions
        Angles that are no numbers, or none of their unit.
    """
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    if isinstance(frame, np.ndarray):
        frame = pd.DataFrame({n: frame[n].astype(frame[n].dtype.newbyteorder("=")) for n in frame.dtype.names or ()})
    if columns.id in frame or "coord_ra" not in frame:
        return pd.DataFrame(frame)
    where = "the reference: column"
    return pd.DataFrame(
        {
            columns.id: frame["id"],
            columns.ra: degrees_of(frame["coord_ra"], "rad", f"{where} coord_ra (rad)", True, missing_allowed=True),
            columns.dec: degrees_of(frame["coord_dec"], "rad", f"{where} coord_dec (rad)", missing_allowed=True),
        }
    )


def source_catalog(frame: pd.DataFrame, columns: ReferenceColumns, log: logging.Logger) -> pd.DataFrame:
    """Return id, coord_ra and coord_dec (rad) of N positions; rows without a value stay NaN, and `log` tells how many.

    Ids come from the column, or from an index of that name; declinations also from a column ``decl``.

    Raises
    ------
    ForcedPhotometryError
        No such column or index, ids that are no integers, or an id that occurs twice.
    """
    if columns.id in frame.columns:
        ids = frame[columns.id].to_numpy()
    elif frame.index.name == columns.id:
        ids = frame.index.to_numpy()
    else:
        raise ForcedPhotometryError(f"the reference has no column {columns.id!r}")
    identity = integer_ids(ids, f"the reference: column {columns.id}")
    if len(np.unique(identity)) != len(identity):
        raise ForcedPhotometryError(f"{columns.id} holds an id twice")
    dec = "decl" if columns.dec not in frame and "decl" in frame else columns.dec
    return pd.DataFrame(
        {
            "id": identity,
            "coord_ra": _radians(frame, columns.ra, log, hours=True),
            "coord_dec": _radians(frame, dec, log),
        }
    )


def _radians(frame: pd.DataFrame, name: str, log: logging.Logger, hours: bool = False) -> F64:
    """Return a column of degrees in radians, shape (N,)."""
    if name not in frame:
        raise ForcedPhotometryError(f"the reference has no column {name!r}, but {list(frame.columns)[:20]}")
    degrees = degrees_of(frame[name], None, f"the reference: column {name}", hours, missing_allowed=True)
    missing = int(np.isnan(degrees).sum())
    if missing:
        log.warning("%d of %d rows of the reference have no %s: they are left out.", missing, len(frame), name)
    return np.radians(degrees)
