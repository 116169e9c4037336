"""Plain files that the joint fit reads: source tables, headers, summaries."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table
from astropy.time import Time

from calibration.errors import JointCalibrationError
from exposure import ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo
from exposure.cards import read_cards
from exposure.catalog import ExposureRecord

__all__ = ["read_header", "read_headers", "read_sources", "read_summaries"]

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
                out.append(Table.read(path, hdu=1).to_pandas())
            else:
                out.append(pd.read_parquet(path))
        except Exception as error:
            raise JointCalibrationError(f"the source table {path} cannot be read: {error}") from error
    return out


def read_header(path: Path) -> tuple[dict[str, Any], ExposureRecord]:
    """Read one header-only FITS file.

    Returns
    -------
    row, record
        Plain columns, and WCS, calibration and visit information.

    Raises
    ------
    JointCalibrationError
        The file cannot be read or lacks a card.
    """
    header: Any = read_cards(path)
    wcs = None if header is None else SkyWcs.from_cards(header)
    if wcs is None:
        from exposure.fits import open_fits

        with open_fits(path) as hdus:
            header = hdus[0].header.copy()
    missing = [c for c in _NEEDED if c not in header]
    if missing:
        raise JointCalibrationError(f"the header {path} lacks {missing}")
    visit, detector = int(header["VISIT"]), int(header["DETECTOR"])
    band, physical = str(header.get("BAND", "")), str(header.get("FILTER", ""))
    row = {
        "id": detector, "visit": visit, "physical_filter": physical, "band": band,
        "bbox_min_x": 0, "bbox_min_y": 0, "bbox_max_x": int(header["IMAGEW"]) - 1, "bbox_max_y": int(header["IMAGEH"]) - 1,
        "expTime": float(header.get("EXPTIME", np.nan)),
    }  # fmt: skip
    exposure_time = float(header.get("EXPTIME", 0.0))
    info = VisitInfo(
        visit, detector, _mid_tai(header, exposure_time, path), exposure_time,
        boresight_ra=float(header.get("RABORE", header.get("CRVAL1", np.nan))),
        boresight_dec=float(header.get("DECBORE", header.get("CRVAL2", np.nan))),
        airmass=float(header.get("AIRMASS", np.nan)),
    )  # fmt: skip
    calib = PhotoCalib(float(header["CALMEAN"]), float(header.get("CALERR", 0.0)), source="header")
    try:
        wcs = SkyWcs.from_header(header) if wcs is None else wcs
    except ValueError as error:
        raise JointCalibrationError(
            f"the header {path} has no usable WCS: {error}", visit=visit, detector=detector
        ) from error
    return row, ExposureRecord(wcs=wcs, photo_calib=calib, visit_info=info)


def _mid_tai(header: Any, exposure_time: float, path: Path) -> float:
    if "MJD-OBS" not in header:
        return float("nan")
    scale = str(header.get("TIMESYS", "UTC")).strip().lower()
    if scale not in ("utc", "tai", "tt", "tdb"):
        raise JointCalibrationError(f"the header {path} has TIMESYS={scale.upper()!r}; use UTC or TAI")
    begin = float(header["MJD-OBS"])
    begin = begin if scale == "tai" else float(Time(begin, format="mjd", scale=scale).tai.mjd)
    return begin + 0.5 * exposure_time / 86400.0


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
    from exposure.afw_catalog import read_exposure_catalog

    return [
        ExposureCatalog.read_parquet(p) if p.suffix in (".parquet", ".parq") else read_exposure_catalog(p)
        for p in paths
    ]
