"""Objects made anew from the valid rows that they have: after rows were taken back, moved, or came late.

All objects at once: one read of counts, one of sources, one of forced means, one compiled pass, one COPY. The means are those
that the association gives: the same rows give the same bytes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.copy.decode import select_frame
from apdb.copy.encode import copy_in, id_array
from apdb.schema.columns import PublishedSchema
from apdb.sky.htm import htm_ids
from apdb.visit.changes import close_objects
from apdb.visit.forced_means import forced_means
from apdb.visit.store import store_objects
from apdb.visit.valid_rows import EVER, SOURCE_COLUMNS, TIMES, valid_sources
from apdb.visit_rows import VisitRows
from tasks import object_statistics as kernels
from tasks.arrays import F64
from tasks.object_statistics import BANDS, CELL_COLUMNS, HISTORY_DAYS

__all__ = ["Counting", "Renewal", "newest_versions", "renew", "write_pending"]

_STATE = ("diaObjectId", "ra", "dec", "nDiaSources", *TIMES)  # the other columns of a new version are computed


@dataclass(frozen=True)
class Renewal:
    """Objects that got a new version, and positions (ra, dec in deg) of those that have no valid source and were closed.

    `pending` holds new versions that are in DiaObjectLast already, and in DiaObject when `write_pending` was called.
    """

    objects: tuple[int, ...] = ()
    closed: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    pending: pd.DataFrame | None = None


@dataclass(frozen=True)
class Counting:
    """Which sources of objects say what a new version holds.

    ``has_left`` False: no source has left them since their newest versions (which then tell what lies in archived months without
    notes). ``limits``: first and last time (MJD, TAI) that can be real; sources beyond are counted, and in no statistics.
    """

    has_left: bool = True
    limits: tuple[float, float] = EVER


ALL = Counting()


def newest_versions(connection: psycopg.Connection[Any], schema: PublishedSchema, ids: Collection[int]) -> pd.DataFrame:
    """Return what DiaObjectLast says of objects and `renew` starts from (`_STATE`), in order of id."""
    wanted = id_array(np.array(sorted(ids), np.int64))
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[])')
    columns = [c for c in schema.columns("DiaObjectLast") if c.name in _STATE]
    frame = select_frame(connection, "DiaObjectLast", columns, rest, (wanted,))
    return frame.sort_values("diaObjectId", ignore_index=True)


def renew(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    objects: pd.DataFrame,
    mjd_tai: float,
    *,
    renewed_ids: Collection[int] = (),
    close: bool = True,
    defer: bool = False,
    counting: Counting = ALL,
) -> Renewal:
    """Give objects a new version that says what their valid rows say, and close those without any valid source.

    Parameters
    ----------
    objects
        Their newest versions (`newest_versions`) as they were before rows changed.
    mjd_tai
        When the new versions begin.
    renewed_ids
        Objects whose open version this same transaction has made: it is replaced.
    close
        False leaves objects without any valid source as they are.
    defer
        Write the new versions to DiaObjectLast alone: the caller is about to store newer ones of many of the objects, and calls
        `write_pending` for the others.
    counting
        Which of their sources say what.
    """
    needed = {*SOURCE_COLUMNS, "timeWithdrawnMjdTai"}
    if objects.empty or not needed <= {c.name for c in schema.columns("DiaSource")}:
        return Renewal()
    counted, sources = valid_sources(connection, schema, objects, has_left=counting.has_left, limits=counting.limits)
    gone = counted[counted.nDiaSources == 0]
    counted = counted[(counted.nDiaSources > 0) & counted.lastDiaSourceMjdTai.notna()].reset_index(drop=True)
    pending = None
    if len(counted):
        frame = _with_statistics(connection, counted, sources)
        if defer:
            pending = frame
            _replace_last(connection, schema, frame, mjd_tai)
        else:
            store_objects(connection, VisitRows(schema, mjd_tai, frame, {}, None, None), renewed_ids)
    positions = {int(i): (float(a), float(d)) for i, a, d in zip(gone.diaObjectId, gone.ra, gone.dec, strict=True)}
    if not close or not positions:
        return Renewal(tuple(counted.diaObjectId.tolist()), pending=pending)
    close_objects(connection, positions, mjd_tai, renewed_ids)
    return Renewal(tuple(counted.diaObjectId.tolist()), positions, pending)


def _replace_last(
    connection: psycopg.Connection[Any], schema: PublishedSchema, frame: pd.DataFrame, mjd_tai: float
) -> None:
    """Write versions to DiaObjectLast in the place of those that are there."""
    ids = id_array(frame.diaObjectId.to_numpy(np.int64))
    connection.execute('DELETE FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s::bigint[])', (ids,))
    placed = frame.assign(pixelId=htm_ids(frame.ra, frame.dec), validityStartMjdTai=mjd_tai)
    copy_in(connection, "DiaObjectLast", placed, schema.stored_columns("DiaObjectLast"), check=False)


def write_pending(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    renewal: Renewal,
    mjd_tai: float,
    stored: Collection[int],
) -> list[int]:
    """Write the versions of a renewal that waited to DiaObject, but for objects that got a newer one since (`stored`).

    Returns the objects whose versions it wrote.
    """
    if renewal.pending is None:
        return []
    left = renewal.pending[~renewal.pending.diaObjectId.isin(stored)]
    if len(left):
        store_objects(connection, VisitRows(schema, mjd_tai, left.reset_index(drop=True), {}, None, None))
    return [int(i) for i in left.diaObjectId]


def _with_statistics(
    connection: psycopg.Connection[Any], objects: pd.DataFrame, sources: Mapping[str, NDArray[Any]]
) -> pd.DataFrame:
    """Return DiaObject rows with all statistics of the history window before each object's last detection."""
    ids, last = objects.diaObjectId.to_numpy(np.int64), objects.lastDiaSourceMjdTai.to_numpy(np.float64)
    start = last - HISTORY_DAYS
    code = np.searchsorted(ids, sources["diaObjectId"])
    within = sources["midpointMjdTai"] >= start[code]
    sources = {**sources, "code": code}
    if not within.all():
        sources = {name: values[within] for name, values in sources.items()}
    parts = [objects[["diaObjectId", "nDiaSources", *TIMES]]]
    means = forced_means(
        connection, ids, last, lambda: parts.extend([_positions(objects, sources), _fluxes(len(ids), sources)])
    )
    return pd.concat([*parts, means], axis=1)


def _numbers(rows: Mapping[str, NDArray[Any]], *names: str) -> list[F64]:
    return [rows[n].astype(np.float64) for n in names]


def _positions(objects: pd.DataFrame, sources: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    columns = _numbers(sources, "ra", "dec", "raErr", "decErr", "ra_dec_Cov")
    means = vars(kernels.mean_positions(sources["code"], len(objects), *columns))
    before = {k: np.where(np.isfinite(means[k]), means[k], objects[k].to_numpy(np.float64)) for k in ("ra", "dec")}
    return pd.DataFrame({**means, **before}, index=objects.index)


def _fluxes(count: int, sources: Mapping[str, NDArray[Any]]) -> pd.DataFrame:
    cells = kernels.cells_of(sources["code"], sources["band"])
    rows = kernels.rows_by_cell(np.flatnonzero(cells >= 0), cells, count * len(BANDS))
    names = ("psfFlux", "psfFluxErr", "midpointMjdTai", "scienceFlux", "scienceFluxErr")
    values = kernels.cell_statistics(rows.begin, *(v[rows.order] for v in _numbers(sources, *names)))
    of_object = values.reshape(count, len(BANDS), len(CELL_COLUMNS))
    number = CELL_COLUMNS.index("psfFluxNdata")
    fluxes = [k for k in range(len(CELL_COLUMNS)) if k != number]
    return pd.concat(
        [
            _by_band(of_object[:, :, fluxes].astype(np.float32), [CELL_COLUMNS[k] for k in fluxes]),
            _by_band(of_object[:, :, [number]].astype(np.int32), [CELL_COLUMNS[number]]),
        ],
        axis=1,
    )


def _by_band(values: NDArray[Any], names: list[str]) -> pd.DataFrame:
    """Return values, shape (objects, bands, names), as columns of one block."""
    return pd.DataFrame(
        values.reshape(len(values), len(BANDS) * len(names)),
        columns=[f"{band}_{name}" for band in BANDS for name in names],
    )
