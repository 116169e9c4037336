"""The Arrow schema of columns, with their units and descriptions: for Parquet files of answers and of the archive."""

from collections.abc import Sequence

import pyarrow as pa

from apdb.schema.columns import Column

__all__ = ["arrow_schema"]

_TYPES = {
    "long": pa.int64(), "int": pa.int32(), "short": pa.int16(), "float": pa.float32(), "double": pa.float64(),
    "boolean": pa.bool_(),
}  # fmt: skip


def arrow_schema(columns: Sequence[Column]) -> pa.Schema:
    """Return the schema; text columns are strings."""
    return pa.schema(
        [
            pa.field(
                c.name, _TYPES.get(c.datatype, pa.string()), metadata={"unit": c.unit, "description": c.description}
            )
            for c in columns
        ]
    )
