"""The sources of a difference as people use them: on the sky, calibrated where the image is, with units and meanings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from diffim.subtraction.sky_units import bearing, calibrated_fluxes, position_covariance, sky_moments
from exposure import Exposure, PhotoCalib
from exposure.photocalib import njy_to_abmag
from service.pairs.source_columns import COLUMNS, FLAG_BITS, IMAGE_UNIT, Column
from tasks.arrays import F64, I32

__all__ = ["SourceTable", "source_table"]

MAG_PER_LN = 2.5 / np.log(10.0)
_PIXEL_MOMENTS = [f"i{name}{of}" for of in ("", "PSF") for name in ("xx", "yy", "xy")]


@dataclass(frozen=True)
class SourceTable:
    """Rows with what their columns mean.

    Parameters
    ----------
    rows
        One source a row, the columns of `service.pairs.source_columns` that the images allow for, in that order.
    columns
        Unit and meaning of each of them; a unit that nobody knows is empty.
    meta
        Where the sources come from: FITS keywords and values.
    """

    rows: pd.DataFrame
    columns: Mapping[str, Column]
    meta: Mapping[str, Any] = field(default_factory=dict)


def source_table(
    raw: pd.DataFrame,
    difference: Exposure,
    *,
    template_unit: float = 1.0,
    template_calib: PhotoCalib | None = None,
    unit: str = "",
    meta: Mapping[str, Any] | None = None,
) -> SourceTable:
    """Return the sources in the order and the units of the documentation.

    Parameters
    ----------
    raw
        The table of the differencing: pixels and instrumental units.
    difference
        Where they were found. With a WCS there are positions on the sky, with a calibration fluxes in nJy and magnitudes.
    template_unit
        Counts of the difference for one count of the template.
    template_calib
        The template's own calibration, else that of the image through `template_unit` is used for templateFlux.
    unit
        Unit of the image's pixels, as its header says it; empty where it does not.
    meta
        Kept with the table.

    Notes
    -----
    Magnitudes are of the AB system. A source that became fainter has a negative flux and no magnitude.
    """
    values: dict[str, Any] = {str(name): raw[name].to_numpy() for name in raw}
    moments = {f"{name}Pixels": values.pop(name) for name in _PIXEL_MOMENTS}
    values |= moments | {"snr": values["significance"], "isTrail": values["trail_flag_suspect_long_trail"]}
    values["flags"] = _flag_sum(values, len(raw))
    values |= _on_sky(raw, difference)
    calib, flux_unit = difference.photo_calib, IMAGE_UNIT
    if calib is None:
        values |= {"flux": values["psfInstFlux"], "fluxErr": values["psfInstFluxErr"]}
    else:
        flux_unit = "nJy"
        x, y = values["x"], values["y"]
        template_njy = calib.at(x, y) * template_unit if template_calib is None else template_calib.at(x, y)
        values |= calibrated_fluxes(raw, calib, difference.ap_corr, template_njy)
        values |= {"flux": values["psfFlux"], "fluxErr": values["psfFluxErr"], "mag": njy_to_abmag(values["psfFlux"])}
        with np.errstate(divide="ignore", invalid="ignore"):
            values["magErr"] = np.where(values["flux"] > 0, MAG_PER_LN * values["fluxErr"] / values["flux"], np.nan)
    if difference.visit_info is not None:
        values["midpointMjdTai"] = np.full(len(raw), difference.visit_info.midpoint_mjd_tai)
    if difference.band:
        values["band"] = np.full(len(raw), difference.band, object)
    names = [name for name in COLUMNS if name in values]
    columns = {name: COLUMNS[name] for name in names}
    for name in ("flux", "fluxErr"):
        columns[name] = columns[name]._replace(unit=flux_unit)
    columns = {name: c._replace(unit=unit) if c.unit == IMAGE_UNIT else c for name, c in columns.items()}
    return SourceTable(pd.DataFrame({name: values[name] for name in names}), columns, dict(meta or {}))


def _on_sky(raw: pd.DataFrame, difference: Exposure) -> dict[str, F64]:
    """Return what a WCS tells: positions, moments, lengths and position angles; nothing without one."""
    if difference.wcs is None:
        return {}
    x, y = raw.x.to_numpy(np.float64), raw.y.to_numpy(np.float64)
    ra, dec = difference.wcs.pixel_to_sky(x, y) if len(raw) else (x, y)
    jacobian = difference.wcs.jacobian(x, y) if len(raw) else np.zeros((0, 2, 2))
    covariance = position_covariance(raw, jacobian)
    scale = 3600 * np.sqrt(np.abs(np.linalg.det(jacobian)))
    return {
        "ra": ra,
        "dec": dec,
        "raErr": np.sqrt(covariance[:, 0, 0]),
        "decErr": np.sqrt(covariance[:, 1, 1]),
        "ra_dec_Cov": covariance[:, 0, 1],
        **sky_moments(raw, jacobian),
        "trailLength": raw.trailLengthPixels.to_numpy(np.float64) * scale,
        "trailAngle": bearing(jacobian, raw.trailAnglePixels.to_numpy(np.float64)) % 180.0,
        "dipoleLength": raw.dipoleLengthPixels.to_numpy(np.float64) * scale,
        "dipoleAngle": bearing(jacobian, raw.dipoleAnglePixels.to_numpy(np.float64)),
    }


def _flag_sum(columns: Mapping[str, Any], n: int) -> I32:
    total = np.zeros(n, np.int32)
    for bit, (names, _) in FLAG_BITS.items():
        total |= np.int32(bit) * np.any([columns[name] for name in names], axis=0).astype(np.int32)
    return total
