"""Raw measurements to DiaSource rows: calibration, sky positions, angles; and the filters before association."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apdb import columns_of
from diffim.subtraction.sky_units import bearing, calibrated_fluxes, position_covariance, sky_moments
from exposure import Exposure
from tasks.arrays import F64, Flags
from tasks.sphere import within_turn

__all__ = ["FilterRules", "FilteredSources", "filter_dia_sources", "filter_tests", "standardize"]

MAX_TRAIL_ARCSEC_PER_S = 36000 / 3600 / 24  # 10 deg/day


def standardize(raw: pd.DataFrame, difference: Exposure, processed_mjd_tai: float) -> pd.DataFrame:
    """Return DiaSource rows (APDB names and units) of raw measurements.

    Parameters
    ----------
    raw
        Table of `diffim.measurement.measure` with ``id``.
    difference
        The image that was measured: WCS, calibration, aperture corrections, visit info.
    processed_mjd_tai
        Written to timeProcessedMjdTai (MJD, TAI).

    Raises
    ------
    ExposureError
        The image lacks visit info, photometric calibration or WCS.
    """
    info, calib = difference.require_visit_info(), difference.require_photo_calib()
    x, y = raw.x.to_numpy(np.float64), raw.y.to_numpy(np.float64)
    wcs = difference.require_wcs()
    out = pd.DataFrame({"diaSourceId": raw["id"].to_numpy(np.int64)})
    out["visit"], out["detector"] = np.int64(info.visit), np.int16(info.detector)
    out["diaObjectId"] = out["ssObjectId"] = out["parentDiaSourceId"] = np.int64(0)
    out["midpointMjdTai"], out["exposureTime"] = info.midpoint_mjd_tai, info.exposure_time
    ra, dec = wcs.pixel_to_sky(x, y) if len(raw) else (x, y)
    out["ra"], out["dec"] = within_turn(ra), dec
    out["band"], out["timeProcessedMjdTai"] = difference.band, processed_mjd_tai
    jacobian = wcs.jacobian(x, y) if len(raw) else np.zeros((0, 2, 2))
    sky = position_covariance(raw, jacobian)
    out["raErr"], out["decErr"], out["ra_dec_Cov"] = np.sqrt(sky[:, 0, 0]), np.sqrt(sky[:, 1, 1]), sky[:, 0, 1]
    # template PSFs have sum 1, and templates are kept in nJy
    for name, column in (calibrated_fluxes(raw, calib, difference.ap_corr, 1.0) | sky_moments(raw, jacobian)).items():
        out[name] = column
    scale = 3600 * np.sqrt(np.abs(np.linalg.det(jacobian)))
    _trails(out, raw, jacobian, scale)
    for name in (
        "x",
        "y",
        "xErr",
        "yErr",
        "psfChi2",
        "psfNdata",
        "psfLnL",
        "extendedness",
        "dipoleChi2",
        "dipoleNdata",
        "isDipole",
        "dipoleFitAttempted",
        "isNegative",
    ):
        out[name] = raw[name].to_numpy()
    out["bboxSize"], out["snr"] = raw.bboxSize.to_numpy(np.int32), raw.significance.to_numpy(np.float32)
    columns = {}
    for c in columns_of("DiaSource"):
        source = out if c.name in out else raw
        values = source[c.name].to_numpy() if c.name in source else _missing(c.dtype, len(out))
        columns[c.name] = np.asarray(values).astype(c.dtype)
    return pd.DataFrame(columns)


def _missing(dtype: np.dtype[np.generic], n: int) -> NDArray[np.generic]:
    if dtype.kind == "O":
        return np.full(n, "", dtype=object)
    return np.full(n, np.nan if dtype.kind == "f" else 0).astype(dtype)


def _trails(out: pd.DataFrame, raw: pd.DataFrame, jacobian: F64, scale: F64) -> None:
    out["trailLength"] = raw.trailLengthPixels.to_numpy() * scale
    out["trailAngle"] = bearing(jacobian, raw.trailAnglePixels.to_numpy()) % 180.0
    if "trailLengthErrPixels" in raw:  # tables of sources that were made before have none
        out["trailLengthErr"] = raw.trailLengthErrPixels.to_numpy() * scale
        out["trailAngleErr"] = np.degrees(raw.trailAngleErrPixels.to_numpy())
    out["trailRa"], out["trailDec"] = out.ra, out.dec
    out["trailRaErr"], out["trailDecErr"] = out.raErr, out.decErr
    out["trailAlgorithm"] = np.int32(1)
    out["trailNdata"], out["trailChi2"] = raw.trailNdata.to_numpy(np.int32), raw.trailChi2.to_numpy()
    out["dipoleLength"] = raw.dipoleLengthPixels.to_numpy() * scale
    out["dipoleAngle"] = bearing(jacobian, raw.dipoleAnglePixels.to_numpy())


@dataclass(frozen=True)
class FilterRules:
    """What is thrown away before association."""

    remove_sky_sources: bool = True
    bad_flags: tuple[str, ...] = ("centroid_flag", "pixelFlags_crCenter", "pixelFlags_high_varianceCenterAll")
    min_direct_snr: float = -2.0
    max_trail_arcsec_per_s: float = MAX_TRAIL_ARCSEC_PER_S


@dataclass(frozen=True)
class FilteredSources:
    """Sources that go on, those that fail a test, and those with too long a trail (a source may be in both of the latter)."""

    good: pd.DataFrame
    rejected: pd.DataFrame
    trailed: pd.DataFrame


def filter_tests(
    raw: pd.DataFrame, table: pd.DataFrame, pixel_scale_arcsec: float, rules: FilterRules | None = None
) -> dict[str, Flags]:
    """Return, by test, shape (sources,), which sources fail it: flags by their names, ``sky_source``, ``direct_snr``, ``trail_length``.

    NaN passes. A trail is too long when its length is, when it leaves the image, when it looks long and ends at the edge, or
    when it could not be measured and the diagonal of the footprint's box is too long.
    """
    rules = rules or FilterRules()
    tests = {flag: raw[flag].to_numpy(bool) for flag in rules.bad_flags if flag in raw}
    if rules.remove_sky_sources and "sky_source" in raw:
        tests["sky_source"] = raw["sky_source"].to_numpy(bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        tests["direct_snr"] = (table.scienceFlux / table.scienceFluxErr).to_numpy(np.float64) < rules.min_direct_snr
    limit = rules.max_trail_arcsec_per_s * table.exposureTime.to_numpy(np.float64)
    diagonal = np.hypot(raw.bboxWidth.to_numpy(np.float64), raw.bboxHeight.to_numpy(np.float64)) * pixel_scale_arcsec
    flags = {
        name: raw[f"trail_flag{name}"].to_numpy(bool) for name in ("", "_off_image", "_edge", "_suspect_long_trail")
    }
    tests["trail_length"] = (
        (table.trailLength.to_numpy(np.float64) >= limit)
        | flags["_off_image"]
        | (flags["_suspect_long_trail"] & flags["_edge"])
        | (flags[""] & (diagonal >= limit))
    )
    return tests


def filter_dia_sources(
    raw: pd.DataFrame, table: pd.DataFrame, pixel_scale_arcsec: float, rules: FilterRules | None = None
) -> FilteredSources:
    """Split standardised sources by the tests of `filter_tests`.

    Parameters
    ----------
    raw
        Raw measurements, as for `standardize`.
    table
        What `standardize` made of them: the same rows in the same order.
    pixel_scale_arcsec
        Side of a pixel, arcsec.
    rules
        Thresholds; the defaults of `FilterRules` when None.
    """
    tests = filter_tests(raw, table, pixel_scale_arcsec, rules)
    long = tests.pop("trail_length")
    bad = np.any(list(tests.values()), axis=0)
    return FilteredSources(good=table[~bad & ~long].copy(), rejected=table[bad].copy(), trailed=table[long].copy())
