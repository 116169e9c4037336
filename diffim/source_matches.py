"""Which sources of the image and of the template lie where something changed."""

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from exposure import Exposure
from tasks.arrays import F64, I64
from tasks.errors import CallerError
from tasks.sphere import chord_arcsec, unit_vectors

__all__ = ["check_sources", "with_matches"]

_IDS = ("id", "sourceId")


def check_sources(table: pd.DataFrame, name: str, **where: int | None) -> None:
    """Refuse sources that cannot be matched; `where` says which image it is about.

    Raises
    ------
    CallerError
        No positions ra, dec (deg), or no ids.
    """
    missing = [c for c in ("ra", "dec") if c not in table]
    if missing or not set(_IDS) & set(table.columns):
        wanted = " and ".join([*missing, *([] if set(_IDS) & set(table.columns) else ["id (or sourceId)"])])
        raise CallerError(f"{name} cannot be matched with the sources of the difference: it lacks {wanted}", **where)


def with_matches(
    dia_sources: pd.DataFrame,
    difference: Exposure,
    sources: pd.DataFrame | None,
    template_sources: pd.DataFrame,
    radius_arcsec: float,
) -> pd.DataFrame:
    """Return sources of a difference with ``srcMatchId`` and ``refMatchId``: ids of the nearest source of image and template, 0 for none.

    Parameters
    ----------
    sources, template_sources
        Tables with ra, dec (deg) and id or sourceId; the image's may lack ids (or be None): then nothing of it matches.
    radius_arcsec
        Largest distance.
    """
    ra, dec = difference.require_wcs().pixel_to_sky(
        dia_sources.x.to_numpy(np.float64), dia_sources.y.to_numpy(np.float64)
    )
    table = sources if sources is not None and set(_IDS) & set(sources.columns) and "ra" in sources else None
    return dia_sources.assign(
        srcMatchId=np.zeros(len(dia_sources), np.int64) if table is None else _nearest(ra, dec, table, radius_arcsec),
        refMatchId=_nearest(ra, dec, template_sources, radius_arcsec),
    )


def _nearest(ra: F64, dec: F64, table: pd.DataFrame, radius_arcsec: float) -> I64:
    """Return the id of the row nearest to each position (N,) in deg, 0 where none is within the radius."""
    ids = table[next(n for n in _IDS if n in table)].to_numpy(np.int64)
    places = table[["ra", "dec"]].to_numpy(np.float64)
    good = np.isfinite(places).all(axis=1)
    if not good.any() or not ra.size:
        return np.zeros(ra.size, np.int64)
    tree = cKDTree(unit_vectors(*places[good].T))
    positioned = np.isfinite(ra) & np.isfinite(dec)
    chord, row = tree.query(unit_vectors(np.where(positioned, ra, 0), np.where(positioned, dec, 0)))
    return np.where(positioned & (chord_arcsec(np.asarray(chord, np.float64)) <= radius_arcsec), ids[good][row], 0)
