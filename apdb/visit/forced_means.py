"""Forced means of objects, and new ones for objects of which forced sources came or went, and nothing else.

Their other columns stay, so the database itself sums the fluxes and copies the newest version of each object whose means are others
now: neither its sources nor its hundred columns are read. Sums are made in the order and in the numbers of
`tasks.object_statistics.forced_means`: the same rows give the same bytes.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.decode import query_frame, select_frame
from apdb.copy.encode import id_array, number_array
from apdb.schema.columns import Column, PublishedSchema
from apdb.visit.store import SHORTEST_VALIDITY
from tasks.arrays import F64, I64
from tasks.bands import BANDS
from tasks.lacking import LACKING_BITS
from tasks.object_statistics import HISTORY_DAYS

__all__ = ["forced_means", "renew_forced_means"]

_MEANS = ("fpFluxMean", "fpFluxMeanErr")
_LAST = "lastDiaSourceMjdTai"


def renew_forced_means(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    since: "pd.Series[float]",
    bands: Collection[str],
    mjd_tai: float,
    renewed_ids: Collection[int] = (),
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
    """
    held = {c.name for c in schema.columns("DiaObject")}
    chosen = [b for b in BANDS if b in set(bands) and f"{b}_{_MEANS[0]}" in held]
    if since.empty or not chosen:
        return ()
    columns = [c for c in schema.columns("DiaObjectLast") if c.name in ("diaObjectId", _LAST)]
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[]) AND t."lastDiaSourceMjdTai" >= %s')
    wanted = (id_array(since.index.to_numpy(np.int64)), float(since.min()))
    objects = select_frame(connection, "DiaObjectLast", columns, rest, wanted)
    objects = objects[objects[_LAST].to_numpy() >= since.reindex(objects.diaObjectId).to_numpy()]
    ids, last = objects.diaObjectId.to_numpy(np.int64), objects[_LAST].to_numpy(np.float64)
    own = np.isin(ids, np.fromiter(renewed_ids, np.int64, len(renewed_ids)))
    changed: list[int] = []
    for part in (~own, own):
        if part.any():
            statement = _changed_versions(schema, chosen) if part is own else _copied_versions(schema, chosen, mjd_tai)
            query = sql.SQL("WITH {}{}").format(_means(chosen, last[part]), statement)
            named = id_array(ids[part])
            rows = connection.execute(query, (named, number_array(last[part]), named, named, named)).fetchall()
            changed += [int(i) for (i,) in rows]
    return tuple(sorted(changed))


def forced_means(connection: psycopg.Connection[Any], ids: I64, last: F64) -> pd.DataFrame:
    """Return the forced means of objects, nJy, by columns BAND_fpFluxMean and BAND_fpFluxMeanErr of all bands, NaN for none.

    Parameters
    ----------
    ids, last
        diaObjectIds, ascending, and their last detections (MJD, TAI), shape (N,), N > 0.
    """
    names = _names(BANDS)
    chosen = sql.SQL(", ").join(sql.Identifier(f"new_{n}") for n in names)
    query = sql.SQL("WITH {} SELECT {} FROM n ORDER BY id").format(_means(BANDS, last), chosen)
    columns = [Column(n, "float", True) for n in names]
    named = id_array(ids)
    return query_frame(connection, query, columns, (named, number_array(last), named, named))


def _names(bands: Sequence[str]) -> list[str]:
    return [f"{band}_{name}" for band in bands for name in _MEANS]


def _means(bands: Sequence[str], last: F64) -> sql.Composed:
    """The table n of the means: id, new_NAME...; of objects whose ids, last detections, ids and ids are the parameters.

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
        't."diaObjectId" = o.id AND t."midpointMjdTai" BETWEEN o.last - {days} AND o.last AND t."midpointMjdTai" BETWEEN {begin} '
        'AND {end} AND t."timeWithdrawnMjdTai" IS NULL AND t.band = ANY({bands}) AND abs(t."psfFlux") < \'Infinity\' AND '
        't."psfFluxErr" > 0 AND t."psfFluxErr" < \'Infinity\' AND (t."diaObjectId", t.visit, t.detector) NOT IN (SELECT '
        'x."diaObjectId", x.visit, x.detector FROM "DiaForcedSourceFlags" x WHERE x."diaObjectId" = ANY(%s::bigint[]) AND '
        '(x.flags & {lacking}) <> 0) OFFSET 0) t ORDER BY o.id, t.band, t."midpointMjdTai", t.visit, t.detector, '
        't."diaForcedSourceId") t GROUP BY id, band), n AS MATERIALIZED (SELECT o.id, {means} FROM unnest(%s::bigint[]) o(id) '
        "LEFT JOIN m ON m.id = o.id GROUP BY o.id)"
    ).format(
        means=sql.SQL(", ").join(means),
        days=sql.Literal(HISTORY_DAYS),
        begin=sql.Literal(float(last.min()) - HISTORY_DAYS),
        end=sql.Literal(float(last.max())),
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


def _last_names(schema: PublishedSchema, names: Sequence[str]) -> list[str]:
    held = {c.name for c in schema.columns("DiaObjectLast")}
    return [n for n in names if n in held]


def _copied_versions(schema: PublishedSchema, bands: Sequence[str], mjd_tai: float) -> sql.Composed:
    """End the open versions and append copies with the new values, DiaObjectLast included."""
    names = _names(bands)
    changed: dict[str, sql.Composable] = {n: sql.Identifier("c", f"new_{n}") for n in names}
    changed |= {"validityStartMjdTai": sql.Identifier("c", "validityEndMjdTai"), "validityEndMjdTai": sql.SQL("NULL")}
    columns = [c.name for c in schema.stored_columns("DiaObject")]
    return sql.SQL(
        ', closed AS (UPDATE "DiaObject" o SET "validityEndMjdTai" = greatest({at}, o."validityStartMjdTai" + {step}) FROM n '
        'WHERE o."diaObjectId" = n.id AND o."diaObjectId" = ANY(%s::bigint[]) AND o."validityEndMjdTai" IS NULL AND {differ} '
        "RETURNING o.*, n.*), made AS (INSERT INTO "
        '"DiaObject" ({columns}) SELECT {values} FROM closed c ORDER BY c."diaObjectId" RETURNING *) UPDATE "DiaObjectLast" l '
        'SET {last} FROM made m WHERE l."diaObjectId" = m."diaObjectId" RETURNING l."diaObjectId"'
    ).format(
        at=sql.Literal(mjd_tai),
        step=sql.Literal(SHORTEST_VALIDITY),
        differ=_differ(names, "o"),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(changed.get(n, sql.Identifier("c", n)) for n in columns),
        last=_set(_last_names(schema, ["validityStartMjdTai", *names]), "m"),
    )


def _changed_versions(schema: PublishedSchema, bands: Sequence[str]) -> sql.Composed:
    """Change open versions that nobody has seen yet, wherever they begin."""
    names = _names(bands)
    held = _last_names(schema, names)
    rest: sql.Composable = sql.SQL('SELECT "diaObjectId" FROM changed')
    if held:
        rest = sql.SQL(
            'UPDATE "DiaObjectLast" l SET {} FROM changed m WHERE l."diaObjectId" = m."diaObjectId" RETURNING l."diaObjectId"'
        ).format(_set(held, "m"))
    return sql.SQL(
        ', changed AS (UPDATE "DiaObject" o SET {} FROM n WHERE o."diaObjectId" = n.id AND o."diaObjectId" = ANY(%s::bigint[]) '
        'AND o."validityEndMjdTai" IS NULL AND {} '
        "RETURNING o.*) {}"
    ).format(_set(names, "n", "new_"), _differ(names, "o"), rest)
