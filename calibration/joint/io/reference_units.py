"""Are the columns of a reference catalogue in the units that a joint fit takes? A wrong unit is named, not fitted."""

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd

from calibration.errors import JointCalibrationError
from tasks.arrays import F64

__all__ = ["check_fluxes", "check_frame", "check_units", "epochs_mjd"]

log = logging.getLogger("alertprod.jointcal")
_JD_OF_MJD = 2400000.5
_J2000_MJD = 51544.5
_FASTEST = 1e-4  # rad per year: 20 arcsec, twice the motion of Barnard's star
_FARTHEST = 1e-5  # rad: 2 arcsec, more than the parallax of any star
_COARSEST = 1e-3  # rad: 3.4 arcmin
_TYPICAL_MOTION = 1.5e-6  # rad per year: 0.3 arcsec, twenty times that of stars of magnitude 15
_TYPICAL_ERROR = 5e-6  # rad: an arcsec; of worse places no WCS is made
_LEAST_TYPICAL = 10  # rows that tell what is typical
_MOTION = ("pm_ra", "pm_dec", "pm_raErr", "pm_decErr")
_MAGNITUDES = (-30.0, 40.0)  # as fluxes: fainter than AB 27.4, where no photometric reference star is
_MJD = (15000.0, 100000.0)  # 1899 to 2132
_YEARS = (1800.0, 2200.0)
_ICRS = ("ICRS", "GAIA", "GCRS", "ICRF")


def check_frame(said: Mapping[str, object], where: str) -> None:
    """Check that what a file says of the frame of its coordinates is ICRS; a file that says nothing is taken to be.

    Parameters
    ----------
    said
        Values by key: RADESYS, RADECSYS, EQUINOX of a table's header, or the ``system`` of a COOSYS.
    where
        The file, for the message.

    Raises
    ------
    JointCalibrationError
        Another frame, or an equinox other than 2000 without a frame.
    """
    frames = {key: str(value).strip().upper() for key, value in said.items() if key != "EQUINOX" and str(value).strip()}
    for key, frame in frames.items():
        if not frame.startswith(_ICRS):
            raise JointCalibrationError(
                f"the reference catalogue {where} says {key}={frame}: coord_ra and coord_dec must be ICRS (FK5 is up to 0.1 arcsec, "
                "FK4 and galactic coordinates are degrees away); bring them to ICRS, for example by astropy's SkyCoord.icrs"
            )
    equinox = str(said.get("EQUINOX", "")).strip().upper().lstrip("JB")
    if equinox and not frames and float(equinox) != 2000.0:
        raise JointCalibrationError(
            f"the reference catalogue {where} says EQUINOX={equinox}: coord_ra and coord_dec must be ICRS; bring them there"
        )


def check_units(table: pd.DataFrame, *, errors: bool = True, motion: bool = True, parallax: bool = True) -> None:
    """Check that positions and those of their errors, motions and parallaxes that are used can be radians.

    Raises
    ------
    JointCalibrationError
        A column is missing, or holds numbers that are no radians; the message names it.
    """
    for name, limit in (("coord_ra", 2 * np.pi), ("coord_dec", np.pi / 2)):
        if name not in table:
            raise JointCalibrationError(f"the reference catalogue lacks {name} (radians)")
        _below(table, name, limit + 1e-6, "radians", "degrees")
    used = [(name, _FASTEST, "radians per year", "mas per year") for name in _MOTION if motion]
    used += [("parallax", _FARTHEST, "radians", "mas")] if parallax else []
    used += [(name, _COARSEST, "radians", "mas or arcsec") for name in ("coord_raErr", "coord_decErr") if errors]
    for name, limit, unit, likely in used:
        if name in table:
            _below(table, name, limit, unit, likely)
    typical = [(name, _TYPICAL_MOTION, "radians per year", "degrees or arcsec per year") for name in _MOTION if motion]
    typical += [
        (name, _TYPICAL_ERROR, "radians", "degrees or arcsec") for name in ("coord_raErr", "coord_decErr") if errors
    ]
    for name, limit, unit, likely in typical:
        if name in table:
            _below(table, name, limit, unit, likely, typical=True)


def check_fluxes(table: pd.DataFrame, column: str) -> None:
    """Check that a flux column and that of its errors can be nJy.

    Raises
    ------
    JointCalibrationError
        Magnitudes in place of fluxes, or no star with an error above zero; the message names the column.
    """
    flux = _numbers(table, column)
    finite = flux[np.isfinite(flux)]
    if finite.size and _inside(finite, *_MAGNITUDES):
        raise JointCalibrationError(
            f"column {column} of the reference catalogue must be in nJy, but goes from {finite.min():g} to "
            f"{finite.max():g}: it looks like magnitudes (nJy = 10 ** (-0.4 * (m - 31.4)))"
        )
    name = f"{column}Err"
    if name in table and len(table) and not (_numbers(table, name) > 0).any():
        raise JointCalibrationError(
            f"column {name} of the reference catalogue has no error above zero: nJy are expected"
        )


def _below(table: pd.DataFrame, name: str, limit: float, unit: str, likely: str, typical: bool = False) -> None:
    """Refuse a column whose largest number, or that of a typical row of many, is above a limit."""
    values = _numbers(table, name)
    size = np.abs(values[np.isfinite(values)])
    if typical and size.size < _LEAST_TYPICAL:
        return
    worst = float(np.median(size) if typical else size.max(initial=0.0))
    if worst > limit:
        goes = f"is {worst:.3g} in a typical row" if typical else f"goes up to {worst:g}"
        raise JointCalibrationError(
            f"column {name} of the reference catalogue must be in {unit}, but {goes}: it looks like {likely}"
        )


def _numbers(table: pd.DataFrame, name: str) -> F64:
    try:
        return np.asarray(table[name].to_numpy(np.float64), np.float64)
    except (TypeError, ValueError) as error:
        raise JointCalibrationError(f"column {name} of the reference catalogue holds no numbers: {error}") from error


def epochs_mjd(table: pd.DataFrame) -> F64:
    """Return the epochs of the positions as MJD, of a column of MJD, JD or Julian years; NaN stays NaN.

    Raises
    ------
    JointCalibrationError
        The column is none of the three, or mixes them.
    """
    values = _numbers(table, "epoch")
    finite = values[np.isfinite(values)]
    if not finite.size or _inside(finite, *_MJD):
        return values
    if _inside(finite, *_YEARS):
        log.warning("column epoch of the reference catalogue is taken as Julian years (%s)", finite[0])
        return _J2000_MJD + (values - 2000.0) * 365.25
    if _inside(finite - _JD_OF_MJD, *_MJD):
        log.warning("column epoch of the reference catalogue is taken as JD (%s)", finite[0])
        return values - _JD_OF_MJD
    raise JointCalibrationError(
        f"column epoch of the reference catalogue must be MJD (or all JD, or all Julian years), but goes from "
        f"{finite.min():g} to {finite.max():g}"
    )


def _inside(values: F64, least: float, most: float) -> bool:
    return bool(((values >= least) & (values <= most)).all())
