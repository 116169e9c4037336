"""Files of sky positions: CSV and other text, ECSV, FITS, VOTable, Parquet, all through astropy's readers."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

from exposure.io.native import open_fits
from forced.errors import BadPositions
from forced.positions import Column, sky_positions
from tasks.errors import AlertProdError

__all__ = ["read_positions"]

_FITS = (".fits", ".fit", ".fts", ".fz")
_PARQUET = (".parquet", ".pq")
_VOTABLE = (".vot", ".votable", ".xml")


def read_positions(path: Path) -> pd.DataFrame:
    """Return id, ra, dec (ICRS deg) of a file; see `forced.positions.sky_positions` for what its columns may be.

    Raises
    ------
    BadPositions
        The file cannot be read as a table, or a column is missing or wrong; the message names file, column and rows.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)  # of VOTables that break some rule, units nobody knows
            columns = _columns(path)
    except AlertProdError:
        raise
    except FileNotFoundError as error:
        raise BadPositions(f"{path} does not exist") from error
    except Exception as error:  # every reader has its own ways to refuse
        text = str(error).strip().splitlines()
        raise BadPositions(
            f"{path.name} cannot be read as a table: {text[0] if text else type(error).__name__}"
        ) from error
    return sky_positions(columns, path.name)


def _columns(path: Path) -> list[Column]:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind in _PARQUET:
        frame = pd.read_parquet(path, dtype_backend="pyarrow").reset_index()
        return [Column(str(n), _of_arrow(frame[n])) for n in frame]
    if kind in _FITS:
        with open_fits(path) as hdus:
            tables = [
                k
                for k, h in enumerate(hdus)
                if h.header.get("XTENSION", "").strip() in ("BINTABLE", "TABLE") and "ZIMAGE" not in h.header
            ]
            if tables:
                return _of_table(Table.read(hdus, format="fits", hdu=tables[0]))
        raise BadPositions(f"{path.name} holds no table")
    if kind in _VOTABLE:
        return _of_table(Table.read(path, format="votable"))
    return _of_table(_text_table(path))


def _text_table(path: Path) -> Table:
    """Read a text table; ECSV is known by its first line, whatever the name. Whole numbers keep all of their digits."""
    import gzip

    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as file:
        text = file.read().decode("utf-8-sig", "replace")
    if text.startswith("# %ECSV"):
        return Table.read(text.splitlines(), format="ascii.ecsv")
    if not text.strip():
        raise BadPositions(f"{path.name} is empty")
    head = next(line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    separator = max(",;\t|", key=head.count)
    if head.count(separator):
        read = pd.read_csv(
            io.StringIO(text), sep=separator, dtype=str, comment="#", skipinitialspace=True, index_col=False
        )
        return _of_frame(read)
    return Table.read(text.splitlines(), format="ascii", guess=True)


def _of_frame(frame: pd.DataFrame) -> Table:
    """Return text columns as a table: blank cells are masked."""
    table = Table()
    for name in frame:
        missing = frame[name].isna().to_numpy()
        table[str(name).strip()] = np.ma.MaskedArray(frame[name].fillna("").to_numpy(str), missing)
    return table


def _of_table(table: Table) -> list[Column]:
    out = []
    for name in table.colnames:
        column = table[name]
        if hasattr(column, "icrs"):  # a column of celestial coordinates, as astropy writes them
            out += [Column("ra", column.icrs.ra.deg, "deg"), Column("dec", column.icrs.dec.deg, "deg")]
        elif column.ndim == 1:
            out.append(Column(str(name), np.ma.asarray(column), _unit(column)))
    return out


def _unit(column: Any) -> str | None:
    unit = getattr(column, "unit", None)
    return None if unit is None or not str(unit).strip() else str(unit)


def _of_arrow(series: "pd.Series[Any]") -> Any:
    missing = series.isna().to_numpy()
    kept = series[~missing].to_numpy()
    if kept.dtype.kind not in "iufb":
        return series.to_numpy(object)
    values = np.zeros(len(series), kept.dtype)
    values[~missing] = kept
    return np.ma.MaskedArray(values, missing)
