"""Visits whose rows the archive holds cannot be taken back: they would come back valid when their month is restored."""

from typing import Any

import numpy as np
import psycopg

from apdb.errors import ApdbError
from apdb.rows import single_row
from apdb.schema.partitions import archived_months, refuse_archived
from tasks.arrays import F64

__all__ = ["refuse_archived_rows"]


def refuse_archived_rows(
    connection: psycopg.Connection[Any], visit: int, detector: int, times_mjd: F64, stored: int
) -> None:
    """Refuse to take back what lies in the archive, whatever the time of the rows that come in its place.

    Parameters
    ----------
    times_mjd
        Of the valid rows of the visit that are here, MJD (TAI), shape (N,).
    stored
        How many sources and forced sources the ledger of stores knows of it.

    Raises
    ------
    ApdbError
        Rows lie in an archived month, or all of them are gone with one.
    """
    if times_mjd.size:
        refuse_archived(connection, np.unique(np.floor(times_mjd)).tolist())
    elif stored and (months := archived_months(connection)) and not _has_withdrawn(connection, visit, detector):
        raise ApdbError(
            f"visit {visit}, detector {detector}: the {stored} rows that are stored of it are in the archive, where they cannot be "
            f"taken back: run 'alertprod apdb restore' for its month first (in the archive: {', '.join(sorted(months))})"
        )


def _has_withdrawn(connection: psycopg.Connection[Any], visit: int, detector: int) -> bool:
    """Whether withdrawn sources of the visit are here: a month that is elsewhere leaves none."""
    query = 'SELECT EXISTS (SELECT 1 FROM "DiaSource" WHERE visit = %s AND detector = %s)'
    return bool(single_row(connection.execute(query, (visit, detector)))[0])
