"""Which rows of the source tables are good stars, and the covariance of their positions."""

import logging

import numpy as np
import pandas as pd

from calibration.errors import JointCalibrationError
from calibration.joint.config import SourceSelectorConfig
from calibration.joint.io.columns import flags
from tasks.arrays import F64, Flags

__all__ = ["columns_needed", "flag_columns", "good_covariance", "positive_flux", "possible_flux", "select_sources"]

log = logging.getLogger("alertprod.jointcal")
REQUIRED = ("visit", "detector", "sourceId", "x", "xErr", "y", "yErr")
_LARGEST_FLUX, _LARGEST_RATIO = 1e20, 1e8  # counts, and S/N: more no detector measures
_SHAPES = (("ixx", "iyy", "ixy"), ("Ixx", "Iyy", "Ixy"))


def columns_needed(present: "set[str]", config: SourceSelectorConfig, flux_type: str, use_flux: bool) -> list[str]:
    """Return the columns to read of a table that has `present`; the selector's own are optional.

    Raises
    ------
    JointCalibrationError
        A required column is missing.
    """
    required = [c for c in REQUIRED if c != "sourceId"]
    if use_flux:
        required += [f"{flux_type}_instFlux", f"{flux_type}_instFluxErr"]
    missing = [c for c in required if c not in present]
    if missing:
        raise JointCalibrationError(
            f"the source table lacks the columns {missing}; it needs {required} (config sourceFluxType={flux_type!r})"
        )
    wanted = [
        *required,
        "sourceId",
        f"{flux_type}_instFlux",
        f"{flux_type}_instFluxErr",
        *_selector_columns(config, flux_type),
    ]
    shape = next((names for names in _SHAPES if set(names) <= present), ())
    return list(dict.fromkeys([c for c in wanted if c in present] + list(shape)))


def _selector_columns(config: SourceSelectorConfig, flux_type: str) -> list[str]:
    out: list[str] = []
    if config.doRequirePrimary:
        out.append("detect_isPrimary")
    if config.doUnresolved:
        out.append("sizeExtendedness")
    if config.doIsolated:
        out += ["parentSourceId", "deblend_nChild"]
    if config.doRequireFiniteRaDec:
        out += ["ra", "dec"]
    if config.doFlags:
        out += [name.format(fluxType=flux_type) for name in config.badFlags]
    return out


def flag_columns(config: SourceSelectorConfig, flux_type: str) -> set[str]:
    """Return the names of the columns that hold flags."""
    return {"detect_isPrimary", *(name.format(fluxType=flux_type) for name in config.badFlags)}


def select_sources(table: pd.DataFrame, config: SourceSelectorConfig, flux_type: str) -> Flags:
    """Return which rows (N,) the "science" selector keeps; columns that the table does not have select nothing."""
    keep = np.ones(len(table), bool)
    have = set(table.columns)
    flux, error = f"{flux_type}_instFlux", f"{flux_type}_instFluxErr"
    if config.doSignalToNoise and {flux, error} <= have:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = table[flux].to_numpy(np.float64) / table[error].to_numpy(np.float64)
        keep &= ratio > config.signalToNoiseMinimum
        if config.signalToNoiseMaximum is not None:
            keep &= ratio < config.signalToNoiseMaximum
    if config.doRequirePrimary and "detect_isPrimary" in have:
        keep &= flags(table, "detect_isPrimary", False)
    if config.doUnresolved and "sizeExtendedness" in have:
        keep &= table["sizeExtendedness"].to_numpy(np.float64) < config.unresolvedMaximum
    if config.doIsolated:
        for name in ("parentSourceId", "deblend_nChild"):
            if name in have:
                keep &= table[name].to_numpy() == 0
    if config.doRequireFiniteRaDec:
        for name in ("ra", "dec"):
            if name in have:
                keep &= np.isfinite(table[name].to_numpy(np.float64))
    if config.doFlags:
        for name in config.badFlags:
            column = name.format(fluxType=flux_type)
            if column in have:
                keep &= ~flags(table, column, True)
    return keep


def possible_flux(table: pd.DataFrame, flux_type: str) -> Flags:
    """Return which rows (N,) have a flux that a detector can measure, or none at all."""
    out = np.ones(len(table), bool)
    flux, error = f"{flux_type}_instFlux", f"{flux_type}_instFluxErr"
    if flux in table and error in table:
        value, sigma = (np.abs(table[name].to_numpy(np.float64)) for name in (flux, error))
        with np.errstate(over="ignore"):
            out &= ~(
                (value > _LARGEST_FLUX) | (sigma > _LARGEST_FLUX) | ((sigma > 0) & (value > _LARGEST_RATIO * sigma))
            )
    return out


def positive_flux(table: pd.DataFrame, flux_type: str) -> Flags:
    """Return which rows (N,) have a flux and an error above zero, as a fit of fluxes needs them."""
    names = (f"{flux_type}_instFlux", f"{flux_type}_instFluxErr")
    return np.asarray((table[[*names]].to_numpy(np.float64) > 0).all(1))


def good_covariance(table: pd.DataFrame) -> tuple[F64, F64, F64, Flags]:
    """Return vx, vy, vxy (px^2) and which rows have a usable position and covariance, all (N,).

    No pipeline stores the covariance of a centroid: the shape of the source supplies its correlation,
    vxy = ixy (vx + vy) / (ixx + iyy); without shapes it is zero.
    """
    vx, vy = table["xErr"].to_numpy(np.float64) ** 2, table["yErr"].to_numpy(np.float64) ** 2
    names = next((names for names in _SHAPES if set(names) <= set(table.columns)), None)
    if names is None:
        vxy = np.zeros(len(table))
    else:
        ixx, iyy, ixy = (table[n].to_numpy(np.float64) for n in names)
        with np.errstate(divide="ignore", invalid="ignore"):
            vxy = ixy * (vx + vy) / (ixx + iyy)
    with np.errstate(invalid="ignore"):
        good = np.isfinite(vx) & np.isfinite(vy) & np.isfinite(vxy) & (vxy**2 <= vx * vy)
        good &= (vx > 0) & (vy > 0)
    for name in ("x", "y"):
        good &= np.isfinite(table[name].to_numpy(np.float64))
    return vx, vy, vxy, good
