"""New forced means for objects of which forced sources came or went, and nothing else.

Their other columns stay, so the database itself copies the newest version of each, with other means: neither their sources nor
their hundred columns are read.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from apdb.copy.decode import select_frame
from apdb.copy.encode import id_array, number_array
from apdb.schema.columns import PublishedSchema
from apdb.visit.store import SHORTEST_VALIDITY
from apdb.visit.valid_rows import valid_forced
from tasks import object_statistics as kernels
from tasks.arrays import F64, I64
from tasks.bands import BANDS
from tasks.object_statistics import HISTORY_DAYS

__all__ = ["renew_forced_means"]

_MEANS = ("fpFluxMean", "fpFluxMeanErr")
_LAST = "lastDiaSourceMjdTai"


def renew_forced_means(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    since: "pd.Series[float]",
    bands: Collection[str],
    mjd_tai: float,
    made_now: Collection[int] = (),
) -> tuple[int, ...]:
    """Give objects that were detected at or after a time new forced means; returns them in order of id.

    Parameters
    ----------
    since
        The times (MJD, TAI) by diaObjectId: a forced source has a part in the means of an object that was detected then or later.
    bands
        Those of the forced sources that came or went.
    mjd_tai
        When the new versions begin.
    made_now
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
    objects = objects[objects[_LAST].to_numpy() >= objects.diaObjectId.map(since).to_numpy()]
    objects = objects.sort_values("diaObjectId", ignore_index=True)
    if objects.empty:
        return ()
    ids, last = objects.diaObjectId.to_numpy(np.int64), objects[_LAST].to_numpy(np.float64)
    forced = valid_forced(connection, schema, ids, last - HISTORY_DAYS, last, chosen)
    cells = kernels.cells_of(forced.code.to_numpy(np.int64), forced.band)
    fluxes = (forced[n].to_numpy(np.float64) for n in ("psfFlux", "psfFluxErr"))
    means = kernels.forced_means(cells, len(ids), *fluxes)
    values = [m[:, BANDS.index(b)].astype(np.float32).astype(np.float64) for b in chosen for m in means]
    names = [f"{b}_{name}" for b in chosen for name in _MEANS]
    own = np.isin(ids, np.fromiter(made_now, np.int64, len(made_now)))
    for write, part in ((_copy_versions, ~own), (_change_versions, own)):
        if part.any():
            write(connection, schema, ids[part], names, [v[part] for v in values], mjd_tai)
    return tuple(ids.tolist())


def _set(names: Sequence[str], table: str, prefix: str = "") -> sql.Composed:
    pairs = ((sql.Identifier(n), sql.Identifier(table, prefix + n)) for n in names)
    return sql.SQL(", ").join(sql.SQL("{} = {}").format(*pair) for pair in pairs)


def _new(names: Sequence[str]) -> sql.Composed:
    """The new values as a table n: id, new_NAME..."""
    arrays = sql.SQL(", ").join([sql.SQL("%s::bigint[]"), *[sql.SQL("%s::float8[]")] * len(names)])
    columns = sql.SQL(", ").join(sql.Identifier(n) for n in ("id", *(f"new_{n}" for n in names)))
    return sql.SQL("unnest({}) n({})").format(arrays, columns)


def _last_names(schema: PublishedSchema, names: Sequence[str]) -> list[str]:
    held = {c.name for c in schema.columns("DiaObjectLast")}
    return [n for n in names if n in held]


def _copy_versions(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    ids: I64,
    names: Sequence[str],
    values: Sequence[F64],
    mjd_tai: float,
) -> None:
    """End the open versions and append copies with new values, in one statement, DiaObjectLast included."""
    changed: dict[str, sql.Composable] = {n: sql.Identifier("c", f"new_{n}") for n in names}
    changed |= {"validityStartMjdTai": sql.Identifier("c", "validityEndMjdTai"), "validityEndMjdTai": sql.SQL("NULL")}
    columns = [c.name for c in schema.stored_columns("DiaObject")]
    query = sql.SQL(
        'WITH closed AS (UPDATE "DiaObject" o SET "validityEndMjdTai" = greatest(%s, o."validityStartMjdTai" + %s) FROM {new} '
        'WHERE o."diaObjectId" = n.id AND o."validityEndMjdTai" IS NULL RETURNING o.*, n.*), made AS (INSERT INTO "DiaObject" '
        '({columns}) SELECT {values} FROM closed c ORDER BY c."diaObjectId" RETURNING *) UPDATE "DiaObjectLast" l SET {last} '
        'FROM made m WHERE l."diaObjectId" = m."diaObjectId"'
    ).format(
        new=_new(names),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(changed.get(n, sql.Identifier("c", n)) for n in columns),
        last=_set(_last_names(schema, ["validityStartMjdTai", *names]), "m"),
    )
    connection.execute(query, (mjd_tai, SHORTEST_VALIDITY, id_array(ids), *map(number_array, values)))


def _change_versions(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    ids: I64,
    names: Sequence[str],
    values: Sequence[F64],
    mjd_tai: float,
) -> None:
    """Change open versions that nobody has seen yet, wherever they begin."""
    del mjd_tai
    arrays = (id_array(ids), *map(number_array, values))
    for table, held, rest in (
        ("DiaObject", list(names), sql.SQL(' AND t."validityEndMjdTai" IS NULL')),
        ("DiaObjectLast", _last_names(schema, names), sql.SQL("")),
    ):
        if held:
            query = sql.SQL('UPDATE {} t SET {} FROM {} WHERE t."diaObjectId" = n.id{}').format(
                sql.Identifier(table), _set(held, "n", "new_"), _new(names), rest
            )
            connection.execute(query, arrays)
