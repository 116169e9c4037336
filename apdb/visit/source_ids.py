"""The ids of the sources of each store, in the ledger of stores: an id is stored once, whatever its month and visit.

The primary key of DiaSource holds the time, because the table is partitioned by it, and that of DiaForcedSource holds no id of its
own; so they do not see an id that comes again at another time, and to look for it in every partition would cost each store more the
longer a survey runs. DiaSource and DiaForcedSource have each a space of ids.
"""

from typing import Any, NamedTuple

import numpy as np
import psycopg

from apdb.copy.encode import id_array, number_array
from apdb.errors import VisitConflict
from apdb.visit.corrected import SAME_PLACE_ARCSEC
from apdb.visit.load import OTHER_WRITERS
from apdb.visit_rows import VisitRows

__all__ = ["free_ids", "free_withdrawn", "id_ranges", "note_uncovered", "refuse_known_ids"]

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


def free_ids(connection: psycopg.Connection[Any], rows: VisitRows, visit: int, detector: int) -> None:
    """Delete withdrawn sources of a visit whose ids come again among `rows`, and labels where another place has the id now."""
    frame = rows.frames.get("DiaSource")
    if frame is None:
        return
    ids = id_array(frame.diaSourceId.to_numpy(np.int64))
    place = {name: number_array(frame[name].to_numpy(np.float64)) for name in ("ra", "dec")}
    connection.execute(_FREE, {"ids": ids, **place, "v": visit, "d": detector, "apart": SAME_PLACE_ARCSEC / 3600})


def free_withdrawn(connection: psycopg.Connection[Any], rows: VisitRows) -> None:
    """Delete withdrawn sources of the visit whose ids come again; their place in the ledger is that of the rows from now on."""
    of_sources, _ = id_ranges(rows)
    if rows.visit is None or rows.detector is None or of_sources is None:
        return
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
