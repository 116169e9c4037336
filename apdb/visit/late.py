"""Objects made anew because a visit came late, or forced sources came and went, before their last detections."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import psycopg

from apdb.schema.columns import PublishedSchema
from apdb.visit.forced_means import in_means, renew_forced_means
from apdb.visit.renewal import Counting, newest_versions, renew
from apdb.visit_rows import VisitRows
from tasks.arrays import F64, I64

__all__ = ["Measured", "earliest", "renew_late"]


@dataclass(frozen=True)
class Measured:
    """Forced sources that came or went.

    Parameters
    ----------
    since
        When each object (diaObjectId) was measured first: MJD, TAI.
    bands
        Their bands.
    """

    since: "pd.Series[float]"
    bands: frozenset[str]


def earliest(ids: I64, times: F64) -> "pd.Series[float]":
    """Return the first of the times (MJD, TAI) of each id, both of shape (N,), by id."""
    order = np.lexsort((times, ids))
    distinct, first = np.unique(ids[order], return_index=True)
    return pd.Series(times[order][first], index=distinct, dtype=np.float64)


def renew_late(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    rows: VisitRows,
    *,
    but: Collection[int] = (),
    last: Mapping[int, float] | None = None,
    gone: Measured | None = None,
    renewed_ids: Collection[int] = (),
    all_last: "pd.Series[float] | None" = None,
) -> tuple[int, ...]:
    """Make objects anew that rows of a visit which came late have a part in, `but` for some; returns them.

    Late is what lies before the last detection of its object: whoever stored it saw another window of history, and objects
    without a detection in it (for which the same time is late, too) got no new version.

    Parameters
    ----------
    last
        Last detections (MJD, TAI) as they are known of objects; others are looked up.
    gone
        Forced sources that these rows replace.
    renewed_ids
        Further objects whose open version this same transaction has made.
    all_last
        The last detections by diaObjectId of all open objects that these rows or `gone` measured, where they have been read.
    """
    times = [f.midpointMjdTai.to_numpy(np.float64) for f in rows.frames.values()]
    newest = float(np.max(np.concatenate(times))) if times else np.inf
    own = rows.objects.diaObjectId.tolist() if len(rows.objects) else []
    all_renewed = {*renewed_ids, *own}
    behind = _behind(rows, newest) - set(but)
    done: tuple[int, ...] = ()
    if behind:
        versions = newest_versions(connection, schema, behind)
        done = renew(
            connection,
            schema,
            versions,
            rows.mjd_tai,
            renewed_ids=all_renewed,
            close=False,
            counting=Counting(has_left=False),
        ).objects
    came = _measured(rows, newest, last or {})
    both = [m for m in (came, gone) if m is not None]
    if not both:
        return done
    since = earliest(*(np.concatenate(v) for v in zip(*((m.since.index, m.since) for m in both), strict=True)))
    since = since[~since.index.isin([*own, *but])]
    bands = frozenset[str]().union(*(m.bands for m in both))
    return (*done, *renew_forced_means(connection, schema, since, bands, rows.mjd_tai, all_renewed, all_last))


def _behind(rows: VisitRows, newest: float) -> set[int]:
    """Return objects among rows that were detected after them."""
    objects = rows.objects
    if not len(objects) or "lastDiaSourceMjdTai" not in objects:
        return set()
    return set(objects.diaObjectId[objects.lastDiaSourceMjdTai.to_numpy(np.float64) > newest].tolist())


def _measured(rows: VisitRows, newest: float, last: Mapping[int, float]) -> Measured | None:
    """Return the forced sources with a part in means, of objects that may have been detected after them."""
    forced = rows.frames.get("DiaForcedSource")
    if forced is None:
        return None
    usable = in_means(forced)
    forced = forced if usable.all() else forced[usable]
    ids = forced.diaObjectId.to_numpy(np.int64)
    if len(rows.objects):
        ids = ids[~np.isin(ids, rows.objects.diaObjectId.to_numpy(np.int64))]
    if last:
        ids = ids[~(np.array([last.get(i, np.nan) for i in ids.tolist()], np.float64) < newest)]
    bands = frozenset(forced.band.dropna().unique()) if "band" in forced else frozenset()
    return Measured(pd.Series(newest, index=ids), bands) if len(ids) else None
