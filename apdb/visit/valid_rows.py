"""The valid rows of objects that statistics are made of, and how many sources they have in all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, LiteralString

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.copy.decode import query_arrays, select_frame
from apdb.copy.encode import id_array, number_array
from apdb.errors import ApdbError
from apdb.rows import single_row
from apdb.schema.columns import Column, PublishedSchema
from tasks import object_statistics as kernels
from tasks.arrays import F64, I64
from tasks.lacking import LACKING_BITS, SOURCE_FLAGS, blanks
from tasks.object_statistics import HISTORY_DAYS

__all__ = ["EVER", "SOURCE_COLUMNS", "TIMES", "lacking_of", "valid_sources"]

_KEYS = ("visit", "detector")
SOURCE_COLUMNS = (
    "diaSourceId", "diaObjectId", *_KEYS, "midpointMjdTai", "band", "ra", "dec", "raErr", "decErr", "ra_dec_Cov", "psfFlux",
    "psfFluxErr", "scienceFlux", "scienceFluxErr",
)  # fmt: skip
_LACKING_KEY = (
    Column("diaObjectId", "long", False),
    Column("visit", "long", False),
    Column("detector", "short", False),
)
TIMES = ("firstDiaSourceMjdTai", "lastDiaSourceMjdTai")
_VALID = 't."timeWithdrawnMjdTai" IS NULL'
_ALWAYS = 1e9  # days: before and after everything
EVER = (-_ALWAYS, _ALWAYS)  # MJD
# a scan of a whole month, which the planner takes to be cheaper while it knows nothing of the newest one, never is
_BEGIN = (
    "SELECT a.* FROM set_config('enable_seqscan', 'off', true), LATERAL (SELECT count(*), "
    "coalesce(array_agg(partition ORDER BY partition) FILTER (WHERE NOT noted), ARRAY[]::text[]), "
    'coalesce(array_agg("beginMjdTai" ORDER BY partition) FILTER (WHERE NOT noted), ARRAY[]::float8[]), '
    'coalesce(array_agg("endMjdTai" ORDER BY partition) FILTER (WHERE NOT noted), ARRAY[]::float8[]) FROM "ApdbArchive" '
    "WHERE state <> 'restored' AND \"tableName\" = 'DiaSource') a"
)
_HERE = (
    'SELECT t."diaObjectId", count(*), min(t."midpointMjdTai") FILTER (WHERE t."midpointMjdTai" BETWEEN %(lo)s AND %(hi)s), '
    'max(t."midpointMjdTai") FILTER (WHERE t."midpointMjdTai" BETWEEN %(lo)s AND %(hi)s) FROM "DiaSource" t '
    f'WHERE t."diaObjectId" = ANY(%(ids)s::bigint[]) AND {_VALID} GROUP BY 1'
)
_ARCHIVED = (
    'SELECT "diaObjectId", sum(count), min("firstMjdTai") FILTER (WHERE "firstMjdTai" >= %(lo)s), max("lastMjdTai") FILTER (WHERE '
    '"lastMjdTai" <= %(hi)s) FROM "ArchivedSources" WHERE "diaObjectId" = ANY(%(ids)s::bigint[]) GROUP BY 1'
)
# the array is the answer of a query: the planner looks at each element of one that it knows, for each month and index
_ALL = 'SELECT {columns} FROM "DiaSource" t WHERE t."diaObjectId" = ANY(ARRAY(SELECT unnest(%s::bigint[]))) AND {valid}'
_WINDOWS = (  # object by object
    "SELECT {columns} FROM unnest(%s::bigint[], %s::float8[], %s::float8[]) w(id, start, stop) CROSS JOIN LATERAL (SELECT "
    '{columns} FROM "DiaSource" t WHERE t."diaObjectId" = w.id AND t."midpointMjdTai" BETWEEN w.start AND w.stop AND '
    't."midpointMjdTai" BETWEEN %s AND %s AND {valid} OFFSET 0) t'
)


@dataclass(frozen=True)
class _Times:
    """Of objects, shape (N,): number of valid sources, first and last time (NaN for none)."""

    count: I64
    first: F64
    last: F64


def _of_rows(codes: I64, times: F64, size: int) -> _Times:
    first, last = np.full(size, np.nan), np.full(size, np.nan)
    np.fmin.at(first, codes, times)
    np.fmax.at(last, codes, times)
    return _Times(np.bincount(codes, minlength=size).astype(np.int64), first, last)


def _of_query(
    connection: psycopg.Connection[Any], query: LiteralString, ids: I64, limits: tuple[float, float]
) -> _Times:
    given = {"ids": id_array(ids), "lo": limits[0], "hi": limits[1]}
    rows = connection.execute(query, given, binary=True).fetchall()
    out = _Times(np.zeros(len(ids), np.int64), np.full(len(ids), np.nan), np.full(len(ids), np.nan))
    index = np.searchsorted(ids, np.array([r[0] for r in rows], np.int64))
    for k, values in enumerate((out.count, out.first, out.last), 1):
        values[index] = [r[k] for r in rows]
    return out


def _with_archive(
    connection: psycopg.Connection[Any],
    objects: pd.DataFrame,
    here: _Times,
    archive: tuple[int, list[str], list[float], list[float]],
    has_left: bool,
    limits: tuple[float, float],
) -> _Times:
    """Return what objects have in the tables and in archived months together.

    Of a month without notes nothing is known but what the versions of objects that were seen in it or both before and after say,
    which holds where no source has left them.

    Raises
    ------
    ApdbError
        Sources may have left such objects.
    """
    months, unknown, begin, end = archive
    if not months:
        return here
    noted = _of_query(connection, _ARCHIVED, objects.diaObjectId.to_numpy(np.int64), limits)
    first, last, count = np.fmin(here.first, noted.first), np.fmax(here.last, noted.last), here.count + noted.count
    told = [objects[n].to_numpy(np.float64) for n in TIMES]
    told = [np.where((t >= limits[0]) & (t <= limits[1]), t, np.nan) for t in told]
    meets = (told[0][:, None] < np.array(end)) & (told[1][:, None] >= np.array(begin))
    if has_left and meets.any():
        names = sorted({unknown[k] for k in np.flatnonzero(meets.any(axis=0))})
        raise ApdbError(
            f"what objects have in {', '.join(names)} is not known, for an older version archived it: run 'alertprod apdb renew' "
            "where the files of the archive can be read, or 'alertprod apdb restore' for each of these months first"
        )
    kept = meets.any(axis=1)
    return _Times(
        np.where(kept, np.maximum(here.count, objects.nDiaSources.to_numpy(np.int64)), count),
        np.where(kept, np.fmin(here.first, told[0]), first),
        np.where(kept, np.fmax(here.last, told[1]), last),
    )


def valid_sources(
    connection: psycopg.Connection[Any],
    schema: PublishedSchema,
    objects: pd.DataFrame,
    *,
    has_left: bool,
    limits: tuple[float, float] = EVER,
) -> tuple[pd.DataFrame, dict[str, NDArray[Any]]]:
    """Return the objects with number, first and last time of their valid sources, and these sources, column by column.

    Of objects whose history fits into the window all sources are read, which also gives their number; of others they are
    counted, and read within the window. Of sources in archived months number and times count. Fluxes that lack light are NaN.

    Parameters
    ----------
    has_left
        Whether sources may have left the objects since the versions given.
    limits
        First and last time (MJD, TAI) that can be real: sources beyond are counted, and in nothing else.
    """
    ids, before = objects.diaObjectId.to_numpy(np.int64), objects[list(TIMES)].to_numpy(np.float64)
    short = before[:, 1] - before[:, 0] <= HISTORY_DAYS
    archive = single_row(connection.execute(_BEGIN))
    all_read = _read(connection, schema, ids[short], _ALL, (id_array(ids[short]),))
    times = all_read["midpointMjdTai"]
    real = (times >= limits[0]) & (times <= limits[1])
    read = [all_read if real.all() else {name: values[real] for name, values in all_read.items()}]
    here = _Times(np.zeros(len(ids), np.int64), np.full(len(ids), np.nan), np.full(len(ids), np.nan))
    of = [(short, _of_rows(all_read["code"], np.where(real, times, np.nan), int(short.sum())))]
    if not short.all():
        of.append((~short, _of_query(connection, _HERE, ids[~short], limits)))
    for part, found in of:
        here.count[part], here.first[part], here.last[part] = found.count, found.first, found.last
    valid = _with_archive(connection, objects, here, archive, has_left, limits)
    if not short.all():
        stop = np.where(np.isnan(valid.last), -_ALWAYS, valid.last)[~short]
        start = stop - HISTORY_DAYS
        windows = (
            id_array(ids[~short]),
            number_array(start),
            number_array(stop),
            max(float(start.min()), limits[0]),
            min(float(stop.max()), limits[1]),
        )
        read.append(_read(connection, schema, ids[~short], _WINDOWS, windows))
    counted = objects.assign(
        nDiaSources=valid.count.astype(np.int32), firstDiaSourceMjdTai=valid.first, lastDiaSourceMjdTai=valid.last
    )
    some = [r for r in read if len(r["code"])] or read[:1]
    return counted, some[0] if len(some) == 1 else {n: np.concatenate([r[n] for r in some]) for n in some[0]}


def lacking_of(connection: psycopg.Connection[Any], object_ids: I64) -> pd.DataFrame:
    """Return diaObjectId, visit, detector of the forced sources of objects, ids of shape (N,), that lack light (`tasks.lacking`)."""
    # the condition is that of the index, word for word: so the planner knows that it may be used
    rest = sql.SQL('WHERE t."diaObjectId" = ANY(%s::bigint[]) AND (t.flags & {}) <> 0').format(
        sql.Literal(LACKING_BITS)
    )
    return select_frame(connection, "DiaForcedSourceFlags", _LACKING_KEY, rest, (id_array(object_ids),))


@lru_cache(maxsize=16)
def _statement(query: str, columns: tuple[str, ...]) -> sql.SQL:
    """Return a query for columns of DiaSource: it is put together once."""
    chosen = sql.SQL(", ").join(sql.Identifier("t", name) for name in columns)
    return sql.SQL(sql.SQL(query).format(columns=chosen, valid=sql.SQL(_VALID)).as_string(None))


def _read(
    connection: psycopg.Connection[Any], schema: PublishedSchema, ids: I64, query: str, values: Sequence[object]
) -> dict[str, NDArray[Any]]:
    """Return valid sources of objects, ids of shape (N,), in the order in which they are summed, with the object's code."""
    by_name: dict[str, Column] = {c.name: c for c in schema.columns("DiaSource")}
    columns = [by_name[n] for n in (*SOURCE_COLUMNS, *SOURCE_FLAGS) if n in by_name]
    rows = query_arrays(connection, _statement(query, tuple(c.name for c in columns)), columns, values)
    rows["code"] = np.searchsorted(ids, rows["diaObjectId"])
    ties = (*_KEYS, "diaSourceId")
    order = kernels.in_order(rows["code"], len(ids), rows["midpointMjdTai"], *(rows[k] for k in ties))
    if not np.array_equal(order, np.arange(len(order))):
        rows = {name: values[order] for name, values in rows.items()}
    return {**rows, **blanks(rows)}
