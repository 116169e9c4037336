"""The columns of the published tables, read from a felis file (by default the APDB schema of ``lsst-sdm-schemas``)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from apdb.errors import ApdbError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "APDB_TABLES",
    "PIXEL_COLUMN",
    "PIXEL_TABLES",
    "PUBLISHED_SCHEMA",
    "SCHEMA_VERSION",
    "Column",
    "PublishedSchema",
    "columns_of",
    "empty_frame",
    "named",
    "published_schema",
]

SCHEMA_VERSION = "10.0.0"
PUBLISHED_SCHEMA = "resource://lsst.sdm.schemas/apdb.yaml"
APDB_TABLES = ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource", "DiaObject_To_Object_Match", "SSSource")
PIXEL_TABLES = ("DiaObject", "DiaObjectLast", "DiaSource")
_NUMPY: dict[str, np.dtype[Any]] = {
    "long": np.dtype(np.int64), "int": np.dtype(np.int32), "short": np.dtype(np.int16), "float": np.dtype(np.float32),
    "double": np.dtype(np.float64), "boolean": np.dtype(np.bool_), "char": np.dtype(object),
    "string": np.dtype(object), "text": np.dtype(object),
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a published table."""

    name: str
    datatype: str
    nullable: bool
    length: int | None = None
    unit: str = ""
    description: str = ""
    default: str | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the column in memory (object for text)."""
        return _NUMPY[self.datatype]


PIXEL_COLUMN = Column("pixelId", "long", False, None, "", "HTM index, level 20")


@dataclass(frozen=True)
class PublishedSchema:
    """Columns and primary keys by table, and the version of one felis file."""

    version: str
    tables: dict[str, tuple[Column, ...]]
    keys: dict[str, tuple[str, ...]]

    def columns(self, table: str) -> tuple[Column, ...]:
        """Return the columns of a table, in order (without ``pixelId``).

        Raises
        ------
        ApdbError
            The schema has no such table.
        """
        try:
            return self.tables[table]
        except KeyError:
            raise ApdbError(f"the schema has no table {table!r}; it has {', '.join(sorted(self.tables))}") from None

    def stored_columns(self, table: str) -> tuple[Column, ...]:
        """Return the columns that the database has: the published ones and, where it is one of them, ``pixelId``."""
        return (*self.columns(table), PIXEL_COLUMN) if table in PIXEL_TABLES else self.columns(table)


def _read_text(uri: str) -> str:
    if uri.startswith("resource://"):
        package, _, name = uri.removeprefix("resource://").partition("/")
        return (files(package) / name).read_text(encoding="utf-8")
    return Path(uri).read_text(encoding="utf-8")


def _column(table: str, item: dict[str, Any], key: tuple[str, ...]) -> Column:
    if item["datatype"] not in _NUMPY:
        raise ApdbError(f"column {table}.{item['name']} has the type {item['datatype']!r}, which is not supported")
    value = item.get("value")
    return Column(
        item["name"],
        item["datatype"],
        bool(item.get("nullable", True)) and item["name"] not in key,
        item.get("length"),
        _unit(item),
        " ".join(str(item.get("description", "")).split()),
        None if value is None else str(value),
    )


def _unit(item: dict[str, Any]) -> str:
    """Return the unit of a column; the published schema leaves it out of some of its dates."""
    return str(item.get("fits:tunit", item.get("ivoa:unit", "d" if item["name"].endswith("MjdTai") else "")))


@lru_cache(maxsize=8)
def published_schema(uri: str = PUBLISHED_SCHEMA) -> PublishedSchema:
    """Read the APDB tables of a felis file (a path or ``resource://package/name``).

    Raises
    ------
    ApdbError
        A column of a type that has no place in these tables.
    RuntimeError
        The installed standard schema is not the one that this program knows.
    """
    document = yaml.load(_read_text(uri), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    version = document.get("version", "0.1.0")
    version = str(version["current"] if isinstance(version, dict) else version)
    if uri == PUBLISHED_SCHEMA and version != SCHEMA_VERSION:
        raise RuntimeError(f"apdb.yaml has version {version}, this program knows {SCHEMA_VERSION}")
    tables, keys = {}, {}
    for table in document["tables"]:
        if table["name"] not in APDB_TABLES:
            continue
        key = table.get("primaryKey", [])
        names = tuple(k.split(".")[-1].lstrip("#") for k in ([key] if isinstance(key, str) else key))
        tables[table["name"]] = tuple(_column(table["name"], c, names) for c in table["columns"])
        keys[table["name"]] = names
    return PublishedSchema(version, tables, keys)


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of a table of the standard schema, in order (without ``pixelId``)."""
    return published_schema().columns(table)


def named(columns: Iterable[Column], *names: str) -> tuple[Column, ...]:
    """Return the columns of these names, in the order of the names."""
    by_name = {c.name: c for c in columns}
    return tuple(by_name[n] for n in names)


def empty_frame(table: str) -> "pd.DataFrame":
    """Return a frame without rows that has the table's columns and types."""
    import pandas as pd  # loaded by those who want frames: the columns alone are read by every process

    return pd.DataFrame({c.name: pd.Series(dtype=c.dtype) for c in columns_of(table)})
