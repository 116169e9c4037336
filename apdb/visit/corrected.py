"""Which corrections of alerts follow from rows that were taken back or moved."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from apdb.queue.corrections import IDS, CorrectionKind
from tasks.arrays import I64
from tasks.sphere import unit_vectors

__all__ = ["SAME_PLACE_ARCSEC", "of_moved", "of_withdrawn"]

SAME_PLACE_ARCSEC = 1.0  # a source of the new processing within it is the one in the place of the old


def of_withdrawn(visit: int, detector: int, sources: pd.DataFrame, new: pd.DataFrame | None) -> pd.DataFrame:
    """Return corrections of the withdrawn sources of a visit.

    Parameters
    ----------
    sources
        diaSourceId, diaObjectId (0: none), ra, dec (deg) of what was withdrawn.
    new
        The same of what is stored in its place; None where nothing is. A source that keeps its id has the same alert still: it is
        corrected where its object is another.
    """
    if sources.empty:
        return _table([], CorrectionKind.RETRACTED)
    out = pd.DataFrame(
        {
            "diaSourceId": sources.diaSourceId.to_numpy(np.int64),
            "oldDiaObjectId": sources.diaObjectId.to_numpy(np.int64),
            "newDiaObjectId": np.int64(0),
            "visit": np.int64(visit),
            "detector": np.int64(detector),
            "kind": str(CorrectionKind.RETRACTED),
        }
    )
    if new is None or new.empty:
        return out
    owners = new.diaObjectId.fillna(0).to_numpy(np.int64) if "diaObjectId" in new else np.zeros(len(new), np.int64)
    near = _nearest(sources, new)
    out.loc[near >= 0, "kind"] = str(CorrectionKind.REPLACED)
    out.loc[near >= 0, "newDiaObjectId"] = owners[near[near >= 0]]
    kept = dict(zip(new.diaSourceId.tolist(), owners.tolist(), strict=True))
    same = out.diaSourceId.isin(kept.keys()).to_numpy(bool)
    out.loc[same, "kind"] = str(CorrectionKind.REASSIGNED)
    out.loc[same, "newDiaObjectId"] = out.diaSourceId[same].map(kept).astype(np.int64)
    return out[~same | (out.newDiaObjectId != out.oldDiaObjectId).to_numpy(bool)]


def _nearest(sources: pd.DataFrame, new: pd.DataFrame) -> I64:
    """Return the row in `new` that is nearest to each source, -1 where none is at the same place."""
    from scipy.spatial import cKDTree  # workers alone put something in the place of a visit

    limit = 2 * np.sin(np.radians(SAME_PLACE_ARCSEC / 3600) / 2)
    distance, row = cKDTree(unit_vectors(new.ra, new.dec)).query(unit_vectors(sources.ra, sources.dec))
    return np.where(distance <= limit, row, -1).astype(np.int64)


def of_moved(connection: psycopg.Connection[Any], owners: Mapping[int, tuple[int, int]]) -> pd.DataFrame:
    """Return corrections of sources (ids) that went from one object to another (old, new; 0 is none)."""
    rows = connection.execute(
        'SELECT "diaSourceId", visit, detector FROM "DiaSource" WHERE "diaSourceId" = ANY(%s::bigint[])',
        (list(owners),),
    )
    return _table(
        [(i, *owners[i], v, d) for i, v, d in rows if owners[i][0] != owners[i][1]], CorrectionKind.REASSIGNED
    )


def _table(rows: Iterable[tuple[int, ...]], kind: CorrectionKind) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(IDS)).astype(np.int64).assign(kind=str(kind))
