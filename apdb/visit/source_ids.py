"""Ids against what is stored: those of sources, once each, and those of objects, which stay where they are.

The ids of the sources of each store are in the ledger of stores: an id is stored once, whatever its month and visit.

The primary key of DiaSource holds the time, because the table is partitioned by it, and that of DiaForcedSource holds no id of its
own; so they do not see an id that comes again at another time, and to look for it in every partition would cost each store more the
longer a survey runs. DiaSource and DiaForcedSource have each a space of ids.
"""

from typing import Any, LiteralString, NamedTuple

import numpy as np
import pandas as pd
import psycopg

from apdb.copy.encode import id_array, number_array
from apdb.copy.row_checks import refuse
from apdb.errors import ApdbError, VisitConflict
from apdb.rows import single_row
from apdb.schema.archived_rows import Stored, refuse_rows_elsewhere
from apdb.schema.columns import named
from apdb.visit.corrected import SAME_PLACE_ARCSEC
from apdb.visit.load import OTHER_WRITERS
from apdb.visit_rows import VisitRows
from tasks.arrays import F64, I64
from tasks.sphere import unit_vectors

__all__ = [
    "free_ids",
    "free_withdrawn",
    "has_ids_of",
    "id_ranges",
    "note_uncovered",
    "refuse_known_ids",
    "refuse_moved",
    "refuse_unknown_objects",
]

MOST_MOVED_DEG = 5.0  # of an object from one version to the next: tests of the published client move one by 2
MOST_STORES = (
    64  # in which an id of a forced source is looked for: ids that a packer made lie between those of no other store
)
# a label is of what was seen at a place: where the id comes again elsewhere, it would be of something else
_FREE = (
    'WITH freed AS (DELETE FROM "DiaSource" d USING unnest(%(ids)s::bigint[], %(ra)s::float8[], %(dec)s::float8[]) n(id, ra, dec) '
    'WHERE d.visit = %(v)s AND d.detector = %(d)s AND d."diaSourceId" = ANY(%(ids)s::bigint[]) AND d."diaSourceId" = n.id AND '
    'd."timeWithdrawnMjdTai" IS NOT NULL RETURNING n.id, sind((n.dec - d.dec) / 2) ^ 2 + cosd(n.dec) * cosd(d.dec) * '
    'sind((n.ra - d.ra) / 2) ^ 2 > sind(%(apart)s / 2) ^ 2 AS is_elsewhere) DELETE FROM "SourceLabel" l USING freed f WHERE '
    'l."diaSourceId" = f.id AND f.is_elsewhere'
)
_OTHERS = "AND (visit, detector) IS DISTINCT FROM (%(v)s::bigint, %(d)s::bigint)"


class _Kind(NamedTuple):
    """A table with ids, its column of ids, that of their range in the ledger, and how to find the first of given ids in others."""

    table: str
    column: str
    ranges: str
    query: str


_KINDS = (
    _Kind(
        "DiaSource",
        "diaSourceId",
        "sourceIds",
        'SELECT "diaSourceId", visit, detector FROM "DiaSource" WHERE "diaSourceId" = ANY(%(ids)s::bigint[]) '
        f"{_OTHERS} ORDER BY 1 LIMIT 1",
    ),
    _Kind(
        "DiaForcedSource",
        "diaForcedSourceId",
        "forcedIds",
        'WITH other AS MATERIALIZED (SELECT visit, detector FROM "StoreLedger" WHERE "forcedIds" && %(range)s::int8range '
        f'{_OTHERS} ORDER BY "storedAt" DESC LIMIT {MOST_STORES}) SELECT t."diaForcedSourceId", t.visit, t.detector FROM other o '
        'JOIN "DiaForcedSource" t ON t.visit = o.visit AND t.detector = o.detector WHERE t."diaForcedSourceId" = '
        "ANY(%(ids)s::bigint[]) ORDER BY 1 LIMIT 1",
    ),
)  # fmt: skip


def id_ranges(rows: VisitRows) -> tuple[str | None, str | None]:
    """Return the ranges of the ids of the sources and forced sources to be stored as PostgreSQL writes them, None where there are none."""
    of_sources, of_forced = (_id_range(rows, kind) for kind in _KINDS)
    return of_sources, of_forced


def _id_range(rows: VisitRows, kind: _Kind) -> str | None:
    frame = rows.frames.get(kind.table)
    if frame is None or kind.column not in frame:
        return None
    ids = frame[kind.column].to_numpy()
    low, high, largest = int(ids.min()), int(ids.max()), np.iinfo(np.int64).max
    if high > largest:
        _ = rows.encoded(kind.table)  # which refuses such ids by row
    return f"[{low},]" if high >= largest else f"[{low},{high}]"


def refuse_known_ids(connection: psycopg.Connection[Any], rows: VisitRows) -> None:
    """Refuse sources and forced sources with ids that another visit or detector has.

    One look into the index of ranges tells that none can have them; only where ranges overlap, the rows are asked for: of forced
    sources, those of the newest `MOST_STORES` stores among these.

    Raises
    ------
    VisitConflict
        An id is stored already; nothing was written.
    """
    for kind in _KINDS:
        _refuse_known(connection, rows, kind)


def _refuse_known(connection: psycopg.Connection[Any], rows: VisitRows, kind: _Kind) -> None:
    given = _id_range(rows, kind)
    if given is None:
        return
    key = {"range": given, "v": rows.visit, "d": rows.detector}
    other = connection.execute(
        f'SELECT 1 FROM "StoreLedger" WHERE "{kind.ranges}" && %(range)s::int8range {_OTHERS} LIMIT 1', key
    ).fetchone()
    if other is None:
        return
    _ = rows.encoded(kind.table)  # values that the columns cannot hold are told first
    frame = rows.frames[kind.table]
    ids = frame[kind.column].to_numpy(np.int64)
    holder = connection.execute(kind.query, {**key, "ids": id_array(ids)}).fetchone()
    if holder is None:
        return
    label = frame.index[int(np.argmax(ids == holder[0]))]
    raise VisitConflict(
        f"{kind.table}.{kind.column}: row {label} has the id {holder[0]}, which is that of a source of visit {holder[1]}, detector "
        f"{holder[2]}: nothing was written. Do two cameras, or two layouts of ids, share this database?",
        visit=rows.visit,
        detector=rows.detector,
    )


# one look into the index for each, whatever the planner takes the table to be
_UNKNOWN = (
    'SELECT min(n.id) FROM unnest(%s::bigint[]) n(id) LEFT JOIN LATERAL (SELECT true AS known FROM "DiaObject" o WHERE '
    'o."diaObjectId" = n.id LIMIT 1) k ON true WHERE k.known IS NULL'
)


def refuse_unknown_objects(connection: psycopg.Connection[Any], rows: VisitRows, known: I64 | None = None) -> None:
    """Refuse forced sources of objects that are neither stored, open or closed (as those `known` are), nor among the rows.

    Raises
    ------
    ApdbError
        The message names the row with the least such id; nothing was written.
    """
    forced = rows.frames.get("DiaForcedSource")
    if forced is None:
        return
    ids = forced.diaObjectId.to_numpy(np.int64)
    own = rows.objects.diaObjectId.to_numpy(np.int64) if len(rows.objects) else ids[:0]
    others = np.setdiff1d(ids, own if known is None else np.concatenate([own, known]))
    if not others.size:
        return
    (unknown,) = single_row(connection.execute(_UNKNOWN, (id_array(others),)))
    if unknown is not None:
        wanted = "the id of an object that is stored, or that comes with the same rows"
        raise _refused(rows, "DiaForcedSource", "diaObjectId", forced, int(np.argmax(ids == unknown)), unknown, wanted)


def refuse_moved(rows: VisitRows, ids: I64, ra: F64, dec: F64) -> None:
    """Refuse versions of objects elsewhere than where these are stored: `ids`, ascending, at `ra`, `dec` in deg, each of shape (N,).

    Raises
    ------
    ApdbError
        The message names the first such row.
    """
    given = rows.objects.diaObjectId.to_numpy(np.int64)
    at = np.searchsorted(ids, given)
    both = np.flatnonzero((at < len(ids)) & (ids[np.minimum(at, len(ids) - 1)] == given)) if len(ids) else at[:0]
    stored, place = at[both], rows.objects.iloc[both]
    chord = np.linalg.norm(unit_vectors(place.ra, place.dec) - unit_vectors(ra[stored], dec[stored]), axis=1)
    far = chord > 2 * np.sin(np.radians(MOST_MOVED_DEG) / 2)
    if far.any():
        k = int(np.argmax(far))
        row, column = int(both[k]), "ra" if abs(dec[stored[k]] - place.dec.iloc[k]) <= MOST_MOVED_DEG else "dec"
        wanted = (
            f"a place within {MOST_MOVED_DEG:g} deg of ra {ra[stored[k]]:.5f}, dec {dec[stored[k]]:.5f}, where the object with "
            f"diaObjectId {given[row]} is stored: do two cameras, or two layouts of ids, share this database?"
        )
        raise _refused(rows, "DiaObject", column, rows.objects, row, float(place[column].iloc[k]), wanted)


def _refused(
    rows: VisitRows, table: str, column: str, frame: pd.DataFrame, row: int, value: object, wanted: str
) -> ApdbError:
    (held,) = named(rows.schema.columns(table), column)
    return refuse(table, held, frame, row, value, wanted)


def has_ids_of(rows: VisitRows, visit: int, detector: int) -> tuple[LiteralString, dict[str, object]]:
    """Return the query, with its parameters, whether sources of a visit are stored with ids between those of `rows`."""
    of_sources, _ = id_ranges(rows)
    return (
        'SELECT EXISTS (SELECT 1 FROM "DiaSource" WHERE visit = %(v)s AND detector = %(d)s AND "diaSourceId" <@ %(r)s::int8range)',
        {"v": visit, "d": detector, "r": of_sources},
    )


def free_ids(connection: psycopg.Connection[Any], rows: VisitRows, visit: int, detector: int) -> None:
    """Delete withdrawn sources of a visit whose ids come again among `rows`, and labels where another place has the id now."""
    frame = rows.frames.get("DiaSource")
    if frame is None:
        return
    ids = id_array(frame.diaSourceId.to_numpy(np.int64))
    place = {name: number_array(frame[name].to_numpy(np.float64)) for name in ("ra", "dec")}
    connection.execute(_FREE, {"ids": ids, **place, "v": visit, "d": detector, "apart": SAME_PLACE_ARCSEC / 3600})


def free_withdrawn(connection: psycopg.Connection[Any], rows: VisitRows) -> None:
    """Delete withdrawn sources of the visit whose ids come again; their place in the ledger is that of the rows from now on.

    Raises
    ------
    ApdbError
        Some are in the archive: restored, they would have the ids of the rows.
    """
    of_sources, _ = id_ranges(rows)
    if rows.visit is None or rows.detector is None or of_sources is None:
        return
    left = connection.execute(
        'SELECT "nSources", 0, "sourceIds"::text, NULL FROM "StoreLedger" WHERE visit IS NULL AND "contentHash" LIKE \'withdrawn %%\' '
        'AND "nSources" > 0 AND "sourceIds" && %s::int8range',
        (of_sources,),
    ).fetchall()
    if left:
        refuse_rows_elsewhere(connection, rows.visit, rows.detector, [Stored(*entry) for entry in left])
    free_ids(connection, rows, rows.visit, rows.detector)
    connection.execute(
        'DELETE FROM "StoreLedger" WHERE visit IS NULL AND "contentHash" LIKE \'withdrawn %%\' AND "sourceIds" <@ %s::int8range',
        (of_sources,),
    )


def note_uncovered(connection: psycopg.Connection[Any], rows: VisitRows) -> None:
    """Where the rows are not all of one (visit, detector), say that the ledger does not know all visits."""
    if not rows.frames or (_of_one_visit(rows) and rows.visit is not None and rows.detector is not None):
        return
    connection.execute("INSERT INTO metadata (name, value) VALUES (%s, 'yes') ON CONFLICT DO NOTHING", (OTHER_WRITERS,))


def _of_one_visit(rows: VisitRows) -> bool:
    """Whether forced sources are of the visit and detector of the sources (what these are alone, is known)."""
    if len(rows.frames) < 2:
        return True
    forced = rows.frames["DiaForcedSource"]
    return all(bool(np.all(forced[n].to_numpy() == v)) for n, v in (("visit", rows.visit), ("detector", rows.detector)))
