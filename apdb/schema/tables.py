"""All tables of the database as SQLAlchemy metadata: the published ones, the service's, and those of replication.

Additions to the published tables: ``pixelId`` (HTM level 20) on DiaObject, DiaObjectLast and DiaSource; monthly
partitions of DiaSource and DiaForcedSource, whose primary keys therefore hold ``midpointMjdTai``; DiaObjectLast keyed by
id alone (a store must not scan the sky).
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.types import TypeEngine

from apdb.schema.columns import PIXEL_TABLES, Column, PublishedSchema, published_schema

__all__ = ["PARTITIONED", "REPLICATED", "make_metadata", "primary_key"]

PARTITIONED = ("DiaSource", "DiaForcedSource")
REPLICATED = ("DiaObject", "DiaSource", "DiaForcedSource")
_SQL: dict[str, TypeEngine[Any]] = {
    "long": sa.BigInteger(), "int": sa.Integer(), "short": sa.SmallInteger(), "float": sa.REAL(),
    "double": sa.Double(), "boolean": sa.Boolean(), "text": sa.Text(),
}  # fmt: skip
_INDICES: dict[str, tuple[tuple[str, ...], ...]] = {
    "DiaObjectLast": (("pixelId", "pixelId"),),
    "DiaSource": (
        ("visitDetector", "visit", "detector"), ("diaObjectId", "diaObjectId"), ("pixelId", "pixelId"),
    ),
    "DiaForcedSource": (("visitDetector", "visit", "detector"),),
    "DiaObject_To_Object_Match": (("diaObjectId", "diaObjectId"), ("objectId", "objectId")),
    "SSSource": (("ssObjectId", "ssObjectId"),),
}  # fmt: skip
_NOW = sa.text("now()")
_MOMENT = sa.DateTime(timezone=True)


def make_metadata(schema: PublishedSchema | None = None, *, replica: bool = False) -> sa.MetaData:
    """Return all tables for a published schema (the standard one by default), with those of replication if asked."""
    schema = schema or published_schema()
    meta = sa.MetaData()
    for name in schema.tables:
        _published_table(meta, schema, name)
    _service_tables(meta)
    _dead_letter_table(meta)
    _side_tables(meta)
    _access_tables(meta)
    if replica:
        _replica_tables(meta, schema)
    return meta


def _sql_type(column: Column) -> TypeEngine[Any]:
    if column.datatype in ("char", "string"):
        return sa.String(column.length)
    return _SQL[column.datatype]


def _sa_column(column: Column) -> sa.Column[Any]:
    return sa.Column(
        column.name, _sql_type(column), nullable=column.nullable, autoincrement=False, server_default=column.default
    )


def primary_key(schema: PublishedSchema, table: str) -> tuple[str, ...]:
    """Return the columns of the primary key in the database: partitioned tables add the partition column."""
    key = schema.keys[table]
    return (*key, "midpointMjdTai") if table in PARTITIONED else key


def _published_table(meta: sa.MetaData, schema: PublishedSchema, name: str) -> None:
    parts: list[sa.schema.SchemaItem] = [_sa_column(c) for c in schema.columns(name)]
    if name in PIXEL_TABLES:
        parts.append(sa.Column("pixelId", sa.BigInteger, nullable=False))
    key = primary_key(schema, name)
    if key:
        parts.append(sa.PrimaryKeyConstraint(*key, name=f"PK_{name}"))
    options: dict[str, Any] = {}
    if name in PARTITIONED:
        options = {"postgresql_partition_by": 'RANGE ("midpointMjdTai")'}
        parts.append(sa.Index(f"IDX_{name}_midpoint", "midpointMjdTai", postgresql_using="brin"))
    if name == "DiaObjectLast":
        options = {"postgresql_with": {"fillfactor": 85}}
    if name == "DiaObject":
        # versions come in order of time, and a B-tree on their places would cost each store more than it ever gives
        condition = sa.text('"validityEndMjdTai" IS NULL')
        parts.append(sa.Index("IDX_DiaObject_open", "diaObjectId", unique=True, postgresql_where=condition))
        parts.append(sa.Index("IDX_DiaObject_validityStart", "validityStartMjdTai", postgresql_using="brin"))
    if name == "DiaSource":
        some = sa.text('"ssObjectId" IS NOT NULL')
        parts.append(sa.Index("IDX_DiaSource_ssObjectId", "ssObjectId", postgresql_where=some))
    held = {c.name for c in schema.stored_columns(name)}
    parts += [sa.Index(f"IDX_{name}_{label}", *cols) for label, *cols in _INDICES.get(name, ()) if held >= set(cols)]
    sa.Table(name, meta, *parts, **options)


def _visit_key() -> list[sa.Column[Any]]:
    return [sa.Column("visit", sa.BigInteger, nullable=False), sa.Column("detector", sa.SmallInteger, nullable=False)]


def _service_tables(meta: sa.MetaData) -> None:
    """Metadata, ledger (the queue), leases and outbox."""
    sa.Table(
        "metadata", meta, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    sa.Table(
        "VisitLedger", meta, *_visit_key(), sa.Column("instrument", sa.Text, nullable=False),
        sa.Column("message", pg.JSONB, nullable=False), sa.Column("messageHash", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False), sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("release", sa.Integer, nullable=False, server_default="0"),
        sa.Column("nextAt", _MOMENT, nullable=False, server_default=_NOW), sa.Column("errorCode", sa.Text),
        sa.Column("errorText", sa.Text), sa.Column("midpointMjdTai", sa.Double), sa.Column("band", sa.Text),
        sa.Column("region", pg.ARRAY(sa.BigInteger)), sa.Column("counts", pg.JSONB), sa.Column("seconds", pg.JSONB),
        sa.Column("configHash", sa.Text), sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("updatedAt", _MOMENT, nullable=False, server_default=_NOW), sa.Column("finishedAt", _MOMENT),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitLedger"),
        sa.Index("IDX_VisitLedger_queue", "state", "priority", "midpointMjdTai"),
    )  # fmt: skip
    sa.Table(
        "VisitLease", meta, *_visit_key(), sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False), sa.Column("until", _MOMENT, nullable=False),
        sa.Column("backend", sa.Integer), sa.Column("backendStart", _MOMENT),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitLease"),
    )  # fmt: skip
    sa.Table(
        "AlertOutbox", meta, sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True), *_visit_key(),
        sa.Column("attempt", sa.Integer, nullable=False), sa.Column("file", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False), sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW), sa.Column("publishOrder", sa.BigInteger),
        sa.Column("publishedAt", _MOMENT), sa.Column("heldReason", sa.Text), sa.Column("droppedAt", _MOMENT),
        sa.Column("alertIndex", sa.LargeBinary), sa.Column("idXor", sa.BigInteger), sa.Column("traceparent", sa.Text),
        sa.Column("shutterCloseMjdTai", sa.Double),
        sa.Column("publishedCount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("publishStartedAt", _MOMENT), sa.Column("secondsSinceShutterClose", sa.Double),
        sa.Column("topicCount", sa.Integer, nullable=False, server_default="0"),
        sa.Column("topicXor", sa.BigInteger, nullable=False, server_default="0"),
        sa.UniqueConstraint("visit", "detector", "attempt", name="UQ_AlertOutbox_attempt"),
        sa.Index("IDX_AlertOutbox_unpublished", "id", postgresql_where=sa.text('"publishedAt" IS NULL')),
        sa.Index("IDX_AlertOutbox_order", "publishOrder", unique=True),
    )  # fmt: skip
    sa.Sequence("AlertPublishOrder", metadata=meta)
    sa.Table(
        "AlertTopicOffset", meta, sa.Column("topic", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False), sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("caughtUpAt", _MOMENT),
        sa.PrimaryKeyConstraint("topic", "partition", name="PK_AlertTopicOffset"),
    )  # fmt: skip
    sa.Table(
        "AlertSchemaId", meta, sa.Column("registry", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False), sa.Column("schemaId", sa.Integer, nullable=False),
        sa.Column("wireId", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("registry", "subject", "schemaId", name="PK_AlertSchemaId"),
    )  # fmt: skip


def _dead_letter_table(meta: sa.MetaData) -> None:
    """Visit messages that could not be entered."""
    sa.Table(
        "DeadLetter", meta, sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("topic", sa.Text, nullable=False), sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False), sa.Column("digest", sa.Text, nullable=False),
        sa.Column("key", sa.LargeBinary), sa.Column("value", sa.LargeBinary),
        sa.Column("headers", pg.JSONB, nullable=False), sa.Column("sentAt", _MOMENT),
        sa.Column("errorCode", sa.Text, nullable=False), sa.Column("errorText", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False), sa.Column("topicError", sa.Text), sa.Column("publishedAt", _MOMENT),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("updatedAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.UniqueConstraint("topic", "partition", "offset", "digest", name="UQ_DeadLetter_place"),
        sa.Index("IDX_DeadLetter_state", "state", "id"),
    )  # fmt: skip


def _side_tables(meta: sa.MetaData) -> None:
    """What the published tables have no place for: flags, quality, what was stored, what was changed, the archive."""
    sa.Table(
        "DiaForcedSourceFlags", meta, sa.Column("diaObjectId", sa.BigInteger, nullable=False), *_visit_key(),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("diaObjectId", "visit", "detector", name="PK_DiaForcedSourceFlags"),
    )  # fmt: skip
    sa.Table(
        "VisitQuality", meta, *_visit_key(), sa.Column("metrics", pg.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitQuality"),
    )  # fmt: skip
    sa.Table(
        "StoreLedger", meta, sa.Column("contentHash", sa.Text, nullable=False),
        sa.Column("visit", sa.BigInteger), sa.Column("detector", sa.SmallInteger),
        sa.Column("visitTimeMjdTai", sa.Double, nullable=False), sa.Column("nObjects", sa.Integer, nullable=False),
        sa.Column("nSources", sa.Integer, nullable=False), sa.Column("nForcedSources", sa.Integer, nullable=False),
        sa.Column("storedAt", _MOMENT, nullable=False, server_default=_NOW), sa.Column("sourceIds", pg.INT8RANGE),
        sa.PrimaryKeyConstraint("contentHash", name="PK_StoreLedger"),
        sa.Index("IDX_StoreLedger_visitDetector", "visit", "detector"),
        sa.Index("IDX_StoreLedger_sourceIds", "sourceIds", postgresql_using="gist"),
    )  # fmt: skip
    sa.Table(
        "ApdbAudit", meta, sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", _MOMENT, nullable=False, server_default=_NOW), sa.Column("action", sa.Text, nullable=False),
        sa.Column("tableName", sa.Text, nullable=False), sa.Column("count", sa.Integer, nullable=False),
        sa.Column("detail", pg.JSONB, nullable=False),
        sa.Column("by", sa.Text, nullable=False, server_default=sa.text("CURRENT_USER")),
    )  # fmt: skip
    sa.Table(
        "ApdbArchive", meta, sa.Column("partition", sa.Text, nullable=False),
        sa.Column("tableName", sa.Text, nullable=False), sa.Column("beginMjdTai", sa.Double, nullable=False),
        sa.Column("endMjdTai", sa.Double, nullable=False), sa.Column("file", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False), sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False), sa.Column("archivedAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("generation", sa.Integer, nullable=False), sa.Column("relation", sa.Text),
        sa.PrimaryKeyConstraint("partition", "generation", name="PK_ApdbArchive"),
    )  # fmt: skip


def _access_tables(meta: sa.MetaData) -> None:
    """Who may do what: tokens (their hashes), what was done and by whom, what each principal used in a day."""
    sa.Table(
        "AccessToken", meta, sa.Column("tokenId", sa.Text, nullable=False), sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False), sa.Column("scopes", pg.ARRAY(sa.Text), nullable=False),
        sa.Column("createdAt", _MOMENT, nullable=False, server_default=_NOW),
        sa.Column("createdBy", sa.Text, nullable=False), sa.Column("expiresAt", _MOMENT, nullable=False),
        sa.Column("lastUsedAt", _MOMENT), sa.Column("revokedAt", _MOMENT), sa.Column("revokedBy", sa.Text),
        sa.PrimaryKeyConstraint("tokenId", name="PK_AccessToken"), sa.UniqueConstraint("hash", name="UQ_AccessToken_hash"),
    )  # fmt: skip
    sa.Table(
        "AccessAudit", meta, sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", _MOMENT, nullable=False, server_default=_NOW), sa.Column("principal", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False), sa.Column("target", sa.Text), sa.Column("status", sa.SmallInteger),
        sa.Column("address", sa.Text), sa.Column("requestId", sa.Text), sa.Column("detail", pg.JSONB),
        sa.Index("IDX_AccessAudit_principal", "principal", "at"),
    )  # fmt: skip
    sa.Table(
        "AccessUsage", meta, sa.Column("principal", sa.Text, nullable=False), sa.Column("day", sa.Date, nullable=False),
        sa.Column("visits", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("principal", "day", name="PK_AccessUsage"),
    )  # fmt: skip


def _replica_tables(meta: sa.MetaData, schema: PublishedSchema) -> None:
    """The chunk tables: keys only, joined to the rows when they are read; deleting a chunk deletes its keys."""
    sa.Table(
        "ApdbReplicaChunks", meta, sa.Column("apdb_replica_chunk", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last_update_time", _MOMENT, nullable=False), sa.Column("unique_id", pg.UUID, nullable=False),
    )  # fmt: skip

    def chunk() -> sa.Column[Any]:
        target = sa.ForeignKey("ApdbReplicaChunks.apdb_replica_chunk", ondelete="CASCADE", onupdate="CASCADE")
        return sa.Column("apdb_replica_chunk", sa.BigInteger, target, nullable=False)

    for name in REPLICATED:
        key = primary_key(schema, name)
        types = {c.name: _sql_type(c) for c in schema.columns(name)}
        sa.Table(
            f"{name}Chunks", meta, chunk(), *(sa.Column(k, types[k], nullable=False) for k in key),
            sa.PrimaryKeyConstraint(*key, name=f"PK_{name}Chunks"),
            sa.Index(f"{name}Chunks_apdb_replica_chunk_idx", "apdb_replica_chunk"),
        )  # fmt: skip
    order = ("apdb_replica_chunk", "update_time_ns", "update_order", "update_unique_id")
    sa.Table(
        "ApdbUpdateRecordChunks", meta, chunk(), sa.Column("update_time_ns", sa.BigInteger, nullable=False),
        sa.Column("update_order", sa.Integer, nullable=False), sa.Column("update_unique_id", pg.UUID, nullable=False),
        sa.Column("update_payload", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(*order, name="PK_ApdbUpdateRecordChunks"),
    )  # fmt: skip
