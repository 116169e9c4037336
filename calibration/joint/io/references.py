"""Reference stars of a joint fit: read, moved to the epoch of the fit, with errors and fluxes."""

import fnmatch
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from calibration.errors import JointCalibrationError
from calibration.joint.config import ReferenceConfig
from calibration.joint.data import ARCSEC, tangent_frames
from calibration.joint.io.files import read_fits_table, read_parquet
from calibration.joint.io.reference_units import check_fluxes, check_frame, check_units, epochs_mjd
from calibration.joint.matching.references import Circle, References
from tasks.arrays import F64, I64, Flags
from tasks.sphere import unit_vectors

__all__ = ["Wanted", "colour_corrected", "load_references", "read_catalogue", "read_colorterms"]

log = logging.getLogger("alertprod.jointcal")
_LARGEST_FLUX = 1e20  # nJy: no star is as bright
_JULIAN = 365.25
_LEAST_ERR = 0.1e-3  # arcsec; no catalogue is better, and a zero error would be an infinite weight
_UNKNOWN_MOTION = 0.01  # arcsec per year, of a star whose motion is not known: most of those to magnitude 20
_TWINS = 1.0  # arcsec to another reference star
_AGREEING = 5.0  # sigma to which two entries of one star agree
_MANY_TWINS = 0.2  # of the stars with one that does not, more than by chance: fields have a few per cent
_BY_CHANCE = 0.05  # of the stars have another within the reach of twins by chance, at the most
_LEAST_OF_TWINS = 10
_HEAD_BYTES = 2**16
_FRAME_KEYS = ("RADESYS", "RADECSYS", "EQUINOX")
_TEXTS = {".ecsv": "ascii.ecsv", ".vot": "votable", ".xml": "votable"}


def read_catalogue(path: "str | Path") -> pd.DataFrame:
    """Read a reference catalogue: Parquet, CSV or FITS.

    Raises
    ------
    JointCalibrationError
        The file cannot be read, or says that its coordinates are not ICRS.
    """
    path = Path(path)
    try:
        if path.suffix in (".parquet", ".parq"):
            return read_parquet(path)
        if path.suffix == ".csv":
            return pd.read_csv(path)
        if path.suffix in _TEXTS:
            from astropy.table import Table

            read = Table.read(path, format=_TEXTS[path.suffix])
            check_frame({k: read.meta[k] for k in _FRAME_KEYS if k in read.meta} | _coosys(path), str(path))
            table: pd.DataFrame = read.to_pandas()
            return table
        return read_fits_table(
            path, lambda header: check_frame({k: header[k] for k in _FRAME_KEYS if k in header}, str(path))
        )
    except JointCalibrationError:
        raise
    except Exception as error:
        raise JointCalibrationError(f"the reference catalogue {path} cannot be read: {error}") from error


def _coosys(path: Path) -> dict[str, str]:
    """Return the frame that a VOTable says its coordinates are in; nothing for other files."""
    if path.suffix == ".ecsv":
        return {}
    match = re.search(rb"<COOSYS[^>]*\bsystem\s*=\s*[\"']([^\"']*)", path.read_bytes()[:_HEAD_BYTES])
    return {"COOSYS system": match.group(1).decode()} if match else {}


@dataclass(frozen=True)
class Wanted:
    """What a fit wants of its reference stars.

    Parameters
    ----------
    need
        ``astrometry`` (errors of coordinates are required) or ``photometry`` (fluxes and their errors are).
    filter_names
        Names of the filter to look the flux column up by, best first.
    epoch_mjd
        Epoch of the fit, MJD TAI; NaN: stars stay at their catalogue's.
    reference_err_mas
        Replaces the errors of the catalogue's coordinates.
    colour_bands
        Bands whose difference is the colour of the chromatic term; None: no colour.
    """

    need: str = "astrometry"
    filter_names: Sequence[str] = ()
    epoch_mjd: float = float("nan")
    reference_err_mas: float | None = None
    colour_bands: tuple[str, str] | None = None


def load_references(table: pd.DataFrame, config: ReferenceConfig, circle: Circle, wanted: Wanted) -> References:
    """Choose the reference stars in a circle and move them to the epoch of the fit.

    Raises
    ------
    JointCalibrationError
        Columns are missing, or no star is left.
    """
    need, mas = wanted.need, wanted.reference_err_mas
    moves = config.applyProperMotion
    check_units(table, errors=mas is None, motion=moves, parallax=moves and config.applyParallax)
    degrees = np.degrees(table[["coord_ra", "coord_dec"]].to_numpy(np.float64))
    vector = unit_vectors(*np.where(np.isfinite(degrees), degrees, np.nan).T)
    inside = np.flatnonzero(circle.holds(vector) & np.isfinite(vector).all(1))
    part, vector = table.iloc[inside], vector[inside]
    error = _coordinate_errors(part, mas, need)
    motion, motion_error, parallax = _motions(part, config)
    years = _years_to(part, wanted.epoch_mjd, motion, motion_error)
    vector, error = _at_epoch(vector, error, motion, motion_error, years)
    flux, flux_err = _fluxes(part, config, wanted.filter_names, need)
    colour = _colour(part, wanted.colour_bands)
    out = References(vector, error, motion, motion_error, parallax, flux, flux_err, colour)
    good: Flags = np.asarray(np.isfinite(np.column_stack([vector, error, motion, parallax])).all(1))
    if not good.all():
        log.warning("%d reference stars without finite places, errors or motions left out", int((~good).sum()))
    if need == "astrometry":
        good[np.flatnonzero(good)] = _singles(vector[good], error[good])
    if need == "photometry":
        with np.errstate(invalid="ignore"):
            good &= (flux > 0) & (flux < _LARGEST_FLUX) & (flux_err > 0) & (flux_err < _LARGEST_FLUX)
    out = out.take(np.flatnonzero(good))
    if not len(out):
        mend = (
            f"check fluxes, errors and filters of the catalogue ({', '.join(wanted.filter_names)})"
            if len(inside)
            else "check that the catalogue is of this field and in ICRS, and what the images' WCS say (CRVAL1, CRVAL2, RADESYS, "
            "EQUINOX: images of another equinox are brought to ICRS)"
        )
        raise JointCalibrationError(
            f"no {need} reference star is left of {len(table)} in the catalogue, {len(inside)} of them in the circle "
            f"around the images ({circle.where()}, radius {circle.radius:.3f} deg): {mend}"
        )
    return out


def _singles(vector: F64, error: F64) -> Flags:
    """Return which reference stars (K,) are used: of those that lie closer than neighbours do by chance one where they agree,
    none where not.

    Two entries of one star, as of two releases, agree within their errors, or nothing tells which of them is right; two stars
    that close are one in an image. In a dense field many stars have another within an arcsec, which are used.

    Raises
    ------
    JointCalibrationError
        Many stars have a twin that does not agree, more than chance gives them.
    """
    n = len(vector)
    tree = cKDTree(vector) if n else None
    pairs = np.zeros((0, 2), np.int64) if tree is None else tree.query_pairs(_TWINS * ARCSEC, output_type="ndarray")
    if tree is None or not len(pairs):
        return np.ones(n, bool)
    distance = np.linalg.norm(vector[pairs[:, 0]] - vector[pairs[:, 1]], axis=1) / ARCSEC
    size = np.linalg.norm(error, axis=1)
    apart = distance > _AGREEING * np.maximum(np.hypot(*size[pairs].T), _LEAST_ERR)
    # three times the area, and of twins of an arcsec none
    around = np.diff(tree.count_neighbors(tree, np.array([_TWINS, 2 * _TWINS]) * ARCSEC))[0] / 2
    chance = float(around) / 3
    excess = 2 * (int(apart.sum()) - chance)
    if excess > max(_MANY_TWINS * n, _LEAST_OF_TWINS):
        raise JointCalibrationError(
            f"the reference catalogue seems to hold its stars more than once: of {n} reference stars about {min(excess, n):.0f} "
            f"more than by chance have another within {_TWINS:g} arcsec and do not agree with it (typically "
            f"{np.median(distance[apart]):.3g} arcsec apart), and nothing tells which of two is right: take the stars of one release"
        )
    reach = _TWINS * min(1.0, float(np.sqrt(_BY_CHANCE * n / max(2 * chance, 1e-9))))
    near = distance <= reach
    if not near.any():
        return np.ones(n, bool)
    return _one_of_each(pairs[near], apart[near], size, reach)


def _one_of_each(pairs: I64, apart: Flags, size: F64, reach: float) -> Flags:
    """Return which stars (K,) are used where pairs (P, 2) of them, closer than `reach` arcsec, are one star each or, where they
    do not agree, nobody knows what; the one with the least error `size` (K,) of each.
    """
    n = len(size)
    group = connected_components(coo_array((np.ones(len(pairs)), tuple(pairs.T)), shape=(n, n)), directed=False)[1]
    torn = np.zeros(int(group.max()) + 1, bool)
    torn[group[pairs[apart, 0]]] = True
    several = np.bincount(group)[group] > 1
    gone = several & torn[group]
    order = np.lexsort((size, group))
    use = np.zeros(n, bool)
    use[order[np.unique(group[order], return_index=True)[1]]] = True
    use &= ~gone
    log.warning(
        "%d of %d reference stars have another within %.2g arcsec and do not agree with it: left out; %d more are in the "
        "catalogue twice: one of each is used",
        int(gone.sum()),
        n,
        reach,
        int((several & ~use & ~gone).sum()),
    )
    return use


def _coordinate_errors(table: pd.DataFrame, mas: float | None, need: str) -> F64:
    """Return the errors (K, 2) east and north, arcsec."""
    n = len(table)
    if mas is not None and need == "astrometry":
        if "coord_raErr" in table:
            log.warning("astrometryReferenceErr=%s mas replaces the coordinate errors of the catalogue", mas)
        return np.full((n, 2), mas * 1e-3)
    if "coord_raErr" in table and "coord_decErr" in table:
        # coord_raErr is of the angle on the sky, as in Gaia
        error = np.stack([table[c].to_numpy(np.float64) for c in ("coord_raErr", "coord_decErr")], axis=1) / ARCSEC
        return np.asarray(np.maximum(error, _LEAST_ERR), np.float64)
    if need == "photometry":
        return np.full((n, 2), 0.1)
    raise JointCalibrationError(
        "the astrometric reference catalogue does not contain coordinate errors (coord_raErr, coord_decErr): "
        "set config astrometryReferenceErr (mas)"
    )


def _motions(table: pd.DataFrame, config: ReferenceConfig) -> tuple[F64, F64, F64]:
    """Return proper motions (K, 2) and their errors, arcsec per year, and parallaxes (K,), arcsec; 0 where unknown, with an error that is
    wide where a star has none in a catalogue of motions.
    """
    n = len(table)
    zero = np.zeros((n, 2))
    if not {"pm_ra", "pm_dec"} <= set(table.columns):
        if config.requireProperMotion and config.applyProperMotion:
            raise JointCalibrationError(
                "the reference catalogue has no proper motions (pm_ra, pm_dec), but requireProperMotion is True"
            )
        return zero, zero.copy(), np.zeros(n)
    if not config.applyProperMotion:
        return zero, zero.copy(), np.zeros(n)

    def column(name: str) -> F64:
        values = table[name].to_numpy(np.float64) if name in table else np.zeros(n)
        return np.where(np.isnan(values), 0.0, values) / ARCSEC

    motion = np.stack([column("pm_ra"), column("pm_dec")], axis=1)
    error = np.stack([column("pm_raErr"), column("pm_decErr")], axis=1)
    unknown = table[["pm_ra", "pm_dec"]].isna().to_numpy().any(1)
    motion[unknown], error[unknown] = 0.0, _UNKNOWN_MOTION
    return motion, error, column("parallax") if config.applyParallax else np.zeros(n)


def _years_to(table: pd.DataFrame, epoch_mjd: float, motion: F64, motion_error: F64) -> F64:
    """Return the years (K,) from the epoch of each reference star to another; NaN where it has none, 0 where none moves.

    Raises
    ------
    JointCalibrationError
        Stars move, and no epoch is known.
    """
    if not motion.any() or not np.isfinite(epoch_mjd):
        return np.zeros(len(table))
    epochs = epochs_mjd(table) if "epoch" in table else np.full(len(table), np.nan)
    if not np.isfinite(epochs).any():
        raise JointCalibrationError(
            f"the reference catalogue has proper motions (pm_ra, pm_dec) but {'no finite epoch' if 'epoch' in table else 'no column epoch'} "
            "(MJD), so that its stars cannot be moved to the time of the images: add the epoch, or set "
            "astrometryRefs.applyProperMotion=False (photometryRefs.applyProperMotion=False)"
        )
    known = np.isfinite(epochs)
    if not known.all():
        log.warning("%d of %d reference stars have no epoch: left out, as they move", int((~known).sum()), len(table))
    still = ~motion.any(1) & (motion_error[:, 0] >= _UNKNOWN_MOTION)
    if still.any():
        log.warning(
            "%d of %d reference stars have no proper motion: their places at the time of the images are taken to be known to "
            "%g mas per year",
            int(still.sum()),
            len(table),
            1e3 * _UNKNOWN_MOTION,
        )
    return np.where(known, (epoch_mjd - epochs) / _JULIAN, np.nan)


def _at_epoch(vector: F64, error: F64, motion: F64, motion_error: F64, years: F64) -> tuple[F64, F64]:
    """Return directions (K, 3) and errors (K, 2) some years (K,) on, moved along great circles: direction cos(a) + motion's
    direction sin(a), a = |motion| years.
    """
    if not years.any():
        return vector, error
    east, north = tangent_frames(vector)
    with np.errstate(invalid="ignore", over="ignore"):  # what is infinite in the catalogue is not finite here
        speed = np.hypot(motion[:, 0], motion[:, 1])
        unit = motion / np.where(speed > 0, speed, 1.0)[:, None]
        along = unit[:, :1] * east + unit[:, 1:] * north
        angle = (speed * years * ARCSEC)[:, None]
        moved = vector * np.cos(angle) + along * np.sin(angle)
        return moved, np.hypot(error, motion_error * years[:, None])


def _fluxes(table: pd.DataFrame, config: ReferenceConfig, names: Sequence[str], need: str) -> tuple[F64, F64]:
    """Return fluxes and their errors (K,), nJy; NaN where the catalogue has none."""
    tried = [config.filterMap[n] for n in names if n in config.filterMap]
    if config.anyFilterMapsToThis:
        tried.append(config.anyFilterMapsToThis)
    tried += list(names)
    column = next((f"{t}_flux" for t in tried if f"{t}_flux" in table), None)
    nan = np.full(len(table), np.nan)
    if column is None:
        if need == "photometry":
            raise JointCalibrationError(
                f"the photometric reference catalogue has no flux for the filter: tried {[f'{t}_flux' for t in tried]}; "
                "set config photometryRefs.filterMap"
            )
        return nan, nan.copy()
    if need == "photometry":
        check_fluxes(table, column)
    err = f"{column}Err"
    return table[column].to_numpy(np.float64), table[err].to_numpy(np.float64) if err in table else nan


def _colour(table: pd.DataFrame, bands: "tuple[str, str] | None") -> F64:
    """Return the colour (K,) of two bands, mag; NaN without bands."""
    if bands is None:
        return np.full(len(table), np.nan)
    columns = [f"{b}_flux" for b in bands]
    missing = [c for c in columns if c not in table]
    if missing:
        raise JointCalibrationError(
            f"the chromatic term needs {columns} in the reference catalogue; missing: {missing}"
        )
    blue, red = (table[c].to_numpy(np.float64) for c in columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(-2.5 * np.log10(blue / red), np.float64)


def read_colorterms(path: "str | Path") -> dict[str, dict[str, dict[str, Any]]]:
    """Read a library of colour terms (YAML): catalogue glob -> physical filter -> primary, secondary, c0, c1, c2.

    Raises
    ------
    JointCalibrationError
        The file cannot be read or an entry lacks its bands.
    """
    try:
        raw = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        return {g: {f: {"c0": 0.0, "c1": 0.0, "c2": 0.0} | dict(t) for f, t in v.items()} for g, v in raw.items()}
    except (OSError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise JointCalibrationError(f"the library of colour terms {path} cannot be read: {error}") from error


def colour_corrected(
    table: pd.DataFrame, library: Mapping[str, Mapping[str, Mapping[str, Any]]], catalogue: str, physical_filter: str
) -> pd.DataFrame:
    """Return the catalogue with ``<physical_filter>_flux`` by m = p + c0 + c1 (p - s) + c2 (p - s)^2.

    Raises
    ------
    JointCalibrationError
        The library has no terms for this catalogue and filter, or the catalogue lacks a band.
    """
    terms = next((t for g, t in library.items() if fnmatch.fnmatch(catalogue, g) and physical_filter in t), None)
    if terms is None:
        raise JointCalibrationError(
            f"the library of colour terms has none for catalogue {catalogue!r} and filter {physical_filter!r}"
        )
    term = terms[physical_filter]
    first, second = f"{term['primary']}_flux", f"{term['secondary']}_flux"
    missing = [c for c in (first, second, f"{first}Err", f"{second}Err") if c not in table]
    if missing:
        raise JointCalibrationError(f"colour terms of {physical_filter} need the reference columns {missing}")
    with np.errstate(divide="ignore", invalid="ignore"):
        p, s = (-2.5 * np.log10(table[c].to_numpy(np.float64)) for c in (first, second))
        colour = p - s
        m = p + term["c0"] + colour * (term["c1"] + colour * term["c2"])
        slope = term["c1"] + 2 * term["c2"] * colour
        ep, es = (table[f"{c}Err"].to_numpy(np.float64) / table[c].to_numpy(np.float64) for c in (first, second))
        flux = 10.0 ** (-0.4 * m)
        error = flux * np.hypot((1 + slope) * ep, slope * es)
    return table.assign(**{f"{physical_filter}_flux": flux, f"{physical_filter}_fluxErr": error})
