"""Forced means of objects, and new ones for objects of which forced sources came or went, and nothing else.

Their other columns stay, so the database itself sums the fluxes and copies the newest version of each object whose means are others
now: neither its sources nor its hundred columns are read. Sums are made in the order and in the numbers of
`tasks.object_statistics.forced_means`: the same rows give the same bytes.
"""

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.decode import query_frame, select_frame
from apdb.copy.encode import id_array, number_array
from apdb.schema.columns import Column, PublishedSchema
from apdb.visit.store import SHORTEST_VALIDITY
from tasks.arrays import F64, I64, Flags
from tasks.bands import BANDS
from tasks.lacking import LACKING_BITS
from tasks.object_statistics import HISTORY_DAYS

__all__ = ["forced_means", "in_means", "renew_forced_means"]

_MEANS = ("fpFluxMean", "fpFluxMeanErr")
_LAST = "lastDiaSourceMjdTai"


def renew_forced_means(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    since: "pd.Series[float]",
    bands: Collection[str],
    mjd_tai: float,
    renewed_ids: Collection[int] = (),
    last: "pd.Series[float] | None" = None,
) -> tuple[int, ...]:
    """Give objects that were detected at or after a time new forced means; returns those that have others now, in order of id.

    Parameters
    ----------
    since
        The times (MJD, TAI) by diaObjectId: a forced source has a part in the means of an object that was detected then or later.
    bands
        Those of the forced sources that came or went.
    mjd_tai
        When the new versions begin.
    renewed_ids
        Objects whose open version this same transaction has made: it is changed.
    last
        Last detections (MJD, TAI) by diaObjectId of all open objects among them; looked up by default.
    """
    held = {c.name for c in schema.columns("DiaObject")}
    chosen = tuple(b for b in BANDS if b in set(bands) and f"{b}_{_MEANS[0]}" in held)
    if since.empty or not chosen:
        return ()
    last = _last_of(connection, schema, since) if last is None else last[last.index.isin(since.index)]
    detected = last[last.to_numpy() >= since.reindex(last.index).to_numpy()]
    ids, times = detected.index.to_numpy(np.int64), detected.to_numpy().astype(np.float64, copy=False)
    own = np.isin(ids, np.fromiter(renewed_ids, np.int64, len(renewed_ids)))
    changed: list[int] = []
    every, in_last = tuple(c.name for c in schema.stored_columns("DiaObject")), _last_names(schema, chosen)
    for part in (~own, own):
        if part.any():
            values, named = _values(ids[part], times[part]), id_array(ids[part])
            if part is own:
                query, values = _changed_versions(chosen, in_last), (*values, named)
            else:
                query, values = _copied_versions(chosen, every, in_last), (*values, mjd_tai, named)
            rows = connection.execute(query, values, prepare=False).fetchall()
            changed += [int(i) for (i,) in rows]
    return tuple(sorted(changed))


def _last_of(
    connection: psycopg.Connection[Any], schema: PublishedSchema, since: "pd.Series[float]"
) -> "pd.Series[float]":
    """Return the last detections (MJD, TAI) by diaObjectId of the open objects among those of `since` that may be of interest."""
    columns = [c for c in schema.columns("DiaObjectLast") if c.name in ("diaObjectId", _LAST)]
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[]) AND t."lastDiaSourceMjdTai" >= %s')
    wanted = (id_array(since.index.to_numpy(np.int64)), float(since.min()))
    found = select_frame(connection, "DiaObjectLast", columns, rest, wanted)
    return pd.Series(found[_LAST].to_numpy(np.float64), index=found.diaObjectId.to_numpy(np.int64))


def in_means(forced: pd.DataFrame) -> Flags:
    """Whether forced sources, shape (N,), may have a part in a mean: a finite flux and a finite error above 0."""
    if not {"psfFlux", "psfFluxErr"} <= set(forced):
        return np.zeros(len(forced), np.bool_)
    flux, error = (forced[n].to_numpy(np.float64, na_value=np.nan) for n in ("psfFlux", "psfFluxErr"))
    usable: Flags = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    return usable


def forced_means(
    connection: psycopg.Connection[Any], ids: I64, last: F64, meanwhile: Callable[[], object] | None = None
) -> pd.DataFrame:
    """Return the forced means of objects, nJy, by columns BAND_fpFluxMean and BAND_fpFluxMeanErr of all bands, NaN for none.

    Parameters
    ----------
    ids, last
        diaObjectIds, ascending, and their last detections (MJD, TAI), shape (N,), N > 0.
    meanwhile
        Called while the server works.
    """
    columns = [Column(n, "float", True) for n in _names(BANDS)]
    return query_frame(connection, _all_means(), columns, _values(ids, last), meanwhile)


@lru_cache(maxsize=1)
def _all_means() -> sql.SQL:
    chosen = sql.SQL(", ").join(sql.Identifier(f"new_{n}") for n in _names(BANDS))
    return _text(sql.SQL("WITH {} SELECT {} FROM n ORDER BY id").format(_means(BANDS), chosen))


def _text(statement: sql.Composed) -> sql.SQL:
    """Return a statement as it is sent: to put names together takes longer than to send them."""
    return sql.SQL(statement.as_string(None))


def _values(ids: I64, last: F64) -> tuple[object, ...]:
    """Return the parameters of `_means` for objects and their last detections (MJD, TAI), shape (N,), N > 0."""
    named = id_array(ids)
    return named, number_array(last), float(last.min()) - HISTORY_DAYS, float(last.max()), named, named


def _names(bands: Sequence[str]) -> list[str]:
    return [f"{band}_{name}" for band in bands for name in _MEANS]


def _means(bands: Sequence[str]) -> sql.Composed:
    """The table n of the means: id, new_NAME...; of objects and times that are the parameters (`_values`).

    Object by object, so that the planner, which may know nothing of a new month, has no choice; what lacks light is looked up once.
    """
    means = [
        sql.SQL("max(m.mean) FILTER (WHERE {0}) AS {1}, max(m.error) FILTER (WHERE {0}) AS {2}").format(
            sql.SQL("m.band = {}").format(sql.Literal(band)), *(sql.Identifier(f"new_{n}") for n in _names([band]))
        )
        for band in bands
    ]
    return sql.SQL(
        "m AS MATERIALIZED (SELECT id, band, (sum(w * f) / sum(w))::real AS mean, (1 / sqrt(sum(w)))::real AS error FROM (SELECT "
        'o.id, t.band, t."psfFlux"::float8 AS f, 1 / (t."psfFluxErr"::float8 * t."psfFluxErr"::float8) AS w FROM '
        'unnest(%s::bigint[], %s::float8[]) o(id, last) CROSS JOIN LATERAL (SELECT t.* FROM "DiaForcedSource" t WHERE '
        't."diaObjectId" = o.id AND t."midpointMjdTai" BETWEEN o.last - {days} AND o.last AND t."midpointMjdTai" BETWEEN %s '
        'AND %s AND t."timeWithdrawnMjdTai" IS NULL AND t.band = ANY({bands}) AND abs(t."psfFlux") < \'Infinity\' AND '
        't."psfFluxErr" > 0 AND t."psfFluxErr" < \'Infinity\' AND (t."diaObjectId", t.visit, t.detector) NOT IN (SELECT '
        'x."diaObjectId", x.visit, x.detector FROM "DiaForcedSourceFlags" x WHERE x."diaObjectId" = ANY(%s::bigint[]) AND '
        '(x.flags & {lacking}) <> 0) OFFSET 0) t ORDER BY o.id, t.band, t."midpointMjdTai", t.visit, t.detector, '
        't."diaForcedSourceId") t GROUP BY id, band), n AS MATERIALIZED (SELECT o.id, {means} FROM unnest(%s::bigint[]) o(id) '
        "LEFT JOIN m ON m.id = o.id GROUP BY o.id)"
    ).format(
        means=sql.SQL(", ").join(means),
        days=sql.Literal(HISTORY_DAYS),
        bands=sql.Literal(list(bands)),
        lacking=sql.Literal(LACKING_BITS),
    )


def _differ(names: Sequence[str], table: str) -> sql.Composed:
    """Whether the means of a version are others than the new ones."""
    pairs = ((sql.Identifier(table, n), sql.Identifier("n", f"new_{n}")) for n in names)
    return sql.SQL("({})").format(sql.SQL(" OR ").join(sql.SQL("{} IS DISTINCT FROM {}").format(*p) for p in pairs))


def _set(names: Sequence[str], table: str, prefix: str = "") -> sql.Composed:
    pairs = ((sql.Identifier(n), sql.Identifier(table, prefix + n)) for n in names)
    return sql.SQL(", ").join(sql.SQL("{} = {}").format(*pair) for pair in pairs)


def _last_names(schema: PublishedSchema, bands: Sequence[str]) -> tuple[str, ...]:
    """Return the means that DiaObjectLast holds, too."""
    held = {c.name for c in schema.columns("DiaObjectLast")}
    return tuple(n for n in _names(bands) if n in held)


@lru_cache(maxsize=64)
def _copied_versions(bands: tuple[str, ...], columns: tuple[str, ...], held: tuple[str, ...]) -> sql.SQL:
    """End the open versions and append copies with the new values, DiaObjectLast included.

    Parameters
    ----------
    columns, held
        Those of DiaObject; the means that DiaObjectLast holds, too.
    """
    names = _names(bands)
    changed: dict[str, sql.Composable] = {n: sql.Identifier("c", f"new_{n}") for n in names}
    changed |= {"validityStartMjdTai": sql.Identifier("c", "validityEndMjdTai"), "validityEndMjdTai": sql.SQL("NULL")}
    statement = sql.SQL(
        'WITH {means}, closed AS (UPDATE "DiaObject" o SET "validityEndMjdTai" = greatest(%s, o."validityStartMjdTai" + {step}) FROM n '
        'WHERE o."diaObjectId" = n.id AND o."diaObjectId" = ANY(%s::bigint[]) AND o."validityEndMjdTai" IS NULL AND {differ} '
        "RETURNING o.*, n.*), made AS (INSERT INTO "
        '"DiaObject" ({columns}) SELECT {values} FROM closed c ORDER BY c."diaObjectId" RETURNING *) UPDATE "DiaObjectLast" l '
        'SET {last} FROM made m WHERE l."diaObjectId" = m."diaObjectId" RETURNING l."diaObjectId"'
    ).format(
        means=_means(bands),
        step=sql.Literal(SHORTEST_VALIDITY),
        differ=_differ(names, "o"),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(changed.get(n, sql.Identifier("c", n)) for n in columns),
        last=_set(["validityStartMjdTai", *held], "m"),
    )
    return _text(statement)


@lru_cache(maxsize=64)
def _changed_versions(bands: tuple[str, ...], held: tuple[str, ...]) -> sql.SQL:
    """Change open versions that nobody has seen yet, wherever they begin (parameters as for `_copied_versions`)."""
    names = _names(bands)
    rest: sql.Composable = sql.SQL('SELECT "diaObjectId" FROM changed')
    if held:
        rest = sql.SQL(
            'UPDATE "DiaObjectLast" l SET {} FROM changed m WHERE l."diaObjectId" = m."diaObjectId" RETURNING l."diaObjectId"'
        ).format(_set(held, "m"))
    statement = sql.SQL(
        'WITH {}, changed AS (UPDATE "DiaObject" o SET {} FROM n WHERE o."diaObjectId" = n.id AND o."diaObjectId" = ANY(%s::bigint[]) '
        'AND o."validityEndMjdTai" IS NULL AND {} '
        "RETURNING o.*) {}"
    ).format(_means(bands), _set(names, "n", "new_"), _differ(names, "o"), rest)
    return _text(statement)
