"""Tables of sources as files: the suffix of the name says which format."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exposure.io.writing import replaced, write_table
from service.pairs.output_checks import check_format
from service.pairs.source_columns import RELIABLE

if TYPE_CHECKING:
    import pandas as pd

    from service.pairs.source_table import SourceTable

__all__ = ["astropy_table", "write_sources"]

RADIUS = 8.0  # px of the circles of a region file
_UCDS = {"id": "meta.id;meta.main", "ra": "pos.eq.ra;meta.main", "dec": "pos.eq.dec;meta.main", "x": "pos.cartesian.x",
         "y": "pos.cartesian.y", "flux": "phot.flux", "fluxErr": "stat.error;phot.flux", "mag": "phot.mag",
         "magErr": "stat.error;phot.mag", "snr": "stat.snr", "midpointMjdTai": "time.epoch"}  # fmt: skip


def write_sources(table: "SourceTable", path: Path) -> None:
    """Write a table in the format of the file's suffix (`check_format`), with units and meanings where there is room.

    What was there before is replaced when the new file is whole.
    """
    write = _WRITERS[check_format(path)]
    with replaced(path) as partial:
        write(table, partial)


def astropy_table(table: "SourceTable") -> Any:
    """Return the sources as an `astropy.table.Table` with units and descriptions."""
    from astropy.table import Table

    converted = Table({name: _plain(table.rows[name]) for name in table.columns}, meta=dict(table.meta))
    for name, column in table.columns.items():
        converted[name].description = column.meaning
        if column.unit:
            converted[name].unit = column.unit
    return converted


def _plain(series: "pd.Series[Any]") -> NDArray[Any]:
    """Return a column without objects: texts of one length."""
    return series.to_numpy() if series.dtype.kind in "biuf" else np.array(series.tolist(), dtype=np.str_)


def _csv(table: "SourceTable", path: Path) -> None:
    table.rows.to_csv(path, index=False, lineterminator="\n")


def _ecsv(table: "SourceTable", path: Path) -> None:
    astropy_table(table).write(path, format="ascii.ecsv", overwrite=True)


def _fits(table: "SourceTable", path: Path) -> None:
    rows = {name: _plain(table.rows[name]) for name in table.columns}
    write_table(path, "SOURCES", rows, table.columns, table.meta)


def _parquet(table: "SourceTable", path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrow = pa.Table.from_pandas(table.rows, preserve_index=False)
    fields = [
        field.with_metadata({"unit": table.columns[field.name].unit, "description": table.columns[field.name].meaning})
        for field in arrow.schema
    ]
    notes = {**(arrow.schema.metadata or {}), b"alertprod": json.dumps(dict(table.meta)).encode()}
    pq.write_table(arrow.cast(pa.schema(fields, metadata=notes)), path)


def _votable(table: "SourceTable", path: Path) -> None:
    from astropy.io.votable import from_table
    from astropy.io.votable.tree import CooSys

    document = from_table(astropy_table(table), table_id="sources")
    resource = document.resources[0]
    if "ra" in table.columns:
        resource.coordinate_systems.append(CooSys(ID="sky", system="ICRS"))
    for column in resource.tables[0].fields:
        if column.name in _UCDS:
            column.ucd = _UCDS[column.name]
        if column.name in ("ra", "dec"):
            column.ref = "sky"
    document.to_xml(str(path), tabledata_format="binary2")


def _regions(table: "SourceTable", path: Path) -> None:
    path.write_text("\n".join(_region_lines(table)) + "\n", encoding="ascii")


def _region_lines(table: "SourceTable") -> Iterator[str]:
    """DS9 regions: circles, green where the source is reliable, red where it is not, dashed where it became fainter."""
    rows, meta = table.rows, table.meta
    yield "# Region file format: DS9 version 4.1"
    yield 'global color=green font="helvetica 10 normal roman" select=1 edit=1 move=1 delete=1 include=1'
    on_sky = "ra" in rows
    yield "icrs" if on_sky else "physical" if meta.get("LTV1") or meta.get("LTV2") else "image"
    first, second = (rows[c].to_numpy(np.float64) for c in (("ra", "dec") if on_sky else ("x", "y")))
    radius = f'{RADIUS * meta["PIXSCALE"]:.3f}"' if on_sky else f"{RADIUS:.1f}"
    offset, digits = (0.0, 8) if on_sky else (1.0, 3)  # FITS counts pixels from 1
    score = rows["reliability"].to_numpy(np.float64) if "reliability" in rows else np.full(len(rows), np.nan)
    columns = (rows["id"], first + offset, second + offset, rows["snr"], score, rows["isNegative"])
    for number, a, b, snr, sure, fainter in zip(*columns, strict=True):
        text = f"{number}: S/N {snr:.1f}" + ("" if np.isnan(sure) else f", {sure:.2f}")
        look = (" color=red" if sure < RELIABLE else "") + (" dash=1" if fainter else "")
        yield f"circle({a:.{digits}f},{b:.{digits}f},{radius}) #{look} text={{{text}}}"


_WRITERS: dict[str, Callable[["SourceTable", Path], None]] = {
    ".csv": _csv, ".ecsv": _ecsv, ".fits": _fits, ".parquet": _parquet, ".vot": _votable, ".reg": _regions,
}  # fmt: skip
