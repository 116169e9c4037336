"""`VisitUnitOfWork`: the one transaction that carries everything a visit writes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
import psycopg
from lsst.sphgeom import Region
from psycopg import sql

from apdb.copy.decode import select_frame
from apdb.copy.encode import copy_in
from apdb.errors import ApdbError, DatabaseUnavailable
from apdb.queue import ledger, outbox
from apdb.queue.ledger import Outcome
from apdb.queue.outbox import OutboxEntry
from apdb.schema.columns import Column, columns_of, published_schema
from apdb.visit import changes
from apdb.visit.load import history_of_objects, objects_around, objects_in_region, visit_is_stored
from apdb.visit.store import store_rows
from apdb.visit_rows import prepare
from tasks.arrays import F64, I64

if TYPE_CHECKING:
    from astropy.time import Time

__all__ = ["HISTORY_DAYS", "VisitUnitOfWork"]

HISTORY_DAYS = 360.0
CHUNK_SECONDS = 600  # of replication
_FLAGS = (
    Column("diaObjectId", "long", False), Column("visit", "long", False), Column("detector", "short", False),
    Column("flags", "int", False),
)  # fmt: skip


class VisitUnitOfWork:
    """Load, store, finish and commit within one REPEATABLE READ transaction.

    Leaving the context without `commit` rolls everything back. The connection must be in autocommit mode and outside
    of a transaction; sky locks are the caller's, taken before.

    Parameters
    ----------
    connection
        An open session.
    """

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._committed = False

    def __enter__(self) -> "VisitUnitOfWork":
        self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed and not self._connection.closed:
            self._connection.rollback()
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            raise DatabaseUnavailable(f"the transaction must be repeated: {error}") from error
        if isinstance(error, psycopg.OperationalError):
            raise DatabaseUnavailable(f"the database failed in the transaction: {error}") from error

    def load_objects(self, region: Region) -> pd.DataFrame:
        """Return the newest versions (DiaObjectLast columns) whose pixel is in the cover of the region."""
        return objects_in_region(self._connection, published_schema(), region)

    def load_new_objects(self, since_mjd_tai: float) -> pd.DataFrame:
        """Return the newest versions that began at or after a time."""
        rest = sql.SQL('WHERE t."validityStartMjdTai" >= %s')
        frame = select_frame(self._connection, "DiaObjectLast", columns_of("DiaObjectLast"), rest, (since_mjd_tai,))
        return frame.sort_values("diaObjectId", ignore_index=True)

    def load_objects_around(self, ra: F64, dec: F64, radius_deg: float) -> pd.DataFrame:
        """Return the newest versions within a small radius of any position, shape (N,) in deg, and some more around."""
        return objects_around(self._connection, published_schema(), ra, dec, radius_deg)

    def positions_of(self, object_ids: Sequence[int] | I64) -> dict[int, tuple[float, float, int]]:
        """Return ra, dec (deg) and nDiaSources of those of the objects that are in the database, wherever they are."""
        ids = [int(i) for i in object_ids]
        return changes.positions_and_counts(self._connection, ids) if ids else {}

    def load_sources(self, object_ids: Sequence[int] | I64, visit_mjd: float) -> pd.DataFrame:
        """Return the DiaSources of objects, ids of shape (N,), from `HISTORY_DAYS` before the visit on, without withdrawn ones."""
        return self._history("DiaSource", object_ids, visit_mjd, "diaSourceId")

    def load_forced_sources(self, object_ids: Sequence[int] | I64, visit_mjd: float) -> pd.DataFrame:
        """Return the DiaForcedSources of objects, ids of shape (N,), from `HISTORY_DAYS` before the visit on, without withdrawn ones."""
        return self._history("DiaForcedSource", object_ids, visit_mjd, "diaForcedSourceId")

    def _history(self, table: str, object_ids: Sequence[int] | I64, visit_mjd: float, order: str) -> pd.DataFrame:
        frame = history_of_objects(
            self._connection, published_schema(), table, object_ids, visit_mjd - HISTORY_DAYS, withdrawn=False
        )
        return frame.sort_values(["diaObjectId", "midpointMjdTai", order]).reset_index(drop=True)

    def contains_visit(self, visit: int, detector: int) -> bool:
        """Return whether rows of the (visit, detector) exist already."""
        return visit_is_stored(self._connection, visit, detector)

    def remove_visit(self, visit: int, detector: int, mjd_tai: float) -> int:
        """Withdraw what an earlier processing of the visit stored (rows stay, marked); returns how many."""
        return changes.withdraw_visit(self._connection, visit, detector, mjd_tai)

    def store(
        self,
        mjd_tai: float,
        objects: pd.DataFrame,
        sources: pd.DataFrame,
        forced: pd.DataFrame,
        ss_sources: pd.DataFrame | None = None,
        forced_flags: pd.DataFrame | None = None,
        of: tuple[int, int] | None = None,
    ) -> None:
        """Write all rows of a visit.

        Parameters
        ----------
        mjd_tai
            Processing time: open versions of the same objects end here and the new ones begin.
        objects, sources, forced
            Frames with APDB column names; ``validityStartMjdTai`` is set here.
        of
            Visit and detector, so that one without any row is known to be stored.
        """
        schema = published_schema()
        rows = prepare(schema, mjd_tai, objects, sources, forced, of=of)
        if not store_rows(self._connection, rows):
            return
        if self._replicated():
            from lsst.dax.apdb import ReplicaChunk

            from apdb.replication.replica import store_keys

            store_keys(self._connection, schema, rows, ReplicaChunk.make_replica_chunk(_time(mjd_tai), CHUNK_SECONDS))
        if forced_flags is not None:
            copy_in(self._connection, "DiaForcedSourceFlags", forced_flags, _FLAGS)
        if ss_sources is not None:
            copy_in(self._connection, "SSSource", ss_sources, columns_of("SSSource"))

    def _replicated(self) -> bool:
        """Return whether replication is on."""
        query = "SELECT 1 FROM metadata WHERE name = 'version:ApdbSqlReplica'"
        return self._connection.execute(query).fetchone() is not None

    def merge_objects(self, duplicates: Mapping[int, int], mjd_tai: float) -> dict[int, int]:
        """Give the sources of duplicate objects to the objects that stay, and close the duplicates.

        Parameters
        ----------
        duplicates
            Object that goes -> object that stays (which does not go itself). Objects without an open version are left out.

        Returns
        -------
        moved
            Number of sources that each staying object got.
        """
        connection = self._connection
        objects = changes.positions_and_counts(connection, {*duplicates, *duplicates.values()})
        wanted = {d: k for d, k in duplicates.items() if d in objects and k in objects}
        moved = changes.move_all_sources(connection, wanted)
        steps = Counter(keep for _, keep in moved)
        recounted = changes.add_to_counts(connection, steps)
        closed = changes.close_objects(connection, wanted, mjd_tai)
        if self._replicated() and closed:
            from apdb.replication import update_records

            targets = dict(moved)
            positions = {k: (v[0], v[1]) for k, v in objects.items()}
            records = update_records.reassigned_by_id(connection, targets) + update_records.recounted(
                recounted, objects
            )
            update_records.send(
                connection, records + update_records.closed(closed, positions, mjd_tai), _time(mjd_tai), CHUNK_SECONDS
            )
        return {keep: steps.get(keep, 0) for keep in wanted.values()}

    def finish(self, visit: int, detector: int, attempt: int, outcome: Outcome) -> None:
        """Mark the visit in the ledger as `apdb.queue.ledger.finish`.

        Raises
        ------
        LeaseLost
            Another attempt has taken over.
        """
        ledger.finish(self._connection, visit, detector, attempt, outcome)

    def add_outbox(self, entry: OutboxEntry) -> None:
        """Add the row that lets the relay publish the visit's alert file."""
        outbox.add(self._connection, entry)

    def commit(self) -> None:
        """Commit everything.

        Raises
        ------
        ApdbError
            It was committed before.
        """
        if self._committed:
            raise ApdbError("the unit of work was committed before")
        self._connection.execute("COMMIT")
        self._committed = True


def _time(mjd_tai: float) -> "Time":
    """Return a processing time (MJD, TAI) as astropy has it; loaded where replication is on only."""
    from astropy.time import Time

    return Time(mjd_tai, format="mjd", scale="tai")
