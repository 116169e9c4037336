"""The ids of the sources of each store, in the ledger of stores: an id is stored once, whatever its month and visit.

The primary key of DiaSource holds the time, because the table is partitioned by it; so it does not see an id that comes
again at another time, and to look for it in every partition would cost each store more the longer a survey runs.
"""

from typing import Any

import numpy as np
import psycopg

from apdb.copy.encode import id_array
from apdb.errors import VisitConflict
from apdb.visit.load import OTHER_WRITERS
from apdb.visit_rows import VisitRows

__all__ = ["id_range", "note_uncovered", "refuse_known_ids"]


def id_range(rows: VisitRows) -> str | None:
    """Return the range of the ids of the sources to be stored as PostgreSQL writes it, None where there are none."""
    if "DiaSource" not in rows.frames:
        return None
    ids = rows.frames["DiaSource"].diaSourceId
    low, high = int(ids.min()), int(ids.max())
    return f"[{low},]" if high == np.iinfo(np.int64).max else f"[{low},{high}]"


def refuse_known_ids(connection: psycopg.Connection[Any], rows: VisitRows) -> None:
    """Refuse sources with ids that another visit or detector has.

    One look into the index of ranges tells that none can have them; only where ranges overlap, the rows are asked for.

    Raises
    ------
    VisitConflict
        An id is stored already; nothing was written.
    """
    given = id_range(rows)
    if given is None:
        return
    key = {"range": given, "v": rows.visit, "d": rows.detector}
    other = connection.execute(
        'SELECT 1 FROM "StoreLedger" WHERE "sourceIds" && %(range)s::int8range '
        "AND (visit, detector) IS DISTINCT FROM (%(v)s::bigint, %(d)s::bigint) LIMIT 1",
        key,
    ).fetchone()
    if other is None:
        return
    _ = rows.sources  # values that the columns cannot hold are told first
    ids = rows.frames["DiaSource"].diaSourceId.to_numpy(np.int64)
    found = connection.execute(
        'SELECT "diaSourceId", visit, detector FROM "DiaSource" WHERE "diaSourceId" = ANY(%(ids)s::bigint[]) '
        "AND (visit, detector) IS DISTINCT FROM (%(v)s::bigint, %(d)s::bigint) ORDER BY 1 LIMIT 1",
        {**key, "ids": id_array(ids)},
    ).fetchone()
    if found is None:
        return
    label = rows.frames["DiaSource"].index[int(np.argmax(ids == found[0]))]
    raise VisitConflict(
        f"DiaSource.diaSourceId: row {label} has the id {found[0]}, which is that of a source of visit {found[1]}, detector "
        f"{found[2]}: nothing was written. Do two cameras, or two layouts of ids, share this database?",
        visit=rows.visit,
        detector=rows.detector,
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
    return bool((forced.visit == rows.visit).all() and (forced.detector == rows.detector).all())
