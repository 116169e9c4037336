"""Alerts as Parquet, row group by row group: the memory does not grow with their number."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from alerts.packets.schemas import SCHEMA_ID, schema

__all__ = ["arrow_schema", "write_parquet"]

ROW_GROUP = 50
_TYPES = {
    "long": pa.int64(), "int": pa.int32(), "float": pa.float32(), "double": pa.float64(), "boolean": pa.bool_(),
    "string": pa.string(), "bytes": pa.binary(),
}  # fmt: skip


def arrow_schema(schema_id: int = SCHEMA_ID) -> pa.Schema:
    """Return the Arrow schema of an alert schema: the same names, nesting and nulls.

    Raises
    ------
    AlertError
        There is no such version.
    """
    records: dict[str, Any] = {}
    return pa.schema([_field(f, records) for f in schema(schema_id)["fields"]])


def _field(field: dict[str, Any], records: dict[str, Any]) -> Any:
    options = field["type"] if isinstance(field["type"], list) else [field["type"]]
    kinds = [o for o in options if o != "null"]
    return pa.field(field["name"], _type(kinds[0], records), nullable="null" in options)


def _type(kind: Any, records: dict[str, Any]) -> Any:
    if isinstance(kind, str):
        return _TYPES[kind] if kind in _TYPES else records[kind]
    if kind["type"] == "array":
        return pa.list_(_type(kind["items"], records))
    if kind["type"] == "record":
        records[kind["name"]] = pa.struct([_field(f, records) for f in kind["fields"]])
        return records[kind["name"]]
    if kind.get("logicalType") == "timestamp-micros" or kind.get("logicalType") == "timestamp-millis":
        return pa.timestamp("us" if kind["logicalType"] == "timestamp-micros" else "ms", tz="UTC")
    return _TYPES[kind["type"]]


def write_parquet(packets: Iterable[dict[str, Any]], path: Path, schema_id: int = SCHEMA_ID) -> int:
    """Write packets, nested as they are; returns how many.

    The file appears under its name when it is whole.
    """
    columns, partial, count = arrow_schema(schema_id), path.with_name(f"{path.name}.part"), 0
    try:
        with pq.ParquetWriter(partial, columns, compression="zstd") as writer:
            for group in _groups(iter(packets)):
                writer.write_batch(pa.RecordBatch.from_pylist(group, columns))
                count += len(group)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _groups(packets: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while group := list(islice(packets, ROW_GROUP)):
        yield group
