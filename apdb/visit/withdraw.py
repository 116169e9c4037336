"""Withdrawing a visit for good: its rows are taken back, its ledger entry says so."""

from contextlib import ExitStack

from apdb.database import Database
from apdb.errors import NotFound
from apdb.queue.ledger import Ledger
from apdb.queue.states import VisitState
from apdb.rows import single_row
from apdb.schema.partitions import refuse_archived
from apdb.sky.locks import sky_locks
from apdb.visit.take_back import pixels_of_visit
from apdb.visit.unit_of_work import VisitUnitOfWork

__all__ = ["withdraw_visit"]


def withdraw_visit(database: Database, visit: int, detector: int, mjd_tai: float, reason: str) -> int:
    """Take a visit back under the locks of its sky, in one transaction; returns how many rows were withdrawn.

    Parameters
    ----------
    mjd_tai
        Processing time: versions of objects that had a part in it end here.
    reason
        Why; kept in the audit and told to the readers of alerts.

    Raises
    ------
    NotFound
        The visit never came: it was neither queued nor stored by another way.
    VisitRunning
        It is being processed.
    ApdbError
        Its rows are in the archive.
    DatabaseUnavailable
        Nothing was changed; try again.
    """
    with database.connect() as connection, ExitStack() as stack:
        pixels = pixels_of_visit(connection, visit, detector)
        if pixels:
            stack.enter_context(sky_locks(connection, pixels))
        work = stack.enter_context(VisitUnitOfWork(connection))
        queued = Ledger(database).withdraw(connection, visit, detector)
        key = (visit, detector)
        query = 'SELECT EXISTS (SELECT 1 FROM "StoreLedger" WHERE visit = %s AND detector = %s)'
        (is_stored,) = single_row(connection.execute(query, key))
        if queued is None and not is_stored and not work.contains_visit(visit, detector):
            raise NotFound("it never came", visit=visit, detector=detector)
        count = work.remove_visit(visit, detector, mjd_tai, reason)
        if not count and not is_stored and queued is not None and queued[0] == VisitState.DONE:
            refuse_archived(connection, [m for m in queued[1:] if m is not None])  # stored where no store was entered
        work.commit()
    return count
