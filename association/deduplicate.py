"""Objects that came too close become one: sources move to the object that stays, statistics are made anew, the other is closed.

Two objects for one star come of a first detection far off, or of a template that changed. The job runs beside the
service: it works patch by patch under the sky locks, each patch one transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from scipy.spatial import cKDTree

from apdb import VisitUnitOfWork
from apdb.sky.htm import htm_ids
from apdb.sky.locks import lock_pixels_around, sky_locks
from association.errors import AssociationError
from tasks.arrays import I64
from tasks.sphere import chord_arcsec, unit_vectors

__all__ = ["MergeReport", "deduplicate", "find_duplicates"]

PATCH_LEVEL = 8
EVER = -1e6  # a time before everything


@dataclass(frozen=True)
class MergeReport:
    """What a run did: objects looked at, pairs too close, objects closed, sources moved."""

    objects: int
    pairs: int
    closed: int
    moved: int


def find_duplicates(diaObjects: pd.DataFrame, radius_arcsec: float) -> pd.DataFrame:
    """Return which objects should go into which.

    The older object stays (by first detection, then by id). Closest pairs come first; an object that has gone into
    another one takes part no more, and one that others have gone into does not go itself: chains of neighbours are not drawn
    into one.

    Parameters
    ----------
    diaObjects
        diaObjectId, ra, dec (deg), firstDiaSourceMjdTai.
    radius_arcsec
        Objects closer than this are one.

    Returns
    -------
    table : `pandas.DataFrame`
        gone, keep (diaObjectId), separation (arcsec), in order of ``gone``.

    Raises
    ------
    AssociationError
        The radius is not positive, or an id occurs twice.
    """
    if not radius_arcsec > 0:
        raise AssociationError(f"the radius must be positive, not {radius_arcsec}")
    if diaObjects.diaObjectId.duplicated().any():
        raise AssociationError("an object id occurs twice")
    o = diaObjects.sort_values("diaObjectId", ignore_index=True)
    vectors = unit_vectors(o.ra, o.dec)
    pairs = np.zeros((0, 2), np.int64)
    if len(o):
        pairs = cKDTree(vectors).query_pairs(np.radians(radius_arcsec / 3600), output_type="ndarray")
    if len(pairs) == 0:
        return pd.DataFrame({"gone": np.zeros(0, np.int64), "keep": np.zeros(0, np.int64), "separation": np.zeros(0)})
    first = o.firstDiaSourceMjdTai.fillna(np.inf).to_numpy(np.float64)
    rank = np.empty(len(o), np.int64)
    rank[np.lexsort((o.diaObjectId.to_numpy(), first))] = np.arange(len(o))
    older = np.where(rank[pairs[:, 0]] < rank[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    younger = pairs.sum(axis=1) - older
    chord = np.linalg.norm(vectors[older] - vectors[younger], axis=1)
    # distances equal to 1 mas are equal: rounding must not decide
    order = np.lexsort((rank[younger], rank[older], np.round(np.degrees(chord) * 3.6e6)))
    chosen = _choose(older[order], younger[order], len(o))
    keep, gone = older[order][chosen], younger[order][chosen]
    separation = chord_arcsec(chord[order][chosen])
    ids = o.diaObjectId.to_numpy(np.int64)
    out = pd.DataFrame({"gone": ids[gone], "keep": ids[keep], "separation": separation})
    return out.sort_values("gone", ignore_index=True)


def _choose(older: I64, younger: I64, count: int) -> I64:
    """Return the pairs to merge, closest first (there are few)."""
    gone, stays = np.zeros(count, bool), np.zeros(count, bool)
    chosen = []
    for k, (a, b) in enumerate(zip(older.tolist(), younger.tolist(), strict=True)):
        if not (gone[a] or gone[b] or stays[b]):
            gone[b], stays[a] = True, True
            chosen.append(k)
    return np.array(chosen, np.int64)


def deduplicate(
    connect: Callable[[], psycopg.Connection[Any]],
    radius_arcsec: float,
    now_mjd_tai: float,
    *,
    since_mjd_tai: float = EVER,
    dry_run: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MergeReport:
    """Merge the duplicates among the objects that changed since a time, and their neighbours.

    Parameters
    ----------
    connect
        Gives a new autocommit connection.
    since_mjd_tai
        Objects whose newest version began before it are looked at only as neighbours; all by default.
    dry_run
        Count, change nothing.
    progress
        Told patches done and in all.
    """
    with connect() as connection:
        with VisitUnitOfWork(connection) as work:
            fresh = work.load_new_objects(since_mjd_tai)
        patches = np.asarray(htm_ids(fresh.ra, fresh.dec, PATCH_LEVEL))
        pairs = closed = moved = 0
        distinct = np.unique(patches)
        for k, patch in enumerate(distinct):
            part = fresh[patches == patch]
            counts = _one_patch(connection, part, radius_arcsec, now_mjd_tai, dry_run)
            pairs, closed, moved = pairs + counts[0], closed + counts[1], moved + counts[2]
            progress(k + 1, len(distinct))
    return MergeReport(len(fresh), pairs, closed, moved)


def _one_patch(
    connection: psycopg.Connection[Any], fresh: pd.DataFrame, radius_arcsec: float, now: float, dry_run: bool
) -> tuple[int, int, int]:
    """Return the numbers of pairs in a patch, of objects closed and of sources moved."""
    ra, dec = fresh.ra.to_numpy(np.float64), fresh.dec.to_numpy(np.float64)
    locks = lock_pixels_around(ra, dec, radius_arcsec / 3600)
    with sky_locks(connection, locks), VisitUnitOfWork(connection) as work:
        around = work.load_objects_around(ra, dec, radius_arcsec / 3600)
        pairs = find_duplicates(around, radius_arcsec)
        pairs = pairs[pairs.gone.isin(fresh.diaObjectId) | pairs.keep.isin(fresh.diaObjectId)]
        if dry_run or pairs.empty:
            return len(pairs), 0, 0
        moved = work.merge_objects(dict(zip(pairs.gone.tolist(), pairs.keep.tolist(), strict=True)), now)
        work.commit()
        return len(pairs), len(pairs), sum(moved.values())
