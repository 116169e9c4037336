"""The columns of the summaries that this package makes."""

import numpy as np
import pandas as pd
from astropy.table import Table

from calibration.summary import statistics as st

__all__ = ["as_frame", "empty_summary"]


def empty_summary() -> Table:
    """Return a summary without a row: all its columns and their types."""
    facts = {
        "id": np.int64, "visit": np.int64, "band": "U8", "physical_filter": "U32", "expTime": np.float64,
        "bbox_min_x": np.int64, "bbox_min_y": np.int64, "bbox_max_x": np.int64, "bbox_max_y": np.int64,
    }  # fmt: skip
    table = Table({name: np.zeros(0, kind) for name, kind in facts.items()})
    for name in (name for group in st.GROUPS.values() for name in group):
        shape = (0, 4) if name.endswith("Corners") else (0,)
        table[name] = np.zeros(0, np.int32) if name == "nPsfStar" else np.zeros(shape)
    return table


def as_frame(table: Table) -> pd.DataFrame:
    """Return a frame without rows with the columns of a table, in native byte order; those of arrays by their items' type."""
    return pd.DataFrame({name: pd.Series(dtype=table[name].dtype.base.newbyteorder("=")) for name in table.colnames})
