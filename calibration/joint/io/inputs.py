"""From source tables, visit summaries and a camera to the arrays of a joint fit."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Row

from calibration.errors import JointCalibrationError
from calibration.joint.config import JointcalConfig
from calibration.joint.data import Images, Measurements
from calibration.joint.io.columns import plain_numbers
from calibration.joint.io.image_checks import check_times, without_far_boresights
from calibration.joint.io.selection import (
    columns_needed,
    flag_columns,
    good_covariance,
    positive_flux,
    possible_flux,
    select_sources,
)
from exposure import ExposureCatalog, VisitInfo
from exposure.io.exposure_catalog import ExposureRecord
from tasks.arrays import F64, I64, Flags

__all__ = ["gather", "images_of", "most_common_filter"]

log = logging.getLogger("alertprod.jointcal")


def images_of(summaries: "Iterable[ExposureCatalog]") -> Images:
    """Return one entry per (visit, detector) of the summaries, sorted; detectors without WCS or calibration stay out.

    Raises
    ------
    JointCalibrationError
        A (visit, detector) appears twice, a summary lacks a column, or a time is no MJD.
    """
    entries: list[dict[str, Any]] = []
    for summary in summaries:
        missing = [c for c in ("id", "visit", "bbox_min_x", "bbox_max_y") if c not in summary.table.colnames]
        if missing:
            raise JointCalibrationError(f"a visit summary lacks the columns {missing}")
        for row in summary.table:
            record = summary.records.get(int(row["id"]), ExposureRecord())
            if record.wcs is not None and record.photo_calib is not None:
                fitted = {
                    "wcs": record.wcs,
                    "calib_mean": record.photo_calib.mean,
                    "calib_err": record.photo_calib.error,
                }
                entries.append(fitted | _image(row, summary.table.colnames, record.visit_info))
                continue
            what = "WCS" if record.wcs is None else "calibration"
            log.warning("visit %s, detector %s has no %s: left out", row["visit"], row["id"], what)
    entries.sort(key=lambda e: (e["visit"], e["detector"]))
    keys = Counter((e["visit"], e["detector"]) for e in entries)
    twice = [k for k, n in keys.items() if n > 1]
    if twice:
        raise JointCalibrationError(
            f"the summaries name {len(twice)} images more than once, first visit {twice[0][0]}, detector {twice[0][1]}",
            visit=twice[0][0],
            detector=twice[0][1],
        )
    if not entries:
        raise JointCalibrationError("No data to process: no image of the visit summaries has a WCS and a calibration")
    listed = ("wcs", "band", "physical_filter")
    columns: dict[str, Any] = {
        name: [e[name] for e in entries] if name in listed else np.array([e[name] for e in entries])
        for name in Images.__dataclass_fields__
    }
    images = Images(**columns)
    check_times(images)
    return replace(images, boresight=without_far_boresights(images))


def _image(row: Row, columns: "list[str]", info: VisitInfo | None) -> dict[str, Any]:
    """Return what the row of a summary and the visit info say of an image."""
    x0, y0 = int(row["bbox_min_x"]), int(row["bbox_min_y"])

    def number(name: str, other: float) -> float:
        return float(row[name]) if name in columns else other

    nan = float("nan")
    return {
        "visit": int(row["visit"]),
        "detector": int(row["id"]),
        "bbox": (x0, y0, int(row["bbox_max_x"]) - x0 + 1, int(row["bbox_max_y"]) - y0 + 1),
        "mjd_tai": nan if info is None else info.midpoint_mjd_tai,
        "exposure_time": number("expTime", nan if info is None else info.exposure_time),
        "airmass": nan if info is None else info.airmass,
        "boresight": (nan, nan) if info is None else (info.boresight_ra, info.boresight_dec),
        "band": str(row["band"]) if "band" in columns else "",
        "physical_filter": str(row["physical_filter"]) if "physical_filter" in columns else "",
    }


def most_common_filter(images: Images) -> tuple[str, str]:
    """Return (physical filter, band) of most images; the first by name where several are equally common."""
    counted = Counter(zip(images.physical_filter, images.band, strict=True))
    return min(counted, key=lambda pair: (-counted[pair], pair))


def _read_table(table: Any, config: JointcalConfig) -> pd.DataFrame:
    """Fetch only the columns needed, from a frame or a deferred handle."""
    handle = table if hasattr(table, "get") and not isinstance(table, pd.DataFrame) else None
    present = set(handle.get(component="columns")) if handle is not None else set(table.columns)
    if not isinstance(table, pd.DataFrame) and handle is None:
        raise JointCalibrationError(
            f"a source table must be a DataFrame or a deferred handle, got {type(table).__name__}"
        )
    if handle is None and table.index.name == "sourceId" and "sourceId" not in present:
        table, present = table.reset_index(), present | {"sourceId"}
    columns = columns_needed(present, config.sourceSelector, config.sourceFluxType, config.doPhotometry)
    frame: pd.DataFrame = handle.get(parameters={"columns": columns}) if handle is not None else table[columns]
    if frame.index.name == "sourceId":
        frame = frame.reset_index()
    frame = plain_numbers(frame, flag_columns(config.sourceSelector, config.sourceFluxType))
    return frame if "sourceId" in frame else frame.assign(sourceId=np.arange(len(frame)))


def gather(tables: "Sequence[Any]", images: Images, config: JointcalConfig) -> tuple[Images, Measurements]:
    """Select the good sources of all visits and join them to their images.

    Returns
    -------
    images
        Those with sources left.
    measurements
        All good sources, sorted by image and id.

    Raises
    ------
    JointCalibrationError
        No data are left.
    """
    table = _selected(tables, config)
    index = _image_index(table, images)
    unknown = index < 0
    if unknown.any():
        lost = table.loc[unknown, ["visit", "detector"]].drop_duplicates().head(3).to_numpy().tolist()
        log.warning("%d sources lie on images that no summary describes, for example %s", unknown.sum(), lost)
    if unknown.all():
        raise JointCalibrationError("No data to process: no source lies on an image that the visit summaries describe")
    there = ~unknown
    there[there] = _near(table[there] if unknown.any() else table, images.bbox[index[there]])
    order = np.lexsort((table["sourceId"].to_numpy(), index))
    order = order[there[order]]
    table, index = table.iloc[order], index[order]
    used, compact = np.unique(index, return_inverse=True)
    flux = _column(table, f"{config.sourceFluxType}_instFlux")
    error = _column(table, f"{config.sourceFluxType}_instFluxErr")
    return images.take(used), Measurements(
        compact.astype(np.int64),
        _column(table, "x"),
        _column(table, "y"),
        _column(table, "vx"),
        _column(table, "vy"),
        _column(table, "vxy"),
        flux,
        error,
        table["sourceId"].to_numpy(np.int64),
        np.arange(len(table)),
    )


def _near(table: pd.DataFrame, box: I64) -> Flags:
    """Return which sources (N,) lie on their image or less than its own size beside it; the boxes are (N, 4).

    Raises
    ------
    JointCalibrationError
        None does.
    """
    off = table[["x", "y"]].to_numpy(np.float64) - box[:, :2]
    there = ((off >= -box[:, 2:]) & (off <= 2 * box[:, 2:])).all(1)
    if not there.all():
        first = table[~there].iloc[0]
        words = (
            f"{int((~there).sum())} sources lie far off their image, for example at x={first.x:.6g}, y={first.y:.6g} of visit "
            f"{int(first.visit)}, detector {int(first.detector)}, whose box (x, y, width, height) is {box[~there][0].tolist()}"
        )
        if not there.any():
            raise JointCalibrationError(f"{words}: x and y must be pixels of the image")
        log.warning("%s: dropped", words)
    return np.asarray(there)


def _selected(tables: "Sequence[Any]", config: JointcalConfig) -> pd.DataFrame:
    """Return the good sources of all tables, with vx, vy, vxy (px^2) of their positions."""
    parts: list[pd.DataFrame] = []
    n_bad = 0
    fluxes = (f"{config.sourceFluxType}_instFlux", f"{config.sourceFluxType}_instFluxErr")
    needed = ("visit", "detector", "sourceId", "x", "y", *fluxes)
    for table in tables:
        frame = _read_table(table, config)
        visits = ", ".join(map(str, np.unique(frame["visit"])[:5]))
        chosen = select_sources(frame, config.sourceSelector, config.sourceFluxType)
        if not chosen.any():
            log.warning("no source of visit %s passes the selection: the visit is skipped", visits or "(empty table)")
            continue
        vx, vy, vxy, good = good_covariance(frame)
        good &= possible_flux(frame, config.sourceFluxType)
        if config.doPhotometry:  # some are left out; a visit without any is refused by its fit
            positive = positive_flux(frame, config.sourceFluxType)
            good &= positive | ~(positive & good & chosen).any()
        bad = int((chosen & ~good).sum())
        if bad:
            words = "visit %s: %d sources with NaN or impossible position errors or fluxes dropped"
            log.warning(words, visits, bad)
            n_bad += bad
        use = np.flatnonzero(chosen & good)
        columns = {name: frame[name].to_numpy()[use] for name in needed if name in frame}
        parts.append(pd.DataFrame(columns | {"vx": vx[use], "vy": vy[use], "vxy": vxy[use]}))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if not len(table):
        raise JointCalibrationError(
            "No data to process: no source of any visit passes the selection; look at the config of sourceSelector "
            f"(signalToNoiseMinimum is {config.sourceSelector.signalToNoiseMinimum})"
            if not n_bad
            else f"No data to process: none of {n_bad} sources that pass the selection has finite pixels, fluxes that are possible, and "
            "position errors xErr, yErr above zero"
        )
    return table


def _column(table: pd.DataFrame, name: str) -> F64:
    if name not in table:
        return np.full(len(table), np.nan)
    return np.ascontiguousarray(table[name].to_numpy(np.float64))


def _image_index(table: pd.DataFrame, images: Images) -> I64:
    """Return the image (N,) of each row, -1 where there is none."""
    every = pd.MultiIndex.from_arrays([images.visit, images.detector])
    wanted = pd.MultiIndex.from_arrays([table["visit"].to_numpy(np.int64), table["detector"].to_numpy(np.int64)])
    return np.asarray(every.get_indexer(wanted), np.int64)
