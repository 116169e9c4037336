"""Withdrawing a visit for good: its rows are taken back, its ledger entry says so."""

from contextlib import ExitStack

from apdb.database import Database
from apdb.queue.ledger import Ledger
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
        The visit never came.
    VisitRunning
        It is being processed.
    DatabaseUnavailable
        Nothing was changed; try again.
    """
    with database.connect() as connection, ExitStack() as stack:
        pixels = pixels_of_visit(connection, visit, detector)
        if pixels:
            stack.enter_context(sky_locks(connection, pixels))
        work = stack.enter_context(VisitUnitOfWork(connection))
        Ledger(database).withdraw(connection, visit, detector)
        count = work.remove_visit(visit, detector, mjd_tai, reason)
        work.commit()
    return count
