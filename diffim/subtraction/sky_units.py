"""Raw measurements in units of the sky: errors, moments and angles through the WCS, fluxes through the calibration."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from exposure import PhotoCalib
from exposure.apcorr import PSF_FLUX, ApCorrMap
from tasks.arrays import F64

__all__ = ["FLUXES", "bearing", "calibrated_fluxes", "position_covariance", "sky_moments"]

# raw prefix: published name, whether it is a flux of the PSF model (and gets the aperture correction)
FLUXES: Mapping[str, tuple[str, bool]] = {
    "psf": ("psfFlux", True), "science": ("scienceFlux", True), "ap": ("apFlux", True), "trail": ("trailFlux", True),
    "dipoleMean": ("dipoleMeanFlux", True), "dipoleDiff": ("dipoleFluxDiff", True), "template": ("templateFlux", False),
}  # fmt: skip


def position_covariance(raw: pd.DataFrame, jacobian: F64) -> F64:
    """Return the covariances (N, 2, 2) of RA cos(dec) and dec in deg^2.

    Parameters
    ----------
    raw
        Table with xErr, yErr (px) and x_y_Cov (px^2).
    jacobian
        Shape (N, 2, 2), degrees on the sky per px (`exposure.SkyWcs.jacobian`).
    """
    pixels = np.empty((len(raw), 2, 2))
    pixels[:, 0, 0], pixels[:, 1, 1] = raw.xErr**2, raw.yErr**2
    pixels[:, 0, 1] = pixels[:, 1, 0] = raw.x_y_Cov
    return np.asarray(np.einsum("nij,njk,nlk->nil", jacobian, pixels, jacobian))


def sky_moments(raw: pd.DataFrame, jacobian: F64) -> dict[str, F64]:
    """Return the moments of sources and PSF, px^2 in `raw`, in arcsec^2 on the sky (x east, y north), each (N,).

    `jacobian` (N, 2, 2) is in degrees on the sky per px.
    """
    out: dict[str, F64] = {}
    for suffix in ("", "PSF"):
        m = np.empty((len(raw), 2, 2))
        m[:, 0, 0], m[:, 1, 1] = raw[f"ixx{suffix}"], raw[f"iyy{suffix}"]
        m[:, 0, 1] = m[:, 1, 0] = raw[f"ixy{suffix}"]
        sky = 3600**2 * np.einsum("nij,njk,nlk->nil", jacobian, m, jacobian)
        out |= {f"ixx{suffix}": sky[:, 0, 0], f"iyy{suffix}": sky[:, 1, 1], f"ixy{suffix}": sky[:, 0, 1]}
    return out


def bearing(jacobian: F64, angle: F64) -> F64:
    """Return position angles (N,), degrees east of north from 0 to 360, of angles (N,) in the pixel frame.

    Those are in rad from +x to +y; `jacobian` (N, 2, 2) is in degrees on the sky per px.
    """
    direction = np.einsum("nij,nj->ni", jacobian, np.stack([np.cos(angle), np.sin(angle)], axis=1))
    return np.asarray(np.degrees(np.arctan2(direction[:, 0], direction[:, 1])) % 360.0)


def calibrated_fluxes(
    raw: pd.DataFrame, calib: PhotoCalib, ap_corr: ApCorrMap | None, template_njy: ArrayLike
) -> dict[str, F64]:
    """Return the fluxes of a raw table and their errors in nJy under their published names.

    Parameters
    ----------
    raw
        Table with x, y and the instrumental fluxes.
    calib, ap_corr
        Calibration and aperture corrections of the difference; PSF fluxes of difference and image get the latter.
    template_njy
        nJy per unit of the template, a number or shape (N,).
    """
    x, y = raw.x.to_numpy(np.float64), raw.y.to_numpy(np.float64)
    factor = calib.at(x, y)
    correction = None if ap_corr is None else ap_corr.at(PSF_FLUX, x, y)
    corrected = factor if correction is None else factor * correction
    out: dict[str, F64] = {}
    for prefix, (name, of_psf) in FLUXES.items():
        scale = np.asarray(template_njy) if prefix == "template" else corrected if of_psf else factor
        for suffix in ("", "Err"):
            out[f"{name}{suffix}"] = np.asarray(raw[f"{prefix}InstFlux{suffix}"].to_numpy(np.float64) * scale)
    return out
