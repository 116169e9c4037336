"""Visits whose rows the archive holds cannot be taken back: they would come back valid when their month is restored."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psycopg

from apdb.errors import ApdbError
from apdb.rows import single_row
from apdb.schema.partitions import archived_months, refuse_archived
from tasks.arrays import F64

__all__ = ["Stored", "refuse_archived_rows", "refuse_rows_elsewhere"]


class Stored(NamedTuple):
    """What the ledger of stores says of one store: numbers of sources and forced sources, ranges of their ids (None: not known)."""

    sources: int
    forced: int
    source_ids: str | None
    forced_ids: str | None


# also withdrawn ones, and forced sources that left with an object: they are here
_SOURCES = 'SELECT count(*) FROM "DiaSource" WHERE visit = %(v)s AND detector = %(d)s'
_SOURCES_IN = f'{_SOURCES} AND "diaSourceId" <@ ANY(%(ids)s::int8range[])'
_FORCED = (
    'SELECT count(*) FROM (SELECT {0} FROM "DiaForcedSource" WHERE visit = %(v)s AND detector = %(d)s{1} UNION SELECT {0} FROM '
    '"DiaForcedSourceWithdrawn" WHERE visit = %(v)s AND detector = %(d)s{1}) f'
)
_FORCED_ANY = _FORCED.format('"diaObjectId"', "")
_FORCED_IN = _FORCED.format('"diaForcedSourceId"', ' AND "diaForcedSourceId" <@ ANY(%(ids)s::int8range[])')


def refuse_archived_rows(
    connection: psycopg.Connection[Any], visit: int, detector: int, times_mjd: F64, stores: Sequence[Stored]
) -> None:
    """Refuse to take back what lies in the archive, whatever the time of the rows that come in its place.

    Parameters
    ----------
    times_mjd
        Of the rows of the visit that were valid, MJD (TAI), shape (N,).
    stores
        What the ledger of stores knew of it.

    Raises
    ------
    ApdbError
        Rows lie in an archived month, or not all are here.
    """
    if times_mjd.size:
        refuse_archived(connection, np.unique(np.floor(times_mjd)).tolist())
    elif not stores:
        query = 'SELECT "midpointMjdTai" FROM "VisitLedger" WHERE visit = %s AND detector = %s AND state = \'done\''
        refuse_archived(connection, [m for (m,) in connection.execute(query, (visit, detector)) if m is not None])
    if times_mjd.size < sum(s.sources + s.forced for s in stores):
        refuse_rows_elsewhere(connection, visit, detector, stores)


def refuse_rows_elsewhere(
    connection: psycopg.Connection[Any], visit: int, detector: int, stores: Sequence[Stored]
) -> None:
    """Refuse where there is an archive, and fewer rows of stores of a visit are here than were stored.

    Sources tell it, which keep their rows when they are withdrawn; forced sources do where there are no others.

    Raises
    ------
    ApdbError
        The message says how many rows are missing, and what to restore.
    """
    months = archived_months(connection)
    if not months:
        return
    of_sources = [s for s in stores if s.sources]
    if of_sources:
        stored, ids = sum(s.sources for s in of_sources), [s.source_ids for s in of_sources]
        query = _SOURCES if None in ids else _SOURCES_IN
    else:
        stored, ids = sum(s.forced for s in stores), [s.forced_ids for s in stores if s.forced]
        query = _FORCED_ANY if None in ids else _FORCED_IN
    (here,) = single_row(connection.execute(query, {"v": visit, "d": detector, "ids": ids}))
    if here < stored:
        rows = sum(s.sources + s.forced for s in stores)
        raise ApdbError(
            f"visit {visit}, detector {detector}: {'some of ' if here else ''}the {rows} rows that are stored of it are in the archive, "
            f"where they cannot be taken back: run 'alertprod apdb restore' for its month first (in the archive: {', '.join(sorted(months))})"
        )
