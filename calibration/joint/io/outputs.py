"""What a joint fit writes: WCS, calibrations, stars, metrics. A folder appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.table import Table

from calibration.joint.data import Images
from calibration.joint.visit_quality import by_visit
from exposure import ExposureCatalog, PhotoCalib
from exposure.header.text_cards import write_cards
from exposure.io.exposure_catalog import ExposureRecord
from exposure.wcs.mapped import ComposedWcs
from exposure.wcs.sip import sip_approximation
from tasks.arrays import I64

__all__ = ["catalogues", "no_catalogue", "write_outputs"]

Key = tuple[int, int]
_COMMENTS = ("Catalog id is detector id, sorted.", "Only detectors with data have entries.")


def catalogues(
    values: Mapping[Key, ComposedWcs] | Mapping[Key, PhotoCalib], images: Images, quality: pd.DataFrame | None = None
) -> dict[int, ExposureCatalog]:
    """Return one catalogue per visit with rows for the fitted detectors only, id = detector, sorted; ``weak`` marks those that
    few or contradicting stars hold, by the table `quality` of images.
    """
    half = "photometry" if any(isinstance(value, PhotoCalib) for value in values.values()) else "astrometry"
    weak = _weak(quality, half)
    out: dict[int, ExposureCatalog] = {}
    boxes = {images.key(i): images.bbox[i] for i in range(len(images))}
    for visit in sorted({v for v, _ in values}):
        detectors = sorted(d for v, d in values if v == visit)
        box = np.array([boxes[visit, d] for d in detectors], np.int64)
        table = _rows(visit, detectors, box)
        table["weak"] = [weak.get((visit, d), False) for d in detectors]
        records = {}
        for d in detectors:
            value = values[visit, d]
            if isinstance(value, PhotoCalib):
                records[d] = ExposureRecord(photo_calib=value)
            else:
                records[d] = ExposureRecord(wcs=value)
        out[visit] = ExposureCatalog(table, records)
    return out


def _rows(visit: int, detectors: Sequence[int], box: I64) -> Table:
    """Return the rows of N detectors of a visit; boxes (N, 4): x0, y0, width, height."""
    table = Table(
        {
            "id": np.array(detectors, np.int64),
            "visit": np.full(len(detectors), visit, np.int64),
            "bbox_min_x": box[:, 0],
            "bbox_min_y": box[:, 1],
            "bbox_max_x": box[:, 0] + box[:, 2] - 1,
            "bbox_max_y": box[:, 1] + box[:, 3] - 1,
            "weak": np.zeros(len(detectors), bool),
        }
    )
    table.meta["comments"] = list(_COMMENTS)
    return table


def no_catalogue() -> ExposureCatalog:
    """Return a catalogue without a detector."""
    return ExposureCatalog(_rows(0, [], np.zeros((0, 4), np.int64)))


def write_outputs(
    out: Path,
    images: Images,
    wcs: "Mapping[Key, ComposedWcs] | None",
    calibs: "Mapping[Key, PhotoCalib] | None",
    tables: Mapping[str, pd.DataFrame],
    metrics: Mapping[str, Any],
) -> dict[str, float]:
    """Write everything into a folder beside `out` and move it there at the end.

    Parameters
    ----------
    tables
        Written as NAME.parquet; what ``image_quality`` says of each visit goes into the metrics.

    Returns
    -------
    misses
        The worst errors of the TAN-SIP headers: ``sip_delta_sky_mas``, ``sip_delta_pixel``.
    """
    work = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    worst = {"sip_delta_sky_mas": 0.0, "sip_delta_pixel": 0.0}
    try:
        if wcs is not None:
            worst = _write_wcs(work, images, wcs, calibs or {}, _marks(tables.get("image_quality"), calibs or {}))
        if calibs is not None:
            (work / "photoCalib").mkdir()
            _write_calibrations(work / "photoCalib", calibs, _weak(tables.get("image_quality"), "photometry"))
        for name, table in tables.items():
            table.to_parquet(work / f"{name}.parquet", index=False)
        numbers: dict[str, Any] = {k: _plain(v) for k, v in (dict(metrics) | worst).items()}
        if "image_quality" in tables:
            visits = by_visit(tables["image_quality"]).to_dict("records")
            numbers["visits"] = [{str(k): _plain(v) for k, v in visit.items()} for visit in visits]
        text = json.dumps(numbers, indent=1)
        (work / "metrics.json").write_text(text, encoding="utf-8")
        out.mkdir(parents=True, exist_ok=True)
        for entry in work.iterdir():
            target = out / entry.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(entry, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return worst


def _weak(quality: pd.DataFrame | None, half: str) -> dict[Key, bool]:
    """Return which images are weak or lost in a half; nothing where the half was not fitted."""
    if quality is None or f"{half}_weak" not in quality:
        return {}
    marked = (quality[f"{half}_weak"] | quality[f"{half}_lost"]).tolist()
    return dict(zip(zip(quality.visit.tolist(), quality.detector.tolist(), strict=True), marked, strict=True))


def _write_calibrations(folder: Path, calibs: Mapping[Key, PhotoCalib], weak: Mapping[Key, bool]) -> None:
    for visit in sorted({v for v, _ in calibs}):
        entries = []
        for v, detector in sorted(calibs):
            if v != visit:
                continue
            calib = calibs[v, detector]
            entry: dict[str, Any] = {"detector": detector, "calibrationMean": calib.mean}
            entry |= {"calibrationErr": _plain(calib.error), "weak": weak.get((v, detector), False)}
            if calib.variation is not None:
                entry |= {"chebyshev": calib.variation.coefficients.tolist(), "bbox": list(calib.variation.bbox)}
            entries.append(entry)
        text = json.dumps({"visit": visit, "unit": "nJy per count", "comments": list(_COMMENTS), "detectors": entries})
        (folder / f"{visit}.json").write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _marks(table: pd.DataFrame | None, calibs: Mapping[Key, PhotoCalib]) -> dict[Key, list[tuple[str, Any, str]]]:
    """Return the cards that say how good the WCS of each image is: its formal error, and whether it, or its calibration where it
    has one, is weak or lost.
    """
    if table is None or "astrometry_formal_error" not in table:
        return {}
    out: dict[Key, list[tuple[str, Any, str]]] = {}
    errors, of_fluxes = table.astrometry_formal_error.tolist(), _weak(table, "photometry")
    for (key, weak), error in zip(_weak(table, "astrometry").items(), errors, strict=True):
        out[key] = [("WCSWEAK", weak, "few or contradicting stars hold the WCS")]
        if np.isfinite(error):
            out[key].append(("WCSERR", error, "[arcsec] formal error per axis"))
        if key in calibs:
            out[key].append(("CALWEAK", of_fluxes.get(key, False), "few or contradicting stars hold CALMEAN"))
    return out


def _write_wcs(
    work: Path,
    images: Images,
    wcs: Mapping[Key, ComposedWcs],
    calibs: Mapping[Key, PhotoCalib],
    marks: Mapping[Key, list[tuple[str, Any, str]]],
) -> dict[str, float]:
    (work / "wcs").mkdir()
    (work / "maps").mkdir()
    worst_sky = worst_pixel = 0.0
    maps: dict[int, dict[int, Any]] = {}
    for i in range(len(images)):
        visit, detector = images.key(i)
        if (visit, detector) not in wcs:
            continue
        full = wcs[visit, detector]
        sip = sip_approximation(full, full.bbox)
        worst_sky, worst_pixel = max(worst_sky, sip.delta_sky), max(worst_pixel, sip.delta_pixel)
        cards = sip.cards((full.bbox[0], full.bbox[1])) + _describe(images, i, calibs.get((visit, detector)))
        cards += marks.get((visit, detector), [])
        cards.append(("SIPMISS", sip.delta_sky, "[arcsec] worst miss of the SIP terms"))
        write_cards(work / "wcs" / f"{visit}_{detector}.hdr", cards)
        maps.setdefault(visit, {})[detector] = full.to_dict()
    for visit, entries in maps.items():
        (work / "maps" / f"{visit}.json").write_text(json.dumps(entries), encoding="utf-8")
    return {"sip_delta_sky_mas": worst_sky * 1e3, "sip_delta_pixel": worst_pixel}


def _describe(images: Images, i: int, calib: PhotoCalib | None) -> list[tuple[str, Any, str]]:
    visit, detector = images.key(i)
    out: list[tuple[str, Any, str]] = [
        ("IMAGEW", int(images.bbox[i, 2]), ""),
        ("IMAGEH", int(images.bbox[i, 3]), ""),
        ("VISIT", visit, ""),
        ("DETECTOR", detector, ""),
        ("BAND", images.band[i], ""),
        ("FILTER", images.physical_filter[i], ""),
        ("TIMESYS", "TAI", ""),
    ]
    numbers = (
        ("MJD-OBS", images.mjd_tai[i] - 0.5 * np.nan_to_num(images.exposure_time[i]) / 86400.0),
        ("EXPTIME", images.exposure_time[i]),
        ("AIRMASS", images.airmass[i]),
        ("RABORE", images.boresight[i, 0]),
        ("DECBORE", images.boresight[i, 1]),
    )
    out += [(card, float(value), "") for card, value in numbers if np.isfinite(value)]
    mean, error = (images.calib_mean[i], images.calib_err[i]) if calib is None else (calib.mean, calib.error)
    out.append(("CALMEAN", float(mean), "[nJy] per count"))
    return [*out, ("CALERR", float(error), "")] if np.isfinite(error) else out
