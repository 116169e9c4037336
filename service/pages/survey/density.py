"""Counts of objects, detections or ccdVisits on HEALPix cells, whose size follows what there is."""

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql

from apdb import VisitState
from apdb.rows import single_row
from apdb.schema.columns import Column
from apdb.tallies import visits_by_state
from service.pages.shared import Shared, curve_frame, reading
from tasks.arrays import I64

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "Density", "DensityCache", "coarser", "density_of"]

KINDS = ("objects", "detections", "visits")
FINEST = 14  # order of the cells that are counted first: 13 arcsec
MOST_CELLS = 2500
PER_CELL = 5  # of what is counted, at least, on average
LEAST_CELLS = 30
MOST = 2_000_000  # rows that are counted: of more an even sample
DAYS = 30.0  # before the newest exposure, of detections
KEPT_S = 10.0
_POSITION_COLUMNS = (Column("ra", "double", False, None, "deg"), Column("dec", "double", False, None, "deg"))
_ROWS = {
    "objects": sql.SQL('SELECT ra, dec FROM "DiaObjectLast" {sample}'),
    "detections": sql.SQL(
        'SELECT ra, dec FROM "DiaSource" {sample} WHERE "timeWithdrawnMjdTai" IS NULL AND "midpointMjdTai" >= {since}'
    ),
}
_VISITS = (
    'SELECT pixel, count(*) AS n FROM (SELECT DISTINCT visit, detector, unnest(region) AS pixel FROM "VisitLedger" '
    "WHERE state IN ('done', 'no_work') LIMIT %s) p GROUP BY pixel"
)


@dataclass(frozen=True)
class Density:
    """Cells (nested HEALPix, ascending) of one order and what is counted in each."""

    of: str
    order: int
    cells: I64
    counts: I64
    total: int
    cut: bool  # whether the counts are estimates, from an even sample
    newest: float | None = (
        None  # MJD (TAI) of the newest exposure, of detections: those of `DAYS` before it are counted
    )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready values, with the corners of the cells (ICRS degrees)."""
        return {
            "of": self.of, "order": self.order, "total": self.total, "cut": self.cut, "cells": self.cells.tolist(),
            "counts": self.counts.tolist(), **corners_of(self.cells, self.order),
        }  # fmt: skip


def corners_of(cells: I64, order: int) -> dict[str, Any]:
    """Return ``ra`` and ``dec`` of the four corners of each cell, degrees, as lists of four."""
    import hpgeom

    if not cells.size:
        return {"ra": [], "dec": []}
    ra, dec = hpgeom.boundaries(1 << order, cells, step=1, nest=True, lonlat=True)
    return {"ra": np.round(np.atleast_2d(ra), 5).tolist(), "dec": np.round(np.atleast_2d(dec), 5).tolist()}


def density_of(shared: Shared, of: str, order: int | None = None) -> Density:
    """Count.

    Parameters
    ----------
    of
        One of `KINDS`.
    order
        Of the cells; without one such that there are not too many, each with some on average.
    """
    import hpgeom

    from apdb.sky.moc import MOC_ORDER

    if of == "visits":
        cells, counts, total = _visits(shared)
        return coarser(Density(of, MOC_ORDER, cells, counts, total, False), order, most_of_each=True)
    newest = _newest_exposure(shared) if of == "detections" else None
    frame, share = _positions(shared, of, sql.Literal(None if newest is None else newest - DAYS))
    finest = hpgeom.angle_to_pixel(
        1 << FINEST, frame.ra.to_numpy(np.float64) % 360, frame.dec.to_numpy(np.float64), nest=True, lonlat=True
    )
    cells, counts = np.unique(np.asarray(finest, np.int64), return_counts=True)
    density = coarser(Density(of, FINEST, cells, counts, len(frame), share < 1, newest), order)
    if share == 1:
        return density
    # what a row of the sample stands for
    return replace(density, counts=np.rint(density.counts / share).astype(np.int64), total=round(len(frame) / share))


def _positions(shared: Shared, of: str, since: sql.Composable) -> tuple["pd.DataFrame", float]:
    """Return positions, and which share of all rows they are: all, or an even sample where there are more than `MOST`.

    The sample is of pages of the table, the same ones each time: the first rows would be those of the oldest part of the sky.
    """
    rows, share = _ROWS[of].format(sample=sql.SQL(""), since=since), 1.0
    with shared.database.session() as connection:
        (plan,) = single_row(connection.execute(sql.SQL("EXPLAIN (FORMAT JSON) {}").format(rows)))
    expected = plan[0]["Plan"]["Plan Rows"]
    if expected > MOST:
        share = MOST / expected
        sample = sql.SQL("TABLESAMPLE SYSTEM ({}) REPEATABLE (1)").format(sql.Literal(100 * share))
        rows = _ROWS[of].format(sample=sample, since=since)
    return curve_frame(shared.database, rows, _POSITION_COLUMNS, ()), share


def coarser(density: Density, order: int | None, *, most_of_each: bool = False) -> Density:
    """Return the counts on larger cells, four of which make one; `most_of_each`: the largest of them, not their sum."""
    wanted = max(LEAST_CELLS, min(MOST_CELLS, density.total // PER_CELL))
    cells, counts, level = density.cells, density.counts, density.order
    while level > 0 and (level > order if order is not None else len(cells) > wanted):
        parents, which = np.unique(cells >> 2, return_inverse=True)
        together = np.zeros(len(parents), np.int64)
        (np.maximum if most_of_each else np.add).at(together, which, counts)
        cells, counts, level = parents, together, level - 1
    return replace(density, order=level, cells=cells, counts=counts)


def _newest_exposure(shared: Shared) -> float | None:
    with reading(shared.database) as cursor:
        row = cursor.execute('SELECT max("midpointMjdTai") AS newest FROM "VisitLedger"').fetchone()
    return None if row is None else row["newest"]


def _visits(shared: Shared) -> tuple[I64, I64, int]:
    """Return cells, ccdVisits whose coarse outline touches each, and how many there are."""
    from apdb.sky.moc import MOC_ORDER, healpix_of_htm

    with reading(shared.database) as cursor:
        rows = cursor.execute(_VISITS, (MOST,)).fetchall()
    with shared.database.session() as connection:
        states = visits_by_state(connection, VisitState)
    pixels = np.array([r["pixel"] for r in rows], np.int64)
    numbers = np.array([r["n"] for r in rows], np.int64)
    parts = []
    for number in np.unique(numbers).tolist():  # as many as there are different counts, not rows
        cells = healpix_of_htm(pixels[numbers == number], MOC_ORDER)
        parts.append(np.stack([cells, np.full(cells.size, number)]))
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    cells, which = np.unique(np.concatenate([p[0] for p in parts]), return_inverse=True)
    counts = np.zeros(cells.size, np.int64)
    np.maximum.at(counts, which, np.concatenate([p[1] for p in parts]))
    return cells, counts, states[VisitState.DONE] + states[VisitState.NO_WORK]


class DensityCache:
    """The last counts, kept for some seconds: one count for all viewers of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, int | None], tuple[float, Density]] = {}

    def of(self, shared: Shared, of: str, order: int | None) -> Density:
        """Return the counts, new or of a moment ago."""
        with self._lock:
            until, density = self._kept.get((of, order), (0.0, None))
            if density is None or time.monotonic() > until:
                density = density_of(shared, of, order)
                self._kept[of, order] = time.monotonic() + KEPT_S, density
            return density
