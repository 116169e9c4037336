"""The valid rows of objects that statistics are made of, and how many sources they have in all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import psycopg
from numpy.typing import NDArray
from psycopg import sql

from apdb.copy.decode import query_arrays, select_frame
from apdb.copy.encode import id_array, number_array
from apdb.rows import single_row
from apdb.schema.columns import Column, PublishedSchema
from tasks import object_statistics as kernels
from tasks.arrays import F64, I64
from tasks.lacking import LACKING_BITS, SOURCE_FLAGS, blanks
from tasks.object_statistics import HISTORY_DAYS

__all__ = ["SOURCE_COLUMNS", "TIMES", "lacking_of", "valid_sources"]

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
# a scan of a whole month, which the planner takes to be cheaper while it knows nothing of the newest one, never is
_BEGIN = "SELECT EXISTS (SELECT 1 FROM \"ApdbArchive\" WHERE state <> 'restored') FROM set_config('enable_seqscan', 'off', true)"
# the array is the answer of a query: the planner looks at each element of one that it knows, for each month and index
_ALL = 'SELECT {columns} FROM "DiaSource" t WHERE t."diaObjectId" = ANY(ARRAY(SELECT unnest(%s::bigint[]))) AND {valid}'
_WINDOWS = (  # object by object
    "SELECT {columns} FROM unnest(%s::bigint[], %s::float8[], %s::float8[]) w(id, start, stop) CROSS JOIN LATERAL (SELECT "
    '{columns} FROM "DiaSource" t WHERE t."diaObjectId" = w.id AND t."midpointMjdTai" BETWEEN w.start AND w.stop AND '
    't."midpointMjdTai" BETWEEN %s AND %s AND {valid} OFFSET 0) t'
)


@dataclass(frozen=True)
class _Times:
    """Of objects, shape (N,): number of valid sources that are here, first and last time (NaN for none)."""

    count: I64
    first: F64
    last: F64


def _of_rows(codes: I64, times: F64, size: int) -> _Times:
    first, last = np.full(size, np.nan), np.full(size, np.nan)
    np.fmin.at(first, codes, times)
    np.fmax.at(last, codes, times)
    return _Times(np.bincount(codes, minlength=size).astype(np.int64), first, last)


def _of_query(connection: psycopg.Connection[Any], ids: I64) -> _Times:
    rows = connection.execute(
        f'SELECT t."diaObjectId", count(*), min(t."midpointMjdTai"), max(t."midpointMjdTai") FROM "DiaSource" t '
        f'WHERE t."diaObjectId" = ANY(%s::bigint[]) AND {_VALID} GROUP BY 1',
        (id_array(ids),),
        binary=True,
    ).fetchall()
    out = _Times(np.zeros(len(ids), np.int64), np.full(len(ids), np.nan), np.full(len(ids), np.nan))
    index = np.searchsorted(ids, np.array([r[0] for r in rows], np.int64))
    for k, values in enumerate((out.count, out.first, out.last), 1):
        values[index] = [r[k] for r in rows]
    return out


def valid_sources(
    connection: psycopg.Connection[Any], schema: PublishedSchema, objects: pd.DataFrame, change: Mapping[int, int]
) -> tuple[pd.DataFrame, dict[str, NDArray[Any]]]:
    """Return the objects with number, first and last time of their valid sources, and these sources, column by column.

    Of objects whose history fits into the window all sources are read, which also gives their number; of others they are
    counted, and read within the window. Sources in archived months are counted. Fluxes that lack light are NaN.
    """
    ids, before = objects.diaObjectId.to_numpy(np.int64), objects[list(TIMES)].to_numpy(np.float64)
    short = before[:, 1] - before[:, 0] <= HISTORY_DAYS
    has_archive = bool(single_row(connection.execute(_BEGIN))[0])
    read = [_read(connection, schema, ids[short], _ALL, (id_array(ids[short]),))]
    counts, first, last = np.zeros(len(ids), np.int64), np.full(len(ids), np.nan), np.full(len(ids), np.nan)
    here = _of_rows(read[0]["code"], read[0]["midpointMjdTai"], int(short.sum()))
    counts[short], first[short], last[short] = here.count, here.first, here.last
    if not short.all():
        there = _of_query(connection, ids[~short])
        counts[~short], first[~short], last[~short] = there.count, there.first, there.last
        stop = np.where(np.isnan(there.last), -_ALWAYS, there.last)
        start = stop - HISTORY_DAYS
        windows = (
            id_array(ids[~short]),
            number_array(start),
            number_array(stop),
            float(start.min()),
            float(stop.max()),
        )
        read.append(_read(connection, schema, ids[~short], _WINDOWS, windows))
    archived = np.zeros(len(ids), np.int64)
    if has_archive:
        expected = objects.nDiaSources.to_numpy(np.int64) + np.array([change.get(i, 0) for i in ids.tolist()], np.int64)
        archived = np.maximum(expected - counts, 0)
        kept = np.where(archived[:, None] > 0, before, np.nan)
        first, last = np.fmin(first, kept[:, 0]), np.fmax(last, kept[:, 1])
    numbers = (counts + archived).astype(np.int32)
    counted = objects.assign(nDiaSources=numbers, firstDiaSourceMjdTai=first, lastDiaSourceMjdTai=last)
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
