"""`PostgresApdb`: the published ``lsst.dax.apdb.Apdb`` interface on our tables. A thin front door over the modules beside it."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import astropy.time
import pandas as pd
import psycopg
from lsst.dax.apdb import Apdb, ApdbConfig, ReplicaChunk
from lsst.dax.apdb.apdbAdmin import DiaForcedSourceLocator, DiaObjectLocator, DiaSourceLocator
from lsst.dax.apdb.sql import ApdbSqlConfig
from lsst.dax.apdb.sql.apdbSqlAdmin import ApdbSqlAdmin
from lsst.sphgeom import HtmPixelization

from apdb.client.changes import ClientChanges
from apdb.client.reads import ClientReads
from apdb.errors import ApdbError
from apdb.replication.replica import store_keys
from apdb.schema.partitions import month_bounds, refuse_archived
from apdb.transactions import Transactions
from apdb.visit import changes
from apdb.visit.store import store_rows
from apdb.visit.take_back import pixels_of_visit, replace_stored
from apdb.visit_rows import VisitRows, prepare

__all__ = ["PostgresApdb", "PostgresApdbAdmin", "open"]


def open(uri: str | ApdbConfig) -> Apdb:  # the published name
    """Return a client: ours for PostgreSQL, the published ones for Cassandra and SQLite.

    Parameters
    ----------
    uri
        ``postgresql://...``, or the place of a saved configuration (a file, a URL, or ``label:NAME`` of an APDB index), or
        a configuration.

    Raises
    ------
    ApdbError
        A scheme that has no client.
    """
    if isinstance(uri, str) and uri.startswith(("postgresql", "postgres:")):
        return PostgresApdb(uri)
    config = _saved(uri) if isinstance(uri, str) else uri
    if isinstance(config, ApdbSqlConfig) and config.db_url.startswith("postgres"):
        return PostgresApdb(config)
    return Apdb.from_config(config)


def _saved(uri: str) -> ApdbConfig:
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme and scheme not in ("file", "http", "https", "s3", "gs", "resource", "mem"):
        raise ApdbError(f"no client for a database of scheme {scheme!r}: use postgresql://")
    return ApdbConfig.from_uri(uri)


class PostgresApdb(ClientReads, ClientChanges):
    """APDB client on PostgreSQL: bulk COPY both ways, idempotent store, set operations for every change.

    Parameters
    ----------
    config
        A configuration of the published SQL client, or a ``postgresql://`` URI (everything else then has its default).

    Raises
    ------
    SchemaMismatch
        The database is empty or was not made by this program.
    IncompatibleVersionError
        Its schema has another version.
    """

    @property
    def admin(self) -> "PostgresApdbAdmin":
        """Administration."""
        return PostgresApdbAdmin(self._transactions, HtmPixelization(self.config.pixelization.htm_level))

    def store(
        self,
        visit_time: astropy.time.Time,
        objects: pd.DataFrame,
        sources: pd.DataFrame | None = None,
        forced_sources: pd.DataFrame | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Store all rows of a visit in one transaction; the same rows again change nothing.

        Parameters
        ----------
        replace
            Rows of the same (visit, detector) that are there already make way: sources with the same ids are deleted, the
            others withdrawn, and the objects that they had a part in are made anew from the valid sources that they have;
            those without any are closed.

        Raises
        ------
        VisitConflict
            Rows with the same ids and another content are there, and no replacement was asked for.
        ApdbError
            The rows do not fit the tables, or what is to be replaced is in the archive.
        """
        if not isinstance(visit_time, astropy.time.Time) or not visit_time.isscalar:
            raise ApdbError(f"the time of the visit must be one astropy.time.Time, got {visit_time!r}")
        rows = prepare(self._published, float(visit_time.tai.mjd), objects, sources, forced_sources, strict=True)
        self._partitions.prepare(self._transactions.connection, rows.frames)
        chunk = None
        if self.config.enable_replica:
            chunk = ReplicaChunk.make_replica_chunk(visit_time, self.config.replica_chunk_seconds)
        self._transactions.run(
            lambda c: self._store(c, rows, chunk, replace),
            pixels=partial(_pixels_with_stored, rows) if replace else rows.pixels,
            meanwhile=lambda: rows.digest,
            repeatable=replace,  # objects that are only measured may lie where no lock is held
        )

    def _store(
        self, connection: psycopg.Connection[Any], rows: VisitRows, chunk: ReplicaChunk | None, replace: bool
    ) -> None:
        if replace:
            refuse_archived(connection, rows.days_mjd)
            replace_stored(connection, self._published, rows, chunk)
        elif store_rows(connection, rows) and chunk is not None:
            store_keys(connection, self._published, rows, chunk)


def _pixels_with_stored(rows: VisitRows, connection: psycopg.Connection[Any]) -> list[int]:
    """Return the pixels of the sky that rows need, and those of what they replace."""
    if rows.visit is None or rows.detector is None:
        return rows.pixels
    return rows.pixels_with(pixels_of_visit(connection, rows.visit, rows.detector))


class PostgresApdbAdmin(ApdbSqlAdmin):
    """Administration: partitions by name of month, deletion of records."""

    def __init__(self, transactions: Transactions, pixels: HtmPixelization) -> None:
        super().__init__(pixels)
        self._transactions = transactions

    def apdb_time_part(self, midpointMjdTai: float) -> int:
        """Return the month (YYYYMM) whose partition holds a time."""
        return int(month_bounds(midpointMjdTai)[0].replace("m", ""))

    def delete_records(
        self,
        objects: Iterable[DiaObjectLocator],
        sources: Iterable[DiaSourceLocator],
        forced_sources: Iterable[DiaForcedSourceLocator],
    ) -> None:
        """Delete objects (all versions), and the given sources and forced sources of these objects."""
        ids = {o.diaObjectId for o in objects}
        source_ids = {s.diaSourceId for s in sources if s.diaObjectId in ids}
        keys = {(f.diaObjectId, f.visit, f.detector) for f in forced_sources if f.diaObjectId in ids}
        self._transactions.run(lambda c: changes.delete_rows(c, ids, source_ids, keys))
