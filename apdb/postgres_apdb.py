"""`PostgresApdb`: the published ``lsst.dax.apdb.Apdb`` interface on our tables. A thin front door over the modules beside it."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import astropy.time
import pandas as pd
import psycopg
from lsst.dax.apdb import (
    Apdb,
    ApdbMetadata,
    ApdbTables,
    DiaForcedSourceId,
    DiaObjectId,
    DiaSourceId,
    IncompatibleVersionError,
    ReplicaChunk,
    VersionTuple,
)  # fmt: skip
from lsst.dax.apdb.apdbAdmin import DiaForcedSourceLocator, DiaObjectLocator, DiaSourceLocator
from lsst.dax.apdb.apdbConfigFreezer import ApdbConfigFreezer
from lsst.dax.apdb.apdbSchema import ApdbSchema
from lsst.dax.apdb.apdbUpdateRecord import ApdbUpdateRecord
from lsst.dax.apdb.schema_model import Table
from lsst.dax.apdb.sql import ApdbSqlConfig
from lsst.dax.apdb.sql.apdbMetadataSql import ApdbMetadataSql
from lsst.dax.apdb.sql.apdbSqlAdmin import ApdbSqlAdmin
from lsst.sphgeom import HtmPixelization, Region
from lsst.utils.db_auth import DbAuth, DbAuthNotFoundError

from apdb import changes, reading, updates
from apdb.copy_out import select_frame
from apdb.database import Database
from apdb.errors import ApdbError, SchemaMismatch
from apdb.locks import pixels_of_positions, transaction_locks
from apdb.partitions import PartitionKeeper, month_bounds
from apdb.replica import PostgresReplica, store_keys, store_update_records
from apdb.schema import published_schema
from apdb.setup import APDB_SQL_VERSION
from apdb.storing import VisitRows, prepare, remove_stored, store_rows
from apdb.tables import make_metadata
from apdb.transactions import Transactions

__all__ = ["PostgresApdb", "PostgresApdbAdmin", "open"]

_LOG = logging.getLogger("lsst.dax.apdb.alertprod")
DAYS_PER_MONTH = 30
# the history of many objects is read by two server processes
MANY_OBJECTS = 2000
BACKENDS = 2
_DEDUP_KEY = "status:deduplication.json"
_CONFIG_KEY = "config:apdb-sql.json"
_FROZEN = (
    "enable_replica",
    "dia_object_index",
    "pixelization.htm_level",
    "pixelization.htm_index_column",
    "ra_dec_columns",
)


def open(uri: str) -> Apdb:  # the published name
    """Return a client: ours for PostgreSQL, the published ones for Cassandra and SQLite.

    Parameters
    ----------
    uri
        ``postgresql://...``, or the place of a saved configuration (a file, a URL, or ``label:NAME`` of an APDB index).

    Raises
    ------
    ApdbError
        A scheme that has no client.
    """
    if uri.startswith(("postgresql", "postgres:")):
        return PostgresApdb(uri)
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme and scheme not in ("file", "http", "https", "s3", "gs", "resource", "mem"):
        raise ApdbError(f"no client for a database of scheme {scheme!r}: use postgresql://")
    from lsst.dax.apdb import ApdbConfig

    config = ApdbConfig.from_uri(uri)
    if isinstance(config, ApdbSqlConfig) and config.db_url.startswith("postgres"):
        return PostgresApdb(config)
    return Apdb.from_config(config)


def _libpq_uri(db_url: str) -> str:
    """Return the libpq form of an SQLAlchemy URL, with credentials of the db-auth file where it has none."""
    with contextlib.suppress(DbAuthNotFoundError):
        db_url = DbAuth().getUrl(db_url)
    scheme, _, rest = db_url.partition("://")
    if scheme.partition("+")[0] not in ("postgresql", "postgres"):
        raise ApdbError(f"no client for a database of scheme {scheme!r}: use postgresql://")
    return f"postgresql://{rest}"


class PostgresApdb(Apdb):
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

    def __init__(self, config: ApdbSqlConfig | str) -> None:
        if isinstance(config, str):
            config = ApdbSqlConfig(db_url=config)
        if config.prefix:
            raise ApdbError("table prefixes are not supported: use a namespace")
        self.database = Database(_libpq_uri(config.db_url), namespace=config.namespace)
        self._transactions = Transactions(self.database)
        self._published = published_schema(config.schema_file)
        items = self._check_versions()
        self.config = ApdbConfigFreezer[ApdbSqlConfig](_FROZEN).update(config, items[_CONFIG_KEY])
        self._partitions = PartitionKeeper()

    @classmethod
    def init_database(
        cls, db_url: str, *, schema_file: str | None = None, read_sources_months: int | None = None,
        read_forced_sources_months: int | None = None, enable_replica: bool = False, namespace: str | None = None,
        drop: bool = False, **more: Any,
    ) -> ApdbSqlConfig:  # fmt: skip
        """Make all tables and return the configuration that opens them (arguments as the published SQL client's)."""
        given = {
            "schema_file": schema_file, "read_sources_months": read_sources_months,
            "read_forced_sources_months": read_forced_sources_months,
        }  # fmt: skip
        config = ApdbSqlConfig(
            db_url=db_url, enable_replica=enable_replica, namespace=namespace, dia_object_index="last_object_table",
            **{k: v for k, v in given.items() if v is not None}, **more,
        )  # fmt: skip
        database = Database(_libpq_uri(db_url), namespace=namespace)
        database.create(published_schema(config.schema_file), replica=enable_replica, drop=drop)
        return config

    def _check_versions(self) -> dict[str, str]:
        with self.database.session() as connection:
            if connection.execute("SELECT to_regclass('metadata')").fetchone() == (None,):
                raise SchemaMismatch(f"database {self.database.label} is empty: run 'alertprod apdb create'")
            items = dict(connection.execute("SELECT name, value FROM metadata").fetchall())
        if "version:alertprod" not in items:
            raise SchemaMismatch(
                f"the tables of {self.database.label} were made by another client: run 'alertprod apdb create' on an "
                "empty database or namespace"
            )
        for key, ours in (("version:schema", self._published.version), ("version:ApdbSql", APDB_SQL_VERSION)):
            theirs = items.get(key)
            if theirs is None:
                raise RuntimeError(f"Version key {key!r} does not exist in metadata table.")
            if not VersionTuple.fromString(ours).checkCompatibility(VersionTuple.fromString(theirs)):
                raise IncompatibleVersionError(f"{key} is {theirs} in the database, this client has {ours}")
        return items

    # what the database is

    def getConfig(self) -> ApdbSqlConfig:
        """Return the configuration, with what the database has frozen."""
        return self.config

    @cached_property
    def schema(self) -> ApdbSchema:
        """Published schema."""
        return ApdbSchema(self.config.schema_file, self.config.ss_schema_file)

    def tableDef(self, table: ApdbTables) -> Table | None:
        """Return the published definition of a table, None when it has none."""
        return self.schema.tableSchemas.get(table)

    @cached_property
    def metadata(self) -> ApdbMetadata:
        """Keys and values kept in the database."""
        return ApdbMetadataSql(self.database.engine(), make_metadata(self._published).tables["metadata"])

    @property
    def admin(self) -> "PostgresApdbAdmin":
        """Administration."""
        return PostgresApdbAdmin(self._transactions, HtmPixelization(self.config.pixelization.htm_level))

    def get_replica(self) -> PostgresReplica:
        """Return the replication interface of this database."""
        return PostgresReplica(self._transactions, self._published, self.config.enable_replica)

    def tableRowCount(self) -> dict[str, int]:
        """Return the number of rows by table."""
        tables = ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource")
        counts = ", ".join(f'(SELECT count(*) FROM "{t}")' for t in tables)
        row = self._transactions.run(lambda c: c.execute(f"SELECT {counts}").fetchone())
        assert row is not None
        return dict(zip(tables, row, strict=True))

    def close(self) -> None:
        """Close all connections."""
        self._transactions.close()

    # reads

    def getDiaObjects(self, region: Region) -> pd.DataFrame:
        """Return the newest versions in the pixels that cover a region."""
        wanted = self.config.dia_object_columns
        columns = self._published.columns("DiaObjectLast")
        chosen = [c for c in columns if c.name in wanted] if wanted else columns
        return self._read(
            lambda c: reading.objects_in_region(
                c, self._published, region, columns=chosen, nullable=True,
                max_ranges=self.config.pixelization.htm_max_ranges,
            )
        )  # fmt: skip

    def getDiaSources(
        self, region: Region, object_ids: Iterable[int] | None, visit_time: astropy.time.Time,
        start_time: astropy.time.Time | None = None,
    ) -> pd.DataFrame | None:  # fmt: skip
        """Return the DiaSources of objects, or of the region; the start of the window is included in both."""
        start = self._start(visit_time, start_time, self.config.read_sources_months)
        if start is None:
            return None
        if object_ids is None:
            ranges = self.config.pixelization.htm_max_ranges
            return self._read(lambda c: reading.history_in_region(c, self._published, region, start, max_ranges=ranges))
        return self._history("DiaSource", list(object_ids), start)

    def getDiaForcedSources(
        self, region: Region, object_ids: Iterable[int] | None, visit_time: astropy.time.Time,
        start_time: astropy.time.Time | None = None,
    ) -> pd.DataFrame | None:  # fmt: skip
        """Return the DiaForcedSources of objects; those of a region are the ones of the objects that are there now."""
        start = self._start(visit_time, start_time, self.config.read_forced_sources_months)
        if start is None:
            return None
        if object_ids is None:
            ranges = self.config.pixelization.htm_max_ranges

            def read(connection: psycopg.Connection[Any]) -> pd.DataFrame:
                ids = reading.objects_in_region(connection, self._published, region, max_ranges=ranges).diaObjectId
                return reading.history_of_objects(
                    connection, self._published, "DiaForcedSource", ids.to_numpy(), start, nullable=True
                )

            return self._read(read)
        return self._history("DiaForcedSource", list(object_ids), start)

    @staticmethod
    def _start(visit_time: astropy.time.Time, start: astropy.time.Time | None, months: int) -> float | None:
        if start is not None:
            return float(start.tai.mjd)
        return None if months == 0 else float(visit_time.tai.mjd) - DAYS_PER_MONTH * months

    def _history(self, table: str, ids: list[int], start: float) -> pd.DataFrame:
        backends = BACKENDS if len(ids) > MANY_OBJECTS else 1
        with self._transactions.shared_snapshot(backends) as connections:
            frame = reading.history_of_objects(connections, self._published, table, ids, start, nullable=True)
        _LOG.debug("found %d rows", len(frame))
        return frame

    def _read(self, work: Any) -> pd.DataFrame:
        frame: pd.DataFrame = self._transactions.run(work, snapshot=True)
        _LOG.debug("found %d rows", len(frame))
        return frame

    def getDiaObjectsForDedup(self, since: astropy.time.Time | None = None) -> pd.DataFrame:
        """Return the open versions that began at or after `since` (by default the last deduplication)."""
        if since is None and (kept := self.metadata.get(_DEDUP_KEY)) is not None:
            since = astropy.time.Time(json.loads(kept)["dedup_time_iso_tai"], format="iso", scale="tai")
        start = -1.0 if since is None else float(since.tai.mjd)
        wanted = {"diaObjectId", "validityStartMjdTai", *self.config.dia_object_columns_for_dedup}
        every = not self.config.dia_object_columns_for_dedup
        columns = [c for c in self._published.columns("DiaObjectLast") if every or c.name in wanted]
        rest = psycopg.sql.SQL('WHERE t."validityStartMjdTai" >= %s')
        return self._read(lambda c: select_frame(c, "DiaObjectLast", columns, rest, (start,), nullable=True))

    def getDiaSourcesForDiaObjects(
        self, objects: list[DiaObjectId], start_time: astropy.time.Time, max_dist_arcsec: float = 1.0
    ) -> pd.DataFrame:
        """Return the DiaSources of objects from a time on (no distance is needed: they are found by id)."""
        return self._history("DiaSource", [o.diaObjectId for o in objects], float(start_time.tai.mjd))

    def containsVisitDetector(
        self, visit: int, detector: int, region: Region | None = None, visit_time: astropy.time.Time | None = None
    ) -> bool:
        """Return whether the (visit, detector) was stored, also when it had no row."""
        return self._transactions.run(lambda c: reading.visit_is_stored(c, int(visit), int(detector)))

    def countUnassociatedObjects(self) -> int:
        """Return the number of objects with one source (newest versions)."""
        row = self._transactions.run(
            lambda c: c.execute('SELECT count(*) FROM "DiaObjectLast" WHERE "nDiaSources" = 1').fetchone()
        )
        assert row is not None
        return int(row[0])

    # writes

    def store(
        self, visit_time: astropy.time.Time, objects: pd.DataFrame, sources: pd.DataFrame | None = None,
        forced_sources: pd.DataFrame | None = None, *, replace: bool = False,
    ) -> None:  # fmt: skip
        """Store all rows of a visit in one transaction; the same rows again change nothing.

        Parameters
        ----------
        replace
            Rows of the same (visit, detector) that are there already make way: those with the same ids are deleted,
            the others withdrawn.

        Raises
        ------
        VisitConflict
            Rows with the same ids and another content are there, and no replacement was asked for.
        ApdbError
            The rows do not fit the tables.
        """
        rows = prepare(self._published, float(visit_time.tai.mjd), objects, sources, forced_sources)
        if rows.objects.empty:
            _LOG.debug("No objects to write to database.")
        self._partitions.prepare(self._transactions.connection, rows.keys)
        chunk = None
        if self.config.enable_replica:
            chunk = ReplicaChunk.make_replica_chunk(visit_time, self.config.replica_chunk_seconds)
        self._transactions.run(lambda c: self._store(c, rows, chunk, replace))

    def _store(
        self, connection: psycopg.Connection[Any], rows: VisitRows, chunk: ReplicaChunk | None, replace: bool
    ) -> None:
        transaction_locks(connection, pixels_of_positions(rows.pixels))
        if replace:
            remove_stored(connection, rows)
        if store_rows(connection, self._published, rows) and chunk is not None:
            store_keys(connection, self._published, rows, chunk)

    def reassignDiaSourcesToDiaObjects(
        self,
        idMap: Mapping[DiaSourceId, int],
        *,
        increment_nDiaSources: bool = True,
        decrement_nDiaSources: bool = True,
    ) -> None:
        """Move DiaSources to other DiaObjects and keep the counts of the open versions right.

        Raises
        ------
        LookupError
            A source or a target does not exist; nothing was changed.
        """
        targets = {source.diaSourceId: int(target) for source, target in idMap.items()}

        def work(connection: psycopg.Connection[Any]) -> None:
            owners = changes.objects_of_sources(connection, targets)
            if missing := targets.keys() - owners.keys():
                raise LookupError(f"Some source IDs are missing from DiaSource table: {sorted(missing)}")
            former = Counter(owner for owner in owners.values() if owner is not None)
            objects = changes.positions_and_counts(connection, set(targets.values()) | set(former))
            if missing := set(targets.values()) - objects.keys():
                raise LookupError(f"Some object IDs are missing from DiaObject table: {sorted(missing)}")
            changes.reassign_sources(connection, targets, to_solar_system=False, mjd_tai=0.0)
            steps: Counter[int] = Counter()
            if increment_nDiaSources:
                steps.update(targets.values())
            if decrement_nDiaSources:
                steps.subtract(former)
            done = changes.add_to_counts(connection, Counter({k: n for k, n in steps.items() if k in objects}))
            self._send(connection, updates.reassigned(idMap) + updates.recounted(done, objects))

        self._transactions.run(work)

    def setValidityEnd(
        self, objects: list[DiaObjectId], validityEnd: astropy.time.Time, raise_on_missing_id: bool = False
    ) -> int:
        """End the open versions of objects; returns how many were open.

        Raises
        ------
        LookupError
            `raise_on_missing_id`, and an object has no open version; nothing was changed.
        """
        at = float(validityEnd.tai.mjd)
        places = {o.diaObjectId: o for o in objects}

        def work(connection: psycopg.Connection[Any]) -> int:
            closed = changes.close_objects(connection, places, at)
            if raise_on_missing_id and (missing := places.keys() - set(closed)):
                raise LookupError(f"Some object IDs are missing from DiaObject table: {sorted(missing)}")
            self._send(connection, updates.closed(closed, {k: (o.ra, o.dec) for k, o in places.items()}, at))
            return len(closed)

        return self._transactions.run(work) if places else 0

    def resetDedup(self, dedup_time: astropy.time.Time | None = None) -> None:
        """Remember the time of the last deduplication."""
        at = self._current_time() if dedup_time is None else dedup_time
        self.metadata.set(_DEDUP_KEY, json.dumps({"dedup_time_iso_tai": at.tai.to_value("iso")}), force=True)

    def reassignDiaSources(self, idMap: Mapping[int, int]) -> None:
        """Move DiaSources to solar-system objects: their diaObjectId becomes NULL, and the objects' counts go down.

        Raises
        ------
        ValueError
            A source does not exist; nothing was changed.
        """
        targets = {int(k): int(v) for k, v in idMap.items()}
        at = float(self._current_time().tai.mjd)

        def work(connection: psycopg.Connection[Any]) -> None:
            owners = changes.objects_of_sources(connection, targets)
            if missing := targets.keys() - owners.keys():
                listed = ",".join(map(str, sorted(missing)))
                raise ValueError(f"Following DiaSource IDs do not exist in the database: {listed}")
            former = Counter(owner for owner in owners.values() if owner is not None)
            objects = changes.positions_and_counts(connection, former)
            changes.reassign_sources(connection, targets, to_solar_system=True, mjd_tai=at)
            done = changes.add_to_counts(connection, Counter({k: -n for k, n in former.items() if k in objects}))
            if self.config.enable_replica:
                self._send(
                    connection, updates.moved_to_bodies(connection, targets, at) + updates.recounted(done, objects)
                )

        self._transactions.run(work)

    def withdrawDiaSources(
        self, diaSourceIds: Iterable[DiaSourceId], *, timeWithdrawn: astropy.time.Time | None = None
    ) -> None:
        """Mark DiaSources as withdrawn; those that are already keep their time.

        Raises
        ------
        LookupError
            A source does not exist; nothing was changed.
        """
        places = {s.diaSourceId: s for s in diaSourceIds}
        at = float((self._current_time() if timeWithdrawn is None else timeWithdrawn).tai.mjd)

        def work(connection: psycopg.Connection[Any]) -> None:
            known = changes.sources_withdrawn_at(connection, places)
            if missing := places.keys() - known.keys():
                raise LookupError(f"Some source IDs are missing from DiaSource table: {sorted(missing)}")
            valid = [k for k in places if known[k] is None]
            if valid:
                changes.withdraw_sources(connection, valid, at)
            self._send(connection, updates.withdrawn([places[k] for k in valid], at))

        self._transactions.run(work)

    def withdrawDiaForcedSources(
        self, diaForcedSourceIds: Iterable[DiaForcedSourceId], *, timeWithdrawn: astropy.time.Time | None = None
    ) -> None:
        """Mark DiaForcedSources as withdrawn; those that are already keep their time.

        Raises
        ------
        LookupError
            A forced source does not exist; nothing was changed.
        """
        places = {(s.diaObjectId, s.visit, s.detector): s for s in diaForcedSourceIds}
        at = float((self._current_time() if timeWithdrawn is None else timeWithdrawn).tai.mjd)

        def work(connection: psycopg.Connection[Any]) -> None:
            known = changes.forced_withdrawn_at(connection, places)
            if missing := places.keys() - known.keys():
                raise LookupError(f"Some source IDs are missing from DiaForcedSource table: {sorted(missing)}")
            valid = [k for k in places if known[k] is None]
            if valid:
                changes.withdraw_forced(connection, valid, at)
            self._send(connection, updates.withdrawn([places[k] for k in valid], at))

        self._transactions.run(work)

    def _send(self, connection: psycopg.Connection[Any], made: list[updates.Change]) -> None:
        """Enter update records in this transaction, where replication is on."""
        if self.config.enable_replica:
            updates.send(connection, made, self._current_time(), self.config.replica_chunk_seconds)

    def store_update_records(self, update: Iterable[ApdbUpdateRecord], chunk: ReplicaChunk) -> None:
        """Enter update records of the caller under a chunk.

        Raises
        ------
        TypeError
            Replication is off.
        """
        if not self.config.enable_replica:
            raise TypeError("Replication is not enabled for this APDB instance.")
        made = list(update)
        self._transactions.run(lambda c: store_update_records(c, made, chunk))


class PostgresApdbAdmin(ApdbSqlAdmin):
    """Administration: partitions by name of month, deletion of records."""

    def __init__(self, transactions: Transactions, pixels: HtmPixelization) -> None:
        super().__init__(pixels)
        self._transactions = transactions

    def apdb_time_part(self, midpointMjdTai: float) -> int:
        """Return the month (YYYYMM) whose partition holds a time."""
        return int(month_bounds(midpointMjdTai)[0].replace("m", ""))

    def delete_records(
        self, objects: Iterable[DiaObjectLocator], sources: Iterable[DiaSourceLocator],
        forced_sources: Iterable[DiaForcedSourceLocator],
    ) -> None:  # fmt: skip
        """Delete objects (all versions), and the given sources and forced sources of these objects."""
        ids = {o.diaObjectId for o in objects}
        source_ids = {s.diaSourceId for s in sources if s.diaObjectId in ids}
        keys = {(f.diaObjectId, f.visit, f.detector) for f in forced_sources if f.diaObjectId in ids}
        self._transactions.run(lambda c: changes.delete_rows(c, ids, source_ids, keys))
