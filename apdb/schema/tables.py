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
from apdb.schema.service_tables import add_service_tables

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
# What objects are made anew from comes first in the rows of the widest table, what is never NULL before the rest: PostgreSQL walks
# over all columns in front of one that it reads, which takes more than the reading itself where there are eighty.
_FIRST: dict[str, tuple[str, ...]] = {
    "DiaSource": (
        "diaSourceId", "visit", "midpointMjdTai", "ra", "dec", "pixelId", "detector", "timeWithdrawnMjdTai", "diaObjectId",
        "raErr", "decErr", "ra_dec_Cov", "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", "pixelFlags_edge",
        "pixelFlags_nodata", "forced_PsfFlux_flag", "band",
    ),
}  # fmt: skip
_NOW = sa.text("now()")
_MOMENT = sa.DateTime(timezone=True)


def make_metadata(schema: PublishedSchema | None = None, *, replica: bool = False) -> sa.MetaData:
    """Return all tables for a published schema (the standard one by default), with those of replication if asked."""
    schema = schema or published_schema()
    meta = sa.MetaData()
    for name in schema.tables:
        _published_table(meta, schema, name)
    add_service_tables(meta)
    _withdrawn_table(meta, schema)
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
    columns = [_sa_column(c) for c in schema.columns(name)]
    if name in PIXEL_TABLES:
        columns.append(sa.Column("pixelId", sa.BigInteger, nullable=False))
    first = {column: k for k, column in enumerate(_FIRST.get(name, ()))}
    parts: list[sa.schema.SchemaItem] = [*sorted(columns, key=lambda c: first.get(c.name, len(first)))]
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


def _withdrawn_table(meta: sa.MetaData, schema: PublishedSchema) -> None:
    """The forced sources that were taken back: their keys are free for those of the next processing."""
    sa.Table(
        "DiaForcedSourceWithdrawn",
        meta,
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        *(_sa_column(c) for c in schema.columns("DiaForcedSource")),
        sa.Column("sideFlags", sa.Integer),
        sa.Index("IDX_DiaForcedSourceWithdrawn_visit", "visit", "detector"),
    )


def _replica_tables(meta: sa.MetaData, schema: PublishedSchema) -> None:
    """The chunk tables: keys only, joined to the rows when they are read; deleting a chunk deletes its keys."""
    sa.Table(
        "ApdbReplicaChunks",
        meta,
        sa.Column("apdb_replica_chunk", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last_update_time", _MOMENT, nullable=False),
        sa.Column("unique_id", pg.UUID, nullable=False),
    )

    def chunk() -> sa.Column[Any]:
        target = sa.ForeignKey("ApdbReplicaChunks.apdb_replica_chunk", ondelete="CASCADE", onupdate="CASCADE")
        return sa.Column("apdb_replica_chunk", sa.BigInteger, target, nullable=False)

    for name in REPLICATED:
        key = primary_key(schema, name)
        types = {c.name: _sql_type(c) for c in schema.columns(name)}
        sa.Table(
            f"{name}Chunks",
            meta,
            chunk(),
            *(sa.Column(k, types[k], nullable=False) for k in key),
            sa.PrimaryKeyConstraint(*key, name=f"PK_{name}Chunks"),
            sa.Index(f"{name}Chunks_apdb_replica_chunk_idx", "apdb_replica_chunk"),
        )
    order = ("apdb_replica_chunk", "update_time_ns", "update_order", "update_unique_id")
    sa.Table(
        "ApdbUpdateRecordChunks",
        meta,
        chunk(),
        sa.Column("update_time_ns", sa.BigInteger, nullable=False),
        sa.Column("update_order", sa.Integer, nullable=False),
        sa.Column("update_unique_id", pg.UUID, nullable=False),
        sa.Column("update_payload", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint(*order, name="PK_ApdbUpdateRecordChunks"),
    )
