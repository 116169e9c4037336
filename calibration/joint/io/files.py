"""Plain files that the joint fit reads: source tables, headers, summaries."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io.fits import Header
from astropy.table import Table
from pyarrow.parquet import ParquetFile

from calibration.errors import JointCalibrationError
from exposure import ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo
from exposure.errors import CardInvalid, ExposureError, FitsUnreadable, InstrumentError
from exposure.header.cards import Cards
from exposure.header.rules import TimeRule
from exposure.header.text_cards import read_cards
from exposure.io.exposure_catalog import ExposureRecord
from exposure.io.native import open_fits

__all__ = ["read_fits_table", "read_header", "read_headers", "read_parquet", "read_sources", "read_summaries"]

_NEEDED = ("IMAGEW", "IMAGEH", "VISIT", "DETECTOR", "CALMEAN")


def read_sources(paths: Iterable[Path]) -> list[pd.DataFrame]:
    """Read source tables: Parquet, CSV or FITS, one or more visits each.

    Raises
    ------
    JointCalibrationError
        A file cannot be read.
    """
    out = []
    for path in paths:
        try:
            if path.suffix == ".csv":
                out.append(pd.read_csv(path))
            elif path.suffix in (".fits", ".fit") or path.name.endswith(".fits.gz"):
                out.append(read_fits_table(path))
            else:
                out.append(read_parquet(path))
        except Exception as error:
            raise JointCalibrationError(f"the source table {path} cannot be read: {error}") from error
    return out


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a Parquet file, without the code for folders of them, which takes longer to load than a table to be read."""
    if path.is_dir():
        return pd.read_parquet(path)
    frame: pd.DataFrame = ParquetFile(path).read().to_pandas()
    return frame


def read_fits_table(path: Path, check: Callable[[Header], None] | None = None) -> pd.DataFrame:
    """Read the first table of a FITS file; errors as `exposure.io.native.open_fits` raises them.

    `check` is called with the table's header before it is read.
    """
    with open_fits(path) as hdus:
        tables = [k for k, hdu in enumerate(hdus) if hdu.header.get("XTENSION") in ("BINTABLE", "TABLE")]
        if not tables:
            raise FitsUnreadable(f"{path.name} holds no table")
        if check is not None:
            check(hdus[tables[0]].header)
        frame: pd.DataFrame = Table.read(hdus, format="fits", hdu=tables[0]).to_pandas()
    return frame


def read_header(path: Path) -> tuple[dict[str, Any], ExposureRecord]:
    """Read one header-only FITS file.

    Returns
    -------
    row, record
        Plain columns, and WCS, calibration and visit information.

    Raises
    ------
    JointCalibrationError
        The file cannot be read, or a card is missing or cannot be true; the message names both.
    """
    try:
        return _read_header(_cards(path))
    except ExposureError as error:
        raise JointCalibrationError(f"the header {path} cannot be used: {error}") from error


def _cards(path: Path) -> Cards:
    """Return the cards of the first header: as plain text where that goes, which is fast, else through astropy."""
    plain = read_cards(path)
    if plain is not None:
        return Cards([plain], path.name)
    with open_fits(path) as hdus:
        return Cards([hdus[0].header.copy()], path.name)


def _read_header(cards: Cards) -> tuple[dict[str, Any], ExposureRecord]:
    missing = [c for c in _NEEDED if c not in cards]
    if missing:
        raise InstrumentError(f"it lacks {missing}")
    visit, detector = cards.integer("VISIT"), cards.integer("DETECTOR")
    band, physical = (cards.text(key) if key in cards else "" for key in ("BAND", "FILTER"))
    exposure_time = _optional(cards, "EXPTIME", 0.0)
    size = [cards.integer(key) for key in ("IMAGEW", "IMAGEH")]
    for key, number, least in (("EXPTIME", exposure_time, 0.0), ("IMAGEW", size[0], 1), ("IMAGEH", size[1], 1)):
        if number < least:
            raise CardInvalid(f"{cards.name}: {key}={number} is below {least}")
    row = {
        "id": detector,
        "visit": visit,
        "physical_filter": physical,
        "band": band,
        "bbox_min_x": 0,
        "bbox_min_y": 0,
        "bbox_max_x": size[0] - 1,
        "bbox_max_y": size[1] - 1,
        "expTime": _optional(cards, "EXPTIME"),
    }
    info = VisitInfo(
        visit,
        detector,
        _mid_tai(cards, exposure_time),
        exposure_time,
        boresight_ra=_optional(cards, "RABORE"),
        boresight_dec=_optional(cards, "DECBORE"),
        airmass=_optional(cards, "AIRMASS"),
    )
    mean = cards.number("CALMEAN", quoted=True)
    if not mean > 0:
        raise CardInvalid(f"{cards.name}: CALMEAN={mean} is no calibration: it must be above zero")
    wcs = SkyWcs.from_header(cards)
    if np.isnan(info.boresight_ra + info.boresight_dec):
        ra, dec = wcs.pixel_to_sky(*wcs.reference_pixel)
        info = replace(info, boresight_ra=float(ra), boresight_dec=float(dec))
    calib = PhotoCalib(mean, _optional(cards, "CALERR", 0.0), source="header")
    return row, ExposureRecord(wcs=wcs, photo_calib=calib, visit_info=info)


def _optional(cards: Cards, key: str, default: float = float("nan")) -> float:
    return cards.number(key) if key in cards else default


def _mid_tai(cards: Cards, exposure_time: float) -> float:
    if "MJD-OBS" not in cards:
        return float("nan")
    return TimeRule(key="MJD-OBS", format="mjd").mjd_tai(cards, exposure_time)


def read_headers(paths: Iterable[Path]) -> list[ExposureCatalog]:
    """Read header files into one catalogue per visit."""
    rows: dict[int, list[dict[str, Any]]] = {}
    records: dict[int, dict[int, ExposureRecord]] = {}
    for path in sorted(paths):
        row, record = read_header(path)
        visit, detector = row["visit"], row["id"]
        if detector in records.setdefault(visit, {}):
            raise JointCalibrationError(
                f"two header files describe this image, the second is {path}", visit=visit, detector=detector
            )
        rows.setdefault(visit, []).append(row)
        records[visit][detector] = record
    return [ExposureCatalog(Table(rows=rows[v]), records[v]) for v in sorted(rows)]


def read_summaries(paths: Iterable[Path]) -> list[ExposureCatalog]:
    """Read visit summaries: our FITS or Parquet catalogues, or those of the Rubin stack.

    Raises
    ------
    FitsUnreadable
        A file is no exposure catalogue.
    """
    from exposure.io.rubin_catalog import read_exposure_catalog

    return [
        ExposureCatalog.read_parquet(p) if p.suffix in (".parquet", ".parq") else read_exposure_catalog(p)
        for p in paths
    ]
