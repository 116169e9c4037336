"""Frames as a stream of bytes: JSON, CSV, Parquet or VOTable, in memory of one frame whatever the length.

VOTables are written as BINARY2 (VOTable 1.4, section 5.4): its rows are laid out by numpy, with the flags of NULLs.
"""

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb.queries import Query
from apdb.schema.columns import Column
from tasks.arrays import Flags

__all__ = ["FORMATS", "MEDIA_TYPES", "empty_votable", "error_votable", "vo_type", "write"]

MEDIA_TYPES = {
    "json": "application/json", "csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet",
    "votable": "application/x-votable+xml",
}  # fmt: skip
_VO_TYPES = {"long": ("long", ">i8"), "int": ("int", ">i4"), "short": ("short", ">i2"), "float": ("float", ">f4"),
             "double": ("double", ">f8"), "boolean": ("boolean", "S1")}  # fmt: skip
# Simple Cone Search 1.03 asks for these names of the first version of UCDs
CONE_UCDS = {"diaObjectId": "ID_MAIN", "ra": "POS_EQ_RA_MAIN", "dec": "POS_EQ_DEC_MAIN"}


def write(kind: str, frames: Iterator[pd.DataFrame], query: Query) -> Iterator[bytes]:
    """Yield the answer of a query in one of the formats."""
    return FORMATS[kind](frames, query)


def _json(frames: Iterator[pd.DataFrame], query: Query) -> Iterator[bytes]:
    """``{"columns": [...], "rows": [{...}, ...], "count": n, "next": key of the last row when there may be more}``."""
    described = [{"name": c.name, "datatype": c.datatype, "unit": c.unit} for c in query.columns]
    yield f'{{"columns": {json.dumps(described)}, "rows": ['.encode()
    count, last = 0, None
    for frame in frames:
        if frame.empty:
            continue
        body = frame.to_json(orient="records", double_precision=15)
        yield (b"" if count == 0 else b",") + body[1:-1].encode()
        count += len(frame)
        last = _place(frame, query.key)
    more = json.dumps(last if count >= query.limit else None)
    yield f'], "count": {count}, "next": {more}}}'.encode()


def _place(frame: pd.DataFrame, key: str | tuple[str, ...] | None) -> int | str | None:
    """Return where the next page goes on: the last value of a column, or those of several separated by commas."""
    if key is None:
        return None
    if isinstance(key, str):
        return int(frame[key].iloc[-1])
    return ",".join(str(int(frame[name].iloc[-1])) for name in key)


def _csv(frames: Iterator[pd.DataFrame], query: Query) -> Iterator[bytes]:
    for k, frame in enumerate(frames):
        yield frame.to_csv(index=False, header=k == 0).encode()


def _parquet(frames: Iterator[pd.DataFrame], query: Query) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from apdb.schema.arrow import arrow_schema

    schema, sink, writer = arrow_schema(query.columns), io.BytesIO(), None
    for frame in frames:
        table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(table)
        yield sink.getvalue()
        # the writer goes on counting from the beginning of the file: keep its place, drop the bytes
        sink.seek(0)
        sink.truncate()
    if writer is not None:  # there is always one frame, if an empty one
        writer.close()
        yield sink.getvalue()


def _vo_head(query: Query) -> str:
    fields = "\n".join(_vo_field(c) for c in query.columns)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">\n<RESOURCE type="results">\n'
        '<COOSYS ID="sky" system="ICRS"/>\n<INFO name="QUERY_STATUS" value="OK"/>\n'
        f"<TABLE name={quoteattr(query.name)}>\n{fields}\n"
    )


def vo_type(column: Column) -> tuple[str, str]:
    """Return the datatype of a column in VOTables, and its arraysize; none of a scalar."""
    scalar_type = _VO_TYPES.get(column.datatype)
    return ("char", str(column.length or 64)) if scalar_type is None else (scalar_type[0], "")


def _vo_field(column: Column) -> str:
    name, size = vo_type(column)
    kind = f'datatype="{name}" arraysize="{size}"' if size else f'datatype="{name}"'
    extra = f" unit={quoteattr(column.unit)}" if column.unit else ""
    extra += f" ucd={quoteattr(CONE_UCDS[column.name])}" if column.name in CONE_UCDS else ""
    words = f"<DESCRIPTION>{escape(column.description)}</DESCRIPTION>" if column.description else ""
    return f"<FIELD name={quoteattr(column.name)} {kind}{extra}>{words}</FIELD>"


def _votable(frames: Iterator[pd.DataFrame], query: Query) -> Iterator[bytes]:
    yield (_vo_head(query) + '<DATA><BINARY2><STREAM encoding="base64">\n').encode()
    left, count = b"", 0
    for frame in frames:
        data = left + _vo_rows(frame, query.columns)
        count += len(frame)
        full_triples = len(data) // 3 * 3
        left = data[full_triples:]
        yield base64.b64encode(data[:full_triples])
    status = '<INFO name="QUERY_STATUS" value="OVERFLOW"/>\n' if count >= query.limit else ""
    yield base64.b64encode(left)
    yield f"\n</STREAM></BINARY2></DATA></TABLE>\n{status}</RESOURCE>\n</VOTABLE>\n".encode()


def _vo_rows(frame: pd.DataFrame, columns: Sequence[Column]) -> bytes:
    """Lay out rows: one bit of NULL for each column, then the values, most significant byte first."""
    n = len(frame)
    kinds = [_VO_TYPES.get(c.datatype, ("char", f"S{c.length or 64}"))[1] for c in columns]
    rows = np.zeros(
        n, np.dtype([("nulls", np.uint8, ((len(columns) + 7) // 8,)), *((f"v{k}", t) for k, t in enumerate(kinds))])
    )
    nulls = np.zeros((n, len(columns)), bool)
    for k, c in enumerate(columns):
        series = frame[c.name]
        nulls[:, k] = series.isna()
        rows[f"v{k}"] = _vo_values(series, c, nulls[:, k], kinds[k])
    rows["nulls"] = np.packbits(nulls, axis=1)
    return rows.tobytes()


def _vo_values(series: "pd.Series[Any]", column: Column, null: Flags, kind: str) -> NDArray[Any]:
    if column.datatype == "boolean":
        flags = series.fillna(False).to_numpy(bool)
        return np.where(null, b"?", np.where(flags, b"T", b"F"))
    if column.dtype == object:
        return series.fillna("").astype(str).str.encode("utf-8").to_numpy().astype(kind)
    if column.dtype.kind == "f":
        return series.to_numpy()
    return series.fillna(0).to_numpy(column.dtype)


def empty_votable(query: Query) -> bytes:
    """Return the description of a table without rows."""
    return (_vo_head(query) + "</TABLE>\n</RESOURCE>\n</VOTABLE>\n").encode()


def error_votable(text: str) -> bytes:
    """Return the answer that Simple Cone Search prescribes for a request that cannot be met."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">\n'
        f'<INFO ID="Error" name="Error" value={quoteattr(text)}/>\n'
        f'<RESOURCE type="results"><INFO name="QUERY_STATUS" value="ERROR">{escape(text)}</INFO></RESOURCE>\n</VOTABLE>\n'
    ).encode()


FORMATS: dict[str, Callable[[Iterator[pd.DataFrame], Query], Iterator[bytes]]] = {
    "json": _json, "csv": _csv, "parquet": _parquet, "votable": _votable,
}  # fmt: skip
