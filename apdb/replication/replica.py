"""Replication: chunk tables that hold keys only, and the published ``ApdbReplica`` that reads them back as rows."""

import uuid
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import astropy.time
import felis.datamodel
import numpy as np
import psycopg
from lsst.dax.apdb import ApdbReplica, ApdbTableData, ApdbTables, ReplicaChunk, VersionTuple
from lsst.dax.apdb.apdbUpdateRecord import ApdbUpdateRecord
from psycopg import sql

from apdb.copy.encode import id_array
from apdb.schema.columns import PublishedSchema
from apdb.schema.setup import APDB_REPLICA_VERSION
from apdb.schema.tables import REPLICATED, primary_key
from apdb.transactions import Transactions
from apdb.visit_rows import VisitRows

__all__ = ["PostgresReplica", "ReplicaRows", "store_chunk", "store_keys", "store_update_records"]


def store_chunk(connection: psycopg.Connection[Any], chunk: ReplicaChunk) -> None:
    """Enter the chunk, or renew its time and its unique id."""
    moment = datetime.fromtimestamp(chunk.last_update_time.unix_tai, tz=UTC)
    connection.execute(
        'INSERT INTO "ApdbReplicaChunks" (apdb_replica_chunk, last_update_time, unique_id) VALUES (%s, %s, %s) '
        "ON CONFLICT (apdb_replica_chunk) DO UPDATE SET last_update_time = excluded.last_update_time, "
        "unique_id = excluded.unique_id",
        (chunk.id, moment, chunk.unique_id),
    )


def store_keys(
    connection: psycopg.Connection[Any], schema: PublishedSchema, rows: VisitRows, chunk: ReplicaChunk
) -> None:
    """Enter the keys of what a store wrote."""
    store_chunk(connection, chunk)
    if len(rows.objects):
        connection.execute(
            'INSERT INTO "DiaObjectChunks" SELECT %s, "diaObjectId", "validityStartMjdTai" FROM "DiaObjectLast" '
            'WHERE "diaObjectId" = ANY(%s::bigint[]) ON CONFLICT ("diaObjectId", "validityStartMjdTai") DO UPDATE SET '
            "apdb_replica_chunk = excluded.apdb_replica_chunk",
            (chunk.id, id_array(rows.objects.diaObjectId.to_numpy(np.int64))),
        )
    for table, frame in rows.frames.items():
        key = primary_key(schema, table)
        arrays = sql.SQL(", ").join(
            sql.SQL("%s::{}[]").format(sql.SQL("double precision" if name.endswith("MjdTai") else "bigint"))
            for name in key
        )
        query = sql.SQL(  # the key of a row that was taken back may come again
            "INSERT INTO {} SELECT %s, k.* FROM unnest({}) k ON CONFLICT ({}) DO UPDATE SET apdb_replica_chunk = "
            "excluded.apdb_replica_chunk"
        ).format(sql.Identifier(f"{table}Chunks"), arrays, sql.SQL(", ").join(map(sql.Identifier, key)))
        connection.execute(query, (chunk.id, *(frame[name].tolist() for name in key)))


def store_update_records(
    connection: psycopg.Connection[Any], records: Sequence[ApdbUpdateRecord], chunk: ReplicaChunk
) -> None:
    """Enter update records under a chunk."""
    if not records:
        return
    store_chunk(connection, chunk)
    mark = uuid.uuid4()
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO "ApdbUpdateRecordChunks" VALUES (%s, %s, %s, %s, %s)',
            [(chunk.id, r.update_time_ns, r.update_order, mark, r.to_json()) for r in records],
        )


class ReplicaRows(ApdbTableData):
    """Rows of one table with their chunk."""

    def __init__(self, columns: Sequence[tuple[str, felis.datamodel.DataType]], rows: list[tuple[Any, ...]]) -> None:
        self._columns = tuple(columns)
        self._rows = rows

    def column_names(self) -> Sequence[str]:
        """Names in order; the chunk is the first."""
        return tuple(name for name, _ in self._columns)

    def column_defs(self) -> Sequence[tuple[str, felis.datamodel.DataType]]:
        """Names and types in order."""
        return self._columns

    def rows(self) -> Collection[tuple[Any, ...]]:
        """All rows."""
        return self._rows


class PostgresReplica(ApdbReplica):
    """The published replication interface on our tables."""

    def __init__(self, transactions: Transactions, schema: PublishedSchema, enabled: bool) -> None:
        self._transactions = transactions
        self._schema = schema
        self._enabled = enabled

    def schemaVersion(self) -> VersionTuple:
        """Version of the tables' schema."""
        return VersionTuple.fromString(self._schema.version)

    @classmethod
    def apdbReplicaImplementationVersion(cls) -> VersionTuple:
        """Version of the layout of the replication tables."""
        return VersionTuple.fromString(APDB_REPLICA_VERSION)

    def _require(self) -> None:
        if not self._enabled:
            raise ValueError("APDB is not configured for replication")

    def getReplicaChunks(self) -> list[ReplicaChunk] | None:
        """Return the chunks in order of time, None when replication is off."""
        if not self._enabled:
            return None
        query = (
            'SELECT apdb_replica_chunk, last_update_time, unique_id FROM "ApdbReplicaChunks" '
            "ORDER BY last_update_time, apdb_replica_chunk"
        )
        rows = self._transactions.run(lambda c: c.execute(query).fetchall())
        return [
            ReplicaChunk(
                id=i, last_update_time=astropy.time.Time(moment.timestamp(), format="unix_tai"), unique_id=unique
            )
            for i, moment, unique in rows
        ]

    def deleteReplicaChunks(self, chunks: Iterable[int]) -> None:
        """Forget chunks and their keys (the rows stay)."""
        self._require()
        ids = list(chunks)
        query = 'DELETE FROM "ApdbReplicaChunks" WHERE apdb_replica_chunk = ANY(%s)'
        self._transactions.run(lambda c: c.execute(query, (ids,)))

    def getTableDataChunks(self, table: ApdbTables, chunks: Iterable[int]) -> ApdbTableData:
        """Return the rows of chunks.

        Raises
        ------
        ValueError
            The table is not replicated, or replication is off.
        """
        if table.value not in REPLICATED:
            raise ValueError(f"Table {table} does not support replica chunks.")
        self._require()
        columns = self._schema.columns(table.value)
        query = sql.SQL(
            "SELECT k.apdb_replica_chunk, {} FROM {} k JOIN {} t USING ({}) WHERE k.apdb_replica_chunk = ANY(%s)"
        ).format(
            sql.SQL(", ").join(sql.Identifier("t", c.name) for c in columns),
            sql.Identifier(f"{table.value}Chunks"),
            sql.Identifier(table.value),
            sql.SQL(", ").join(map(sql.Identifier, primary_key(self._schema, table.value))),
        )
        ids = list(chunks)
        rows = self._transactions.run(lambda c: c.execute(query, (ids,)).fetchall())
        types = [("apdb_replica_chunk", felis.datamodel.DataType.long)]
        types += [(c.name, felis.datamodel.DataType(c.datatype)) for c in columns]
        return ReplicaRows(types, rows)

    def getUpdateRecordChunks(self, chunks: Iterable[int]) -> Sequence[ApdbUpdateRecord]:
        """Return the update records of chunks in order of time."""
        self._require()
        ids = list(chunks)
        query = (
            'SELECT update_time_ns, update_order, update_payload FROM "ApdbUpdateRecordChunks" '
            "WHERE apdb_replica_chunk = ANY(%s)"
        )
        rows = self._transactions.run(lambda c: c.execute(query, (ids,)).fetchall())
        return sorted(ApdbUpdateRecord.from_json(*row) for row in rows)
