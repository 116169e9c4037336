"""`VisitUnitOfWork`: the one transaction that carries everything a visit writes."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psycopg
from lsst.sphgeom import Region
from psycopg import sql

from apdb.copy.decode import select_frame
from apdb.copy.encode import copy_in
from apdb.database import AWAY
from apdb.errors import ApdbError, DatabaseUnavailable
from apdb.queue import ledger, outbox
from apdb.queue.ledger import Outcome
from apdb.queue.outbox import OutboxEntry
from apdb.schema.columns import Column, columns_of, published_schema
from apdb.schema.partitions import NO_MONTH_LEAVES
from apdb.visit import changes, merge, take_back
from apdb.visit.late import renew_late
from apdb.visit.load import (
    history_of_objects,
    objects_around,
    objects_in_region,
    repeated_sources,
    sources_of_visit,
    visit_is_stored,
)
from apdb.visit.source_ids import free_ids
from apdb.visit.store import store_rows
from apdb.visit.take_back import TakenBack
from apdb.visit.valid_rows import lacking_of
from apdb.visit_rows import VisitRows, prepare
from tasks.arrays import F64, I64
from tasks.object_statistics import HISTORY_DAYS

if TYPE_CHECKING:
    from lsst.dax.apdb import ReplicaChunk

__all__ = ["HISTORY_DAYS", "VisitUnitOfWork"]

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
        self._taken: TakenBack | None = None
        self._reason = ""
        self._replacement: VisitRows | None = None
        self._renewed = False  # all objects of what was taken back
        self._last: dict[int, float] = {}  # last detections of the objects that were loaded

    def __enter__(self) -> "VisitUnitOfWork":
        try:
            self._connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {NO_MONTH_LEAVES}")
        except psycopg.Error as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed and not self._connection.closed:
            self._connection.rollback()
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            raise DatabaseUnavailable(f"the transaction must be repeated: {error}") from error
        if isinstance(error, AWAY):
            raise DatabaseUnavailable(f"the database failed in the transaction: {error}") from error

    def load_objects(self, region: Region) -> pd.DataFrame:
        """Return the newest versions (DiaObjectLast columns) whose pixel is in the cover of the region."""
        objects = objects_in_region(self._connection, published_schema(), region)
        self._last = dict(zip(objects.diaObjectId.tolist(), objects.lastDiaSourceMjdTai.tolist(), strict=True))
        return objects

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

    def load_lacking(self, object_ids: Sequence[int] | I64) -> pd.DataFrame:
        """Return the keys of the DiaForcedSources of objects, ids of shape (N,), whose fit lacked light (`tasks.lacking`)."""
        return lacking_of(self._connection, np.asarray(object_ids, np.int64))

    def _history(self, table: str, object_ids: Sequence[int] | I64, visit_mjd: float, order: str) -> pd.DataFrame:
        frame = history_of_objects(
            self._connection, published_schema(), table, object_ids, visit_mjd - HISTORY_DAYS, withdrawn=False
        )
        return frame.sort_values(["diaObjectId", "midpointMjdTai", order]).reset_index(drop=True)

    def contains_visit(self, visit: int, detector: int) -> bool:
        """Return whether rows of the (visit, detector) exist already."""
        return visit_is_stored(self._connection, visit, detector)

    def sources_of(self, visit: int, detector: int) -> pd.DataFrame:
        """Return the DiaSources of a (visit, detector) that are not withdrawn, in order of id."""
        return sources_of_visit(self._connection, published_schema(), visit, detector)

    def repeated_sources(self, object_ids: Sequence[int] | I64, visit_mjd: float) -> dict[int, int]:
        """Return, of objects with sources from longer ago than `HISTORY_DAYS` before the visit, how many of these repeat a visit."""
        ids = [int(i) for i in object_ids]
        return repeated_sources(self._connection, ids, visit_mjd - HISTORY_DAYS) if ids else {}

    def remove_visit(self, visit: int, detector: int, mjd_tai: float, reason: str = "processed anew") -> int:
        """Take back what an earlier processing of the visit stored, as `apdb.visit.take_back`; returns how many rows.

        Its objects are made anew at once: what is loaded afterwards is as if the visit had never been. What is stored
        afterwards is in its place; audit and replication are told at the commit.
        """
        connection, schema = self._connection, published_schema()
        taken = take_back.take_back(connection, schema, visit, detector, mjd_tai)
        self._taken, self._reason = take_back.renew_objects(connection, schema, taken), reason
        return taken.count

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
        connection, schema = self._connection, published_schema()
        rows = prepare(schema, mjd_tai, objects, sources, forced, of=of)
        if self._taken is not None:
            free_ids(connection, rows, self._taken.visit, self._taken.detector)
            self._replacement = rows
        if not store_rows(connection, rows):
            return
        if forced_flags is not None:  # before means are made anew, which leave out what lacks light
            copy_in(connection, "DiaForcedSourceFlags", forced_flags, _FLAGS)
        if self._taken is None:
            late = renew_late(connection, schema, rows, last=self._last)
        else:  # replication is told of these at the commit
            self._taken, late = take_back.renew_rest(connection, schema, self._taken, rows, self._last), ()
            self._renewed = True
        chunk = self.replica_chunk(mjd_tai)
        if chunk is not None:
            from apdb.replication.replica import store_keys
            from apdb.replication.taken_back import tell_versions

            store_keys(connection, schema, rows, chunk)
            tell_versions(connection, chunk, late)
        if ss_sources is not None:
            copy_in(connection, "SSSource", ss_sources, columns_of("SSSource"))

    def replica_chunk(self, mjd_tai: float) -> "ReplicaChunk | None":
        """Return the chunk of a processing time where replication is on."""
        query = "SELECT 1 FROM metadata WHERE name = 'version:ApdbSqlReplica'"
        if self._connection.execute(query).fetchone() is None:
            return None
        from astropy.time import Time
        from lsst.dax.apdb import ReplicaChunk

        return ReplicaChunk.make_replica_chunk(Time(mjd_tai, format="mjd", scale="tai"), CHUNK_SECONDS)

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
        return merge.merge_objects(
            self._connection, published_schema(), duplicates, mjd_tai, self.replica_chunk(mjd_tai)
        )

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
        if self._taken is not None:
            connection, schema, taken = self._connection, published_schema(), self._taken
            if not self._renewed:
                taken = take_back.renew_rest(connection, schema, taken, None)
            chunk = self.replica_chunk(taken.mjd_tai)
            take_back.settle(connection, schema, taken, self._replacement, chunk, self._reason)
        self._connection.execute("COMMIT")
        self._committed = True
