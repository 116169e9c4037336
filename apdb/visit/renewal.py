"""Objects made anew from the valid rows that they have: after rows were taken back, moved, or came late.

All objects at once: one read of counts, one of sources, one of forced sources, one compiled pass, one COPY. The means are those
that the association gives: the same rows give the same bytes.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.decode import select_frame
from apdb.copy.encode import id_array
from apdb.schema.columns import Column, PublishedSchema
from apdb.visit.changes import close_objects
from apdb.visit.store import store_objects
from apdb.visit_rows import VisitRows, prepare
from tasks import object_statistics as kernels
from tasks.arrays import F64, I64
from tasks.object_statistics import BANDS, CELL_COLUMNS, HISTORY_DAYS

__all__ = ["Renewal", "newest_versions", "renew", "renew_late"]

_KEYS = ("visit", "detector")
_SOURCE = (
    "diaSourceId", "diaObjectId", *_KEYS, "midpointMjdTai", "band", "ra", "dec", "raErr", "decErr", "ra_dec_Cov", "psfFlux",
    "psfFluxErr", "scienceFlux", "scienceFluxErr",
)  # fmt: skip
_FORCED = ("diaForcedSourceId", "diaObjectId", *_KEYS, "midpointMjdTai", "band", "psfFlux", "psfFluxErr")
_VALID = 't."timeWithdrawnMjdTai" IS NULL'
_TIMES = ("firstDiaSourceMjdTai", "lastDiaSourceMjdTai")


@dataclass(frozen=True)
class Renewal:
    """Objects that got a new version, and positions (ra, dec in deg) of those that have no valid source and were closed."""

    objects: tuple[int, ...] = ()
    closed: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def newest_versions(connection: psycopg.Connection[Any], schema: PublishedSchema, ids: Collection[int]) -> pd.DataFrame:
    """Return the DiaObjectLast rows of objects in order of id."""
    wanted = id_array(np.array(sorted(ids), np.int64))
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[])')
    frame = select_frame(connection, "DiaObjectLast", schema.columns("DiaObjectLast"), rest, (wanted,))
    return frame.sort_values("diaObjectId", ignore_index=True)


def renew(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    objects: pd.DataFrame,
    mjd_tai: float,
    *,
    change: Mapping[int, int] | None = None,
    made_now: Collection[int] = (),
    close: bool = True,
) -> Renewal:
    """Give objects a new version that says what their valid rows say, and close those without any valid source.

    Parameters
    ----------
    objects
        Their newest versions (`newest_versions`) as they were before rows changed.
    mjd_tai
        When the new versions begin.
    change
        By how much the number of valid sources of an object has changed since that version: with it the sources that lie in
        archived months are counted still.
    made_now
        Objects whose open version this same transaction has made: it is replaced.
    close
        False leaves objects without any valid source as they are.
    """
    needed = {*_SOURCE, "timeWithdrawnMjdTai"}
    if objects.empty or not needed <= {c.name for c in schema.columns("DiaSource")}:
        return Renewal()
    found = _counted(connection, objects, change or {})
    gone = found[found.nDiaSources == 0]
    found = found[(found.nDiaSources > 0) & found.lastDiaSourceMjdTai.notna()].reset_index(drop=True)
    if len(found):
        frame = _with_statistics(connection, schema, found)
        store_objects(connection, prepare(schema, mjd_tai, frame, None, None), made_now)
    positions = {int(i): (float(a), float(d)) for i, a, d in zip(gone.diaObjectId, gone.ra, gone.dec, strict=True)}
    if not close or not positions:
        return Renewal(tuple(found.diaObjectId.tolist()))
    close_objects(connection, positions, mjd_tai, made_now)
    return Renewal(tuple(found.diaObjectId.tolist()), positions)


def renew_late(
    connection: psycopg.Connection[Any], schema: PublishedSchema, rows: VisitRows, but: Collection[int] = ()
) -> tuple[int, ...]:
    """Make objects anew that rows of a visit which came late have a part in, `but` for some; returns them.

    Late is what lies before the last detection of its object: whoever stored it saw another window of history, and objects
    without a detection in it (for which the same time is late, too) got no new version.
    """
    times: dict[int, float] = {}
    for frame in rows.frames.values():
        owned = frame[["diaObjectId", "midpointMjdTai"]].dropna().drop_duplicates()
        times |= dict(zip(owned.diaObjectId.tolist(), owned.midpointMjdTai.tolist(), strict=True))
    ids = id_array(np.fromiter(times, np.int64, len(times)))
    made_now = rows.objects.diaObjectId.tolist() if len(rows.objects) else []
    late = connection.execute(
        'SELECT l."diaObjectId" FROM unnest(%s::bigint[], %s::float8[]) r(id, at) JOIN "DiaObjectLast" l ON '
        'l."diaObjectId" = r.id WHERE r.at < l."lastDiaSourceMjdTai" OR (r.at = l."lastDiaSourceMjdTai" AND '
        "r.id <> ALL(%s::bigint[])) ORDER BY 1",
        (ids, list(times.values()), id_array(np.array(made_now, np.int64))),
    ).fetchall()
    wanted = {i for (i,) in late} - set(but)
    if not wanted:
        return ()
    versions = newest_versions(connection, schema, wanted)
    return renew(connection, schema, versions, rows.mjd_tai, made_now=made_now, close=False).objects


def _counted(connection: psycopg.Connection[Any], objects: pd.DataFrame, change: Mapping[int, int]) -> pd.DataFrame:
    """Return the objects with number, first and last time of their valid sources, those in archived months included."""
    rows = connection.execute(
        f'SELECT t."diaObjectId", count(*), min(t."midpointMjdTai"), max(t."midpointMjdTai") FROM "DiaSource" t '
        f'WHERE t."diaObjectId" = ANY(%s::bigint[]) AND {_VALID} GROUP BY 1',
        (id_array(objects.diaObjectId.to_numpy(np.int64)),),
    ).fetchall()
    counts = pd.DataFrame(rows, columns=["diaObjectId", "n", "first", "last"]).astype({"first": float, "last": float})
    out = objects.merge(counts.astype({"diaObjectId": np.int64}), on="diaObjectId", how="left")
    present = out.n.fillna(0).to_numpy(np.int64)
    archived = np.zeros(len(out), np.int64)
    if connection.execute('SELECT 1 FROM "ApdbArchive" LIMIT 1').fetchone() is not None:
        expected = out.nDiaSources.to_numpy(np.int64) + out.diaObjectId.map(change).fillna(0).to_numpy(np.int64)
        archived = np.maximum(expected - present, 0)
    before = out[list(_TIMES)].to_numpy(np.float64, copy=True)
    before[archived == 0] = np.nan
    first, last = np.fmin(out["first"], before[:, 0]), np.fmax(out["last"], before[:, 1])
    return out.drop(columns=["n", "first", "last"]).assign(
        nDiaSources=(present + archived).astype(np.int32), firstDiaSourceMjdTai=first, lastDiaSourceMjdTai=last
    )


def _with_statistics(connection: psycopg.Connection[Any], schema: PublishedSchema, found: pd.DataFrame) -> pd.DataFrame:
    """Return DiaObject rows with all statistics of the history window before each object's last detection."""
    ids, last = found.diaObjectId.to_numpy(np.int64), found.lastDiaSourceMjdTai.to_numpy(np.float64)
    start = last - HISTORY_DAYS
    sources = _window(connection, schema, "DiaSource", _SOURCE, ids, start, last)
    forced = _window(connection, schema, "DiaForcedSource", _FORCED, ids, start, last)
    return pd.concat(
        [
            found[["diaObjectId", "nDiaSources", *_TIMES]],
            _positions(found, sources),
            _fluxes(len(ids), sources),
            _forced(len(ids), forced),
        ],
        axis=1,
    )


def _window(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    table: str,
    names: tuple[str, ...],
    ids: I64,
    start: F64,
    stop: F64,
) -> pd.DataFrame:
    """Return valid rows of objects within [start, stop] in the order in which they are summed, with the object's code."""
    rest = sql.SQL(
        'JOIN unnest(%s::bigint[], %s::float8[], %s::float8[]) w(id, start, stop) ON t."diaObjectId" = w.id AND '
        't."midpointMjdTai" BETWEEN w.start AND w.stop WHERE t."midpointMjdTai" BETWEEN %s AND %s AND ' + _VALID
    )
    values = (id_array(ids), start.tolist(), stop.tolist(), float(start.min()), float(stop.max()))
    by_name: dict[str, Column] = {c.name: c for c in schema.columns(table)}
    rows = select_frame(connection, table, [by_name[n] for n in names], rest, values)
    order = kernels.in_order(rows.midpointMjdTai, *(rows[k] for k in _KEYS), rows[names[0]])
    rows = rows.iloc[order].reset_index(drop=True)
    return rows.assign(code=np.searchsorted(ids, rows.diaObjectId.to_numpy(np.int64)))


def _numbers(rows: pd.DataFrame, *names: str) -> list[F64]:
    return [rows[n].to_numpy(np.float64) for n in names]


def _positions(found: pd.DataFrame, sources: pd.DataFrame) -> pd.DataFrame:
    columns = _numbers(sources, "ra", "dec", "raErr", "decErr", "ra_dec_Cov")
    means = vars(kernels.mean_positions(sources.code.to_numpy(np.int64), len(found), *columns))
    before = {k: np.where(np.isfinite(means[k]), means[k], found[k].to_numpy(np.float64)) for k in ("ra", "dec")}
    return pd.DataFrame({**means, **before}, index=found.index)


def _fluxes(count: int, sources: pd.DataFrame) -> pd.DataFrame:
    cells = kernels.cells_of(sources.code.to_numpy(np.int64), sources.band)
    rows = kernels.rows_by_cell(np.flatnonzero(cells >= 0), cells, count * len(BANDS))
    names = ("psfFlux", "psfFluxErr", "midpointMjdTai", "scienceFlux", "scienceFluxErr")
    values = kernels.cell_statistics(rows.begin, *(v[rows.order] for v in _numbers(sources, *names)))
    out = {}
    for k, band in enumerate(BANDS):
        for column, name in enumerate(CELL_COLUMNS):
            of_band = values[k :: len(BANDS), column]
            out[f"{band}_{name}"] = of_band.astype(np.int32 if name == "psfFluxNdata" else np.float32)
    return pd.DataFrame(out)


def _forced(count: int, forced: pd.DataFrame) -> pd.DataFrame:
    cells = kernels.cells_of(forced.code.to_numpy(np.int64), forced.band)
    means = kernels.forced_means(cells, count, *_numbers(forced, "psfFlux", "psfFluxErr"))
    names = ("fpFluxMean", "fpFluxMeanErr")
    return pd.DataFrame(
        {
            f"{band}_{name}": values[:, k].astype(np.float32)
            for k, band in enumerate(BANDS)
            for name, values in zip(names, means, strict=True)
        }
    )
