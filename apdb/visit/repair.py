"""Objects of older databases made anew: those that still bear the marks of rows that were withdrawn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from apdb.audit import audit
from apdb.database import Database
from apdb.operate.archive_notes import note_missing
from apdb.schema.columns import published_schema
from apdb.sky.htm import HTM_LEVEL
from apdb.sky.locks import pixels_of_positions, sky_locks
from apdb.visit.renewal import Counting, newest_versions, renew
from apdb.visit.take_back import withdraw_forced_of
from apdb.visit.unit_of_work import VisitUnitOfWork
from apdb.visit.valid_rows import EVER

__all__ = ["RepairReport", "renew_marked"]

BATCH_ROWS = 2000
# open objects with a withdrawn source, in order of place
_MARKED = (
    'SELECT l."diaObjectId", l."pixelId" FROM "DiaObjectLast" l WHERE EXISTS (SELECT 1 FROM "DiaSource" s WHERE '
    's."diaObjectId" = l."diaObjectId" AND s."timeWithdrawnMjdTai" IS NOT NULL) ORDER BY l."pixelId", l."diaObjectId"'
)


@dataclass(frozen=True)
class RepairReport:
    """What a run did: objects with withdrawn sources, of these made anew, and closed for want of a valid source.

    ``unread`` are archived months that are not noted yet, as their files cannot be read: objects that were seen in them are refused
    where a source leaves them.
    """

    objects: int
    renewed: int
    closed: int
    unread: tuple[str, ...] = ()


def renew_marked(
    database: Database,
    mjd_tai: float,
    *,
    dry_run: bool = False,
    limits: tuple[float, float] = EVER,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RepairReport:
    """Make the open objects anew that have withdrawn sources, some at a time, each lot one transaction under the sky locks.

    Where it was done already, it gives the same statistics again. What lies in months that older versions archived is noted first.

    Parameters
    ----------
    mjd_tai
        Processing time: new versions begin here.
    dry_run
        Count, change nothing.
    limits
        First and last time (MJD, TAI) that can be real: sources beyond are counted, and in no statistics.
    progress
        Told objects done and in all.
    """
    schema, renewed, closed = published_schema(), 0, 0
    with database.connect() as connection:
        unread = () if dry_run else tuple(note_missing(connection))
        marked = np.array(connection.execute(_MARKED).fetchall(), np.int64).reshape(-1, 2)
        for begin in range(0, 0 if dry_run else len(marked), BATCH_ROWS):
            ids, pixels = marked[begin : begin + BATCH_ROWS].T
            with sky_locks(connection, pixels_of_positions(pixels, HTM_LEVEL)), VisitUnitOfWork(connection) as work:
                done = renew(
                    connection,
                    schema,
                    newest_versions(connection, schema, ids.tolist()),
                    mjd_tai,
                    counting=Counting(limits=limits),
                )
                left = withdraw_forced_of(connection, schema, done.closed, mjd_tai)
                if (chunk := work.replica_chunk(mjd_tai)) is not None:
                    from apdb.replication.taken_back import tell, tell_versions

                    tell(connection, chunk, left.iloc[:0].assign(diaSourceId=0), left, done.closed)
                    tell_versions(connection, chunk, done.objects)
                detail = {"objects": list(done.objects), "closed": sorted(done.closed)}
                audit(connection, "renew objects", "DiaObject", len(done.objects), detail)
                work.commit()
            renewed, closed = renewed + len(done.objects), closed + len(done.closed)
            progress(min(begin + BATCH_ROWS, len(marked)), len(marked))
    return RepairReport(len(marked), renewed, closed, unread)
