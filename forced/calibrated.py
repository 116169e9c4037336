"""Instrumental forced fluxes to nJy, with aperture correction and packed flags."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from exposure import Exposure, PhotoCalib
from exposure.apcorr import PSF_FLUX
from exposure.mask import plane_bits
from exposure.photometry import forced_psf_photometry
from exposure.stamps import gather
from forced.plugins import neighbours, psf_moments
from tasks.arrays import F64, I32, Flags

__all__ = ["FLAG_BITS", "calibrated_fluxes", "measure_pair"]

_PLANES = ("SAT", "BAD", "CR", "NO_DATA", "INJECTED", "HIGH_VARIANCE", "SAT_TEMPLATE")
FLAG_BITS = {
    "edge": 0, "noGoodPixels": 1, "invalidPsf": 2, **{p.lower(): 3 + k for k, p in enumerate(_PLANES)}, "neighbour": 10,
}  # fmt: skip


def calibrated_fluxes(exposure: Exposure, x: ArrayLike, y: ArrayLike, bad: Flags | None = None) -> pd.DataFrame:
    """Return flux, fluxErr (nJy, float64; the image's unit where it has no calibration) and packed ``flags``.

    ``neighbour`` is set where another of the positions lies within two FWHM.

    Parameters
    ----------
    x, y
        Frame positions, shape (N,); NaN allowed.
    bad
        Pixels (height, width) to leave out; where none of the 3x3 around a position is left there is no flux.

    Raises
    ------
    ExposureError
        The exposure has no PSF.
    """
    psf = exposure.require_psf()
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    table = forced_psf_photometry(exposure.image, exposure.variance, psf, xs, ys, origin=exposure.origin, bad=bad)
    safe_x, safe_y = np.nan_to_num(xs), np.nan_to_num(ys)
    if bad is not None:
        lost = _centres(~bad, safe_x, safe_y, exposure.origin, False).sum((1, 2)) == 0
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
    for name in ("edge", "noGoodPixels", "invalidPsf"):
        out |= table[f"flag_{name}"].to_numpy().astype(np.int32) << FLAG_BITS[name]
    centre = _centres(exposure.mask, x, y, exposure.origin, 0)
    for plane in _PLANES:
        hit = ((centre & plane_bits([plane])) != 0).any(axis=(1, 2))
        out |= hit.astype(np.int32) << FLAG_BITS[plane.lower()]
    return out


def _centres(plane: NDArray[Any], x: F64, y: F64, origin: tuple[int, int], fill: float) -> NDArray[Any]:
    """Return the 3x3 of a plane around frame positions, shape (N, 3, 3)."""
    ix, iy = (np.clip(np.floor(p + 0.5), -(2**31), 2**31).astype(np.int64) for p in (x, y))
    return np.asarray(gather(plane, ix - origin[0], iy - origin[1], 3, fill))


def measure_pair(difference: Exposure, science: Exposure, x: ArrayLike, y: ArrayLike) -> pd.DataFrame:
    """Measure the same positions on difference and science image.

    Returns
    -------
    table : `pandas.DataFrame`
        psfFlux, psfFluxErr (difference), scienceFlux, scienceFluxErr (nJy); ``flags``: difference in the low 16 bits,
        science in the high ones.
    """
    d, s = calibrated_fluxes(difference, x, y), calibrated_fluxes(science, x, y)
    return pd.DataFrame(
        {
            "psfFlux": d.flux,
            "psfFluxErr": d.fluxErr,
            "scienceFlux": s.flux,
            "scienceFluxErr": s.fluxErr,
            "flags": (d["flags"].to_numpy() | (s["flags"].to_numpy() << 16)).astype(np.int32),
        }
    )
