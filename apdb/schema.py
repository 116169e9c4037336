"""The tables: generated from the published APDB schema (``lsst-sdm-schemas`` through felis), plus our own.

Additions to the published tables: ``pixelId`` (HTM level 20) on DiaObject, DiaObjectLast and DiaSource; monthly
partitions of DiaSource and DiaForcedSource, whose primary keys therefore hold ``midpointMjdTai``.
"""

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
import yaml
from sqlalchemy.dialects import postgresql as pg

__all__ = ["APDB_TABLES", "SCHEMA_VERSION", "Column", "columns_of", "empty_frame", "make_metadata"]

SCHEMA_VERSION = "10.0.0"
APDB_TABLES = ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource", "DiaObject_To_Object_Match", "SSSource")
_PIXEL_TABLES = ("DiaObject", "DiaObjectLast", "DiaSource")
_PARTITIONED = ("DiaSource", "DiaForcedSource")
_NUMPY: dict[str, np.dtype[Any]] = {
    "long": np.dtype(np.int64), "int": np.dtype(np.int32), "short": np.dtype(np.int16), "float": np.dtype(np.float32),
    "double": np.dtype(np.float64), "boolean": np.dtype(np.bool_), "char": np.dtype(object),
    "string": np.dtype(object), "text": np.dtype(object),
}  # fmt: skip
_SQL: dict[str, Any] = {
    "long": sa.BigInteger(), "int": sa.Integer(), "short": sa.SmallInteger(), "float": sa.REAL(),
    "double": sa.Double(), "boolean": sa.Boolean(), "text": sa.Text(),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of the published schema."""

    name: str
    datatype: str
    nullable: bool
    length: int | None
    unit: str
    description: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the column in memory (object for text)."""
        return _NUMPY[self.datatype]


@lru_cache(maxsize=1)
def _published() -> dict[str, tuple[tuple[Column, ...], tuple[str, ...]]]:
    text = (files("lsst.sdm.schemas") / "apdb.yaml").read_text(encoding="utf-8")
    document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if document["version"] != SCHEMA_VERSION:
        raise RuntimeError(f"apdb.yaml has version {document['version']}, this program knows {SCHEMA_VERSION}")
    out = {}
    for table in document["tables"]:
        key = table.get("primaryKey", [])
        names = tuple(k.split(".")[-1].lstrip("#") for k in ([key] if isinstance(key, str) else key))
        columns = tuple(
            Column(
                c["name"], c["datatype"], bool(c.get("nullable", True)) and c["name"] not in names, c.get("length"),
                str(c.get("fits:tunit", c.get("ivoa:unit", ""))), " ".join(str(c.get("description", "")).split()),
            )
            for c in table["columns"]
        )  # fmt: skip
        out[table["name"]] = (columns, names)
    return out


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the published columns of a table, in order (without ``pixelId``)."""
    return _published()[table][0]


def empty_frame(table: str) -> pd.DataFrame:
    """Return a frame without rows that has the table's columns and types."""
    return pd.DataFrame({c.name: pd.Series(dtype=c.dtype) for c in columns_of(table)})


def _sql_type(column: Column) -> Any:
    if column.datatype in ("char", "string"):
        return sa.String(column.length)
    return _SQL[column.datatype]


def make_metadata() -> sa.MetaData:
    """Return all tables of the database as SQLAlchemy metadata."""
    meta = sa.MetaData()
    for name in APDB_TABLES:
        columns, key = _published()[name]
        if name in _PARTITIONED:
            key = (*key, "midpointMjdTai")
        parts: list[sa.schema.SchemaItem] = [
            sa.Column(c.name, _sql_type(c), nullable=c.nullable, autoincrement=False) for c in columns
        ]
        if name in _PIXEL_TABLES:
            parts.append(sa.Column("pixelId", sa.BigInteger, nullable=False))
        if key:
            parts.append(sa.PrimaryKeyConstraint(*key, name=f"PK_{name}"))
        options: dict[str, Any] = (
            {"postgresql_partition_by": 'RANGE ("midpointMjdTai")'} if name in _PARTITIONED else {}
        )
        if name == "DiaObjectLast":
            options = {"postgresql_with": {"fillfactor": 85}}
        sa.Table(name, meta, *parts, *_indices(name), **options)
    _service_tables(meta)
    return meta


def _indices(table: str) -> list[sa.Index]:
    wanted: dict[str, list[tuple[str, ...]]] = {
        "DiaObject": [("validityStart", "validityStartMjdTai"), ("pixelId", "pixelId")],
        "DiaObjectLast": [("pixelId", "pixelId")],
        "DiaSource": [
            ("visitDetector", "visit", "detector"), ("diaObjectId", "diaObjectId"), ("ssObjectId", "ssObjectId"),
            ("pixelId", "pixelId"),
        ],
        "DiaForcedSource": [("visitDetector", "visit", "detector")],
        "DiaObject_To_Object_Match": [("diaObjectId", "diaObjectId"), ("objectId", "objectId")],
        "SSSource": [("ssObjectId", "ssObjectId")],
    }  # fmt: skip
    out = [sa.Index(f"IDX_{table}_{name}", *cols) for name, *cols in wanted.get(table, [])]
    if table == "DiaObject":
        condition = sa.text('"validityEndMjdTai" IS NULL')
        out.append(sa.Index("IDX_DiaObject_open", "diaObjectId", unique=True, postgresql_where=condition))
    return out


def _service_tables(meta: sa.MetaData) -> None:
    """Ledger (the queue), leases, outbox, metadata and the side tables."""
    now = sa.text("now()")
    moment = sa.DateTime(timezone=True)

    def key() -> list[Any]:
        return [
            sa.Column("visit", sa.BigInteger, nullable=False),
            sa.Column("detector", sa.SmallInteger, nullable=False),
        ]

    sa.Table(
        "metadata", meta, sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False)
    )
    sa.Table(
        "VisitLedger", meta, *key(), sa.Column("instrument", sa.Text, nullable=False),
        sa.Column("message", pg.JSONB, nullable=False), sa.Column("messageHash", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False), sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("release", sa.Integer, nullable=False, server_default="0"),
        sa.Column("nextAt", moment, nullable=False, server_default=now), sa.Column("errorCode", sa.Text),
        sa.Column("errorText", sa.Text), sa.Column("midpointMjdTai", sa.Double), sa.Column("band", sa.Text),
        sa.Column("region", pg.ARRAY(sa.BigInteger)), sa.Column("counts", pg.JSONB), sa.Column("seconds", pg.JSONB),
        sa.Column("configHash", sa.Text), sa.Column("createdAt", moment, nullable=False, server_default=now),
        sa.Column("updatedAt", moment, nullable=False, server_default=now), sa.Column("finishedAt", moment),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitLedger"),
        sa.Index("IDX_VisitLedger_queue", "state", "priority", "midpointMjdTai"),
    )  # fmt: skip
    sa.Table(
        "VisitLease", meta, *key(), sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text, nullable=False), sa.Column("until", moment, nullable=False),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitLease"),
    )  # fmt: skip
    sa.Table(
        "AlertOutbox", meta, sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True), *key(),
        sa.Column("attempt", sa.Integer, nullable=False), sa.Column("file", sa.Text, nullable=False),
        sa.Column("count", sa.Integer, nullable=False), sa.Column("checksum", sa.Text, nullable=False),
        sa.Column("createdAt", moment, nullable=False, server_default=now), sa.Column("publishOrder", sa.BigInteger),
        sa.Column("publishedAt", moment),
        sa.UniqueConstraint("visit", "detector", "attempt", name="UQ_AlertOutbox_attempt"),
        sa.Index("IDX_AlertOutbox_unpublished", "id", postgresql_where=sa.text('"publishedAt" IS NULL')),
        sa.Index("IDX_AlertOutbox_order", "publishOrder", unique=True),
    )  # fmt: skip
    sa.Table(
        "DiaForcedSourceFlags", meta, sa.Column("diaObjectId", sa.BigInteger, nullable=False), *key(),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("diaObjectId", "visit", "detector", name="PK_DiaForcedSourceFlags"),
    )  # fmt: skip
    sa.Table(
        "VisitQuality", meta, *key(), sa.Column("metrics", pg.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("visit", "detector", name="PK_VisitQuality"),
    )  # fmt: skip
