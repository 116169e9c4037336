"""Instrumental forced fluxes to nJy, with aperture correction and packed flags.

Pixels without data, bad ones and cosmic rays are left out: the flux is that of the whole PSF still, from the pixels that are there. Where less than
`LEAST_COVERAGE` of the PSF's light falls on those there is no flux. Where the fit lacks data anywhere, ``no_data`` is set
(and ``edge`` where it is the edge of the image, or of what a kernel reached, that it lacks): such a flux has no part in a mean.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from exposure import Exposure, PhotoCalib
from exposure.apcorr import PSF_FLUX
from exposure.mask import plane_bits
from exposure.photometry import LACKING, LEAST_COVERAGE, SPOILT, forced_psf_photometry
from exposure.stamps import gather
from forced.plugins import neighbours, psf_moments
from tasks.arrays import F64, I32, Flags
from tasks.lacking import FLAG_BITS, FLAG_PLANES

__all__ = ["FLAG_BITS", "calibrated_fluxes", "difference_fluxes", "measure_pair"]


def calibrated_fluxes(exposure: Exposure, x: ArrayLike, y: ArrayLike, bad: Flags | None = None) -> pd.DataFrame:
    """Return flux, fluxErr (nJy, float64; the image's unit where it has no calibration) and packed ``flags``.

    ``neighbour`` is set where another of the positions lies within two FWHM.

    Parameters
    ----------
    x, y
        Frame positions, shape (N,); NaN allowed.
    bad
        Pixels (height, width) to leave out; by default those without data and those of `exposure.photometry.SPOILT`.

    Raises
    ------
    ExposureError
        The exposure has no PSF.
    """
    psf = exposure.require_psf()
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    missing = ~exposure.good(*SPOILT) if bad is None else bad
    table = forced_psf_photometry(
        exposure.image,
        exposure.variance,
        psf,
        xs,
        ys,
        origin=exposure.origin,
        bad=missing if missing.any() else None,  # no pixel is looked at twice where none is missing
    )
    safe_x, safe_y = np.nan_to_num(xs), np.nan_to_num(ys)
    lost = (table.coverage < LEAST_COVERAGE).to_numpy()
    table.loc[lost, ["instFlux", "instFluxErr"]] = np.nan
    table["flag_noGoodPixels"] |= lost
    calib = exposure.photo_calib or PhotoCalib(1.0)
    factor = calib.at(safe_x, safe_y)
    if exposure.ap_corr is not None and (correction := exposure.ap_corr.at(PSF_FLUX, safe_x, safe_y)) is not None:
        factor = factor * correction
    out = pd.DataFrame({"flux": table.instFlux * factor, "fluxErr": table.instFluxErr * factor})
    crowded = neighbours(xs, ys, psf_moments(exposure, xs, ys)) > 0
    out["flags"] = _flags(exposure, table, safe_x, safe_y) | crowded.astype(np.int32) << FLAG_BITS["neighbour"]
    return out


def _flags(exposure: Exposure, table: pd.DataFrame, x: F64, y: F64) -> I32:
    out = np.zeros(len(table), np.int32)
    for name in ("noGoodPixels", "invalidPsf"):
        out |= table[f"flag_{name}"].to_numpy().astype(np.int32) << FLAG_BITS[name]
    # a stamp whose rim leaves the image lacks nothing to speak of
    beyond = ((table.onImage < LACKING) | (table.npixels == 0)).to_numpy()
    out |= beyond.astype(np.int32) << FLAG_BITS["edge"]
    lacks = (table.coverage < LACKING).to_numpy()
    rows = np.flatnonzero(lacks)
    footprint = _squares(exposure.mask, x[rows], y[rows], exposure.origin, exposure.require_psf().size, 0)
    for name, plane in (("edge", "EDGE"), ("no_data", "NO_DATA")):
        out[rows] |= _any(footprint, plane) << FLAG_BITS[name]
    out |= (lacks & ~beyond).astype(np.int32) << FLAG_BITS["no_data"]  # whatever its planes say
    centre = _squares(exposure.mask, x, y, exposure.origin, 3, 0)
    for plane in FLAG_PLANES:
        out |= _any(centre, plane) << FLAG_BITS[plane.lower()]
    return out


def _any(squares: I32, plane: str) -> I32:
    """Return 1 where any pixel of squares (N, S, S) has a plane, else 0."""
    return np.asarray(((squares & np.int32(plane_bits([plane]))) != 0).any(axis=(1, 2)), np.int32)


def _squares(mask: I32, x: F64, y: F64, origin: tuple[int, int], side: int, fill: int) -> I32:
    """Return the pixels of a mask around frame positions, shape (N, side, side)."""
    ix, iy = (np.clip(np.floor(p + 0.5), -(2**31), 2**31).astype(np.int64) for p in (x, y))
    return np.asarray(gather(mask, ix - origin[0], iy - origin[1], side, fill), np.int32)


def difference_fluxes(difference: Exposure, x: ArrayLike, y: ArrayLike) -> pd.DataFrame:
    """Return `calibrated_fluxes` of a difference: where its kernels left the image (``EDGE``) it has no data either."""
    return calibrated_fluxes(difference, x, y, ~difference.good("EDGE", *SPOILT))


def measure_pair(difference: Exposure, science: Exposure, x: ArrayLike, y: ArrayLike) -> pd.DataFrame:
    """Measure the same positions on difference and science image.

    Returns
    -------
    table : `pandas.DataFrame`
        psfFlux, psfFluxErr (difference), scienceFlux, scienceFluxErr (nJy); ``flags``: difference in the low 16 bits,
        science in the high ones.
    """
    d, s = difference_fluxes(difference, x, y), calibrated_fluxes(science, x, y)
    return pd.DataFrame(
        {
            "psfFlux": d.flux,
            "psfFluxErr": d.fluxErr,
            "scienceFlux": s.flux,
            "scienceFluxErr": s.fluxErr,
            "flags": (d["flags"].to_numpy() | (s["flags"].to_numpy() << 16)).astype(np.int32),
        }
    )
