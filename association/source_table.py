"""The table of sources as association takes it: of one visit, with every column that the steps ask for."""

import numpy as np
import pandas as pd

from apdb import columns_of
from association.errors import AssociationError
from exposure import Exposure, VisitInfo

__all__ = ["check_one_visit", "pointing_problems", "with_optional_columns"]

_IDS = ("diaObjectId", "ssObjectId")  # 0: none


def check_one_visit(sources: pd.DataFrame, difference: Exposure, science: Exposure) -> None:
    """Refuse sources and images that are not of one visit, detector and band.

    Raises
    ------
    AssociationError
        They are of several.
    """
    visit, detector = difference.key
    if science.key != (visit, detector):
        raise AssociationError(
            f"the science image is of visit {science.key[0]}, detector {science.key[1]}", **difference.where
        )
    for name, value in (("visit", visit), ("detector", detector), ("band", difference.band)):
        other = sources[name] != value if name in sources else np.zeros(len(sources), np.bool_)
        if other.any():
            other_value = sources[name][other].iloc[0]
            raise AssociationError(
                f"{int(other.sum())} of {len(sources)} sources are of another {name} than the images (the first of {other_value})",
                **difference.where,
            )


def pointing_problems(info: VisitInfo) -> list[str]:
    """Return what is wrong with the pointing: the rotation must be a number, and the boresight both or not known."""
    problems = [] if np.isfinite(info.rotation) else [f"rotation {info.rotation}, expected degrees"]
    boresight = (info.boresight_ra, info.boresight_dec)
    if not np.isfinite(boresight).all() and not np.isnan(boresight).all():
        problems.append(
            f"boresight {boresight[0]}, {boresight[1]}, expected degrees, or both NaN where it is not known"
        )
    return problems


def with_optional_columns(sources: pd.DataFrame, band: str) -> pd.DataFrame:
    """Return sources with the columns of numbers that may be NULL and are absent: all NULL (0 for the ids of objects).

    The band, where it is absent or NULL, is that of the image: without it fluxes are in no mean.
    """
    n = len(sources)
    if "band" not in sources or sources.band.isna().any():
        known = sources.band if "band" in sources else pd.Series(None, sources.index, object)
        sources = sources.assign(band=known.where(known.notna(), band))
    absent = {
        c.name: np.zeros(n, np.int64) if c.name in _IDS else np.full(n, np.nan, c.dtype)
        for c in columns_of("DiaSource")
        if c.name not in sources and c.nullable and (c.name in _IDS or c.dtype.kind == "f")
    }
    return pd.concat([sources, pd.DataFrame(absent, index=sources.index)], axis=1) if absent else sources
