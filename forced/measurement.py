"""The rows of forced photometry on one CCD: PSF fluxes, their aperture corrections, and what is measured beside them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from exposure import Exposure
from exposure.apcorr import PSF_FLUX, ApCorrMap
from exposure.mask import plane_bits, usable_pixels
from exposure.noise import sky_autocorrelation
from exposure.photometry import LEAST_COVERAGE, forced_psf_photometry
from exposure.photon_noise import SKY
from exposure.psf import GridPsf, Psf
from forced.errors import ForcedPhotometryError
from forced.plugins import (
    local_background,
    local_photo_calib,
    local_wcs,
    neighbours,
    pixel_flags,
    psf_moments,
)
from tasks.arrays import F64, Flags

__all__ = ["Options", "footprint_radii", "measure_rows"]


@dataclass(frozen=True)
class Options:
    """How positions are measured.

    Parameters
    ----------
    bad_planes
        Mask planes whose pixels are left out, as those of ``NO_DATA`` always are.
    weighting
        Of pixels in the fit, as `exposure.photometry.forced_psf_photometry` takes it.
    correlated_noise
        Errors are those of noise that is correlated as the sky's is.
    aperture_correction, flag_failures
        Fluxes are corrected; where that fails, the flux is flagged too.
    footprint_scaling
        Radius of footprints in PSF sigma.
    """

    bad_planes: Iterable[str]
    weighting: Literal["uniform", "inverse_variance"]
    correlated_noise: bool
    aperture_correction: bool
    flag_failures: bool
    footprint_scaling: float


def measure_rows(
    rows: pd.DataFrame, exposure: Exposure, references: pd.DataFrame, options: Options, log: logging.Logger
) -> pd.DataFrame:
    """Return N rows with what is measured at N references (coord_ra, coord_dec in rad) joined to them.

    Raises
    ------
    ForcedPhotometryError
        The exposure has no PSF.
    """
    psf, x, y = _psf_and_positions(exposure, references)
    out = rows.copy().reset_index(drop=True)
    out["base_TransformedCentroidFromCoord_x"], out["base_TransformedCentroidFromCoord_y"] = x, y
    missing = exposure.flagged("NO_DATA", *options.bad_planes)
    # the PSF of a difference knows it already, and that of the photons of its sources
    photons = psf.photon_noise if isinstance(psf, GridPsf) else None
    known = options.weighting == "uniform" and photons is not None and bool(photons.values[:, SKY].any())
    table = forced_psf_photometry(
        exposure.image,
        exposure.variance,
        psf,
        x,
        y,
        origin=exposure.origin,
        bad=missing if missing.any() else None,
        weighting=options.weighting,
        correlation=_correlation(exposure, log) if options.correlated_noise and not known else None,
    )
    _void_lacking(table)
    for name in ("instFlux", "instFluxErr", "chi2", "npixels", "area", "flag", "flag_edge", "flag_noGoodPixels"):
        out[f"base_PsfFlux_{name}"] = table[name]
    out["base_InvalidPsf_flag"] = table.flag_invalidPsf
    if options.aperture_correction:
        _correct(out, exposure.ap_corr, (x, y), options.flag_failures, log)
    moments = psf_moments(exposure, x, y)
    columns = {
        **pixel_flags(exposure, x, y, moments, options.footprint_scaling),
        **local_background(exposure, x, y, moments),
        **local_photo_calib(exposure, x, y),
        **local_wcs(exposure, x, y),
        "nNeighbours": neighbours(x, y, moments),
    }
    columns["psfFlux"] = out.base_PsfFlux_instFlux.to_numpy() * columns["base_LocalPhotoCalib"]
    columns["psfFluxErr"] = out.base_PsfFlux_instFluxErr.to_numpy() * columns["base_LocalPhotoCalib"]
    return pd.concat([out, pd.DataFrame(columns)], axis=1)


def _void_lacking(table: pd.DataFrame) -> None:
    """Leave no flux, in place, where less than `LEAST_COVERAGE` of the PSF's light falls on pixels that are used; flag it."""
    lost = (table.coverage < LEAST_COVERAGE).to_numpy()
    table.loc[lost, ["instFlux", "instFluxErr"]] = np.nan
    for name in ("flag", "flag_noGoodPixels"):
        table[name] |= lost


def footprint_radii(exposure: Exposure, references: pd.DataFrame, scaling: float) -> F64:
    """Return the radius of the PSF at N references times `scaling`, shape (N,), px.

    Raises
    ------
    ForcedPhotometryError
        The exposure has no PSF.
    """
    _, x, y = _psf_and_positions(exposure, references)
    moments = psf_moments(exposure, x, y)
    return np.asarray(scaling * np.sqrt(0.5 * (moments[:, 0] + moments[:, 1])))


def _psf_and_positions(exposure: Exposure, references: pd.DataFrame) -> tuple[Psf, F64, F64]:
    """Return the PSF and the frame positions (N,) of references in px."""
    if exposure.psf is None:
        raise ForcedPhotometryError("the exposure has no PSF", **exposure.where)
    x, y = exposure.require_wcs().sky_to_pixel(np.degrees(references.coord_ra), np.degrees(references.coord_dec))
    return exposure.psf, x, y


def _correlation(exposure: Exposure, log: logging.Logger) -> F64 | None:
    """Return the noise's autocorrelation (2L + 1, 2L + 1); None where too little blank sky is left to measure it."""
    good = usable_pixels(exposure.image, exposure.variance, exposure.mask, plane_bits(["BAD", "SAT", "NO_DATA"]))
    correlation = sky_autocorrelation(exposure.image, exposure.variance, good)
    if correlation is None:
        log.warning("Too little blank sky to measure the noise's correlation: pixels count as independent.")
    return correlation


def _correct(
    rows: pd.DataFrame, ap_corr: ApCorrMap | None, positions: tuple[F64, F64], flag_failures: bool, log: logging.Logger
) -> None:
    """Multiply fluxes and errors by the aperture correction at frame positions; flag rows where there is none."""
    factor = None
    if ap_corr is not None:
        factor = ap_corr.at(PSF_FLUX, *(np.nan_to_num(p) for p in positions))
    if factor is None:
        log.warning("The exposure has no aperture correction for %s.", PSF_FLUX)
        if ap_corr is not None:
            rows["base_PsfFlux_flag_apCorr"] = True
        return
    good: Flags = np.isfinite(factor) & (factor > 0)
    rows["base_PsfFlux_flag_apCorr"] = ~good
    if flag_failures:
        rows["base_PsfFlux_flag"] |= ~good
    rows["base_PsfFlux_apCorr"] = factor
    for name in ("instFlux", "instFluxErr"):
        rows[f"base_PsfFlux_{name}"] *= np.where(good, factor, 1.0)
