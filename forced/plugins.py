"""What forced photometry measures beside the PSF flux: pixel flags, background, calibration and WCS at each position.

Names are those of the published measurement plugins. Every function takes frame positions of shape (N,), NaN allowed.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from exposure import Exposure
from exposure.mask import PIXEL_FLAGS, PLANES, plane_bits
from exposure.psf import fwhm_of
from tasks.arrays import F64, I32
from tasks.compiled import compiled

__all__ = [
    "local_background",
    "local_photo_calib",
    "local_wcs",
    "neighbours",
    "pixel_flags",
    "psf_moments",
]

Columns = dict[str, NDArray[Any]]

INNER, OUTER = 7.0, 15.0  # of the background annulus, in PSF sigma
_NOT_SKY = plane_bits(["BAD", "SAT", "NO_DATA"])


def psf_moments(exposure: Exposure, x: F64, y: F64) -> F64:
    """Return (N, 3) moments Ixx, Iyy, Ixy (px^2) of the PSF at positions, at the average one where they are no numbers.

    Raises
    ------
    ExposureError
        The exposure has no PSF.
    """
    psf = exposure.require_psf()
    if not x.size:
        return np.zeros((0, 3))
    middle = psf.average_position()
    good = np.isfinite(x) & np.isfinite(y)
    return psf.moments_at(np.where(good, x, middle[0]), np.where(good, y, middle[1]))


@compiled
def _bits(mask: Any, x: Any, y: Any, moments: Any, scale: float, out: Any) -> None:
    """Write to `out` (N, 3) the bits that any pixel of the ellipse has, any of the 3x3 around the centre, all of these."""
    height, width = mask.shape
    for n in range(x.size):
        out[n, :] = 0
        if not (abs(x[n]) < 1e8 and abs(y[n]) < 1e8):
            continue
        xx, yy, xy = moments[n, 0], moments[n, 1], moments[n, 2]
        det = max(xx * yy - xy * xy, 1e-12)
        rx, ry = scale * np.sqrt(xx), scale * np.sqrt(yy)
        for j in range(max(int(np.floor(y[n] - ry)), 0), min(int(np.ceil(y[n] + ry)) + 1, height)):
            for i in range(max(int(np.floor(x[n] - rx)), 0), min(int(np.ceil(x[n] + rx)) + 1, width)):
                dx, dy = i - x[n], j - y[n]
                if yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy <= scale * scale * det:
                    out[n, 0] |= mask[j, i]
        cx, cy = int(np.floor(x[n] + 0.5)), int(np.floor(y[n] + 0.5))
        all_of, seen = np.int64(-1), False
        for j in range(max(cy - 1, 0), min(cy + 2, height)):
            for i in range(max(cx - 1, 0), min(cx + 2, width)):
                out[n, 1] |= mask[j, i]
                all_of &= mask[j, i]
                seen = True
        out[n, 2] = all_of if seen else 0


def pixel_flags(exposure: Exposure, x: F64, y: F64, moments: F64, scale: float = 3.0) -> Columns:
    """Return ``base_PixelFlags_flag_*``: any pixel of the PSF's ellipse, any and all of the 3x3 at the position.

    Parameters
    ----------
    moments
        Shape (N, 3), of the PSF, px^2.
    scale
        Radius of the ellipse in PSF sigma.
    """
    bits = np.zeros((x.size, 3), np.int64)
    _bits(exposure.mask, x - exposure.origin[0], y - exposure.origin[1], moments, scale, bits)
    off = ~exposure.contains(x, y)
    lost = ~(np.isfinite(x) & np.isfinite(y))
    out: Columns = {"base_PixelFlags_flag": lost, "base_PixelFlags_flag_offimage": off}
    for name, plane in PIXEL_FLAGS.items():
        for column, where in enumerate(("", "Center", "CenterAll")):
            hit = (bits[:, column] >> PLANES[plane]) & 1 > 0
            out[f"base_PixelFlags_flag_{name}{where}"] = hit | off if name == "edge" else hit
    return out


@compiled
def _annulus(image: Any, mask: Any, bits: int, x: Any, y: Any, sigma: Any, out: Any) -> None:
    """Write to `out` (N, 2): the clipped mean and the clipped standard deviation of the ring (3 sigma, 3 times)."""
    height, width = image.shape
    for n in range(x.size):
        out[n, :] = np.nan
        if not (abs(x[n]) < 1e8 and abs(y[n]) < 1e8 and sigma[n] > 0):
            continue
        inner, outer = INNER * sigma[n], OUTER * sigma[n]
        j0, j1 = max(int(np.floor(y[n] - outer)), 0), min(int(np.ceil(y[n] + outer)) + 1, height)
        i0, i1 = max(int(np.floor(x[n] - outer)), 0), min(int(np.ceil(x[n] + outer)) + 1, width)
        low, high = -np.inf, np.inf
        for _ in range(4):
            total = squares = 0.0
            count = 0
            zero = out[n, 0] if np.isfinite(out[n, 0]) else 0.0
            for j in range(j0, j1):
                for i in range(i0, i1):
                    r2 = (i - x[n]) ** 2 + (j - y[n]) ** 2
                    value = image[j, i]
                    if inner * inner <= r2 <= outer * outer and not mask[j, i] & bits and low <= value <= high:
                        total += value - zero
                        squares += (value - zero) ** 2
                        count += 1
            if not count:
                break
            mean = total / count
            out[n, 0] = zero + mean
            out[n, 1] = np.sqrt(max(squares / count - mean * mean, 0.0) * count / max(count - 1, 1))
            low, high = out[n, 0] - 3 * out[n, 1], out[n, 0] + 3 * out[n, 1]


def local_background(exposure: Exposure, x: F64, y: F64, moments: F64) -> Columns:
    """Return the clipped mean and standard deviation per pixel in a ring of 7 to 15 PSF sigma (not subtracted).

    `moments` of the PSF (N, 3) are in px^2; values are in instrument units.
    """
    sigma = np.maximum(moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2, 0.0) ** 0.25
    out = np.empty((x.size, 2))
    x0, y0 = exposure.origin
    _annulus(exposure.image, exposure.mask, _NOT_SKY, x - x0, y - y0, sigma, out)
    none = np.isnan(out[:, 0])
    return {
        "base_LocalBackground_instFlux": out[:, 0],
        "base_LocalBackground_instFluxErr": out[:, 1],
        "base_LocalBackground_flag": none,
        "base_LocalBackground_flag_noGoodPixels": none,
        "base_LocalBackground_flag_noPsf": np.zeros(x.size, bool),
    }


def local_photo_calib(exposure: Exposure, x: F64, y: F64) -> Columns:
    """Return nJy per instrument unit at each position and its error; NaN and a flag without a calibration."""
    calib = exposure.photo_calib
    value, error = np.full(x.size, np.nan), np.full(x.size, np.nan)
    good = np.isfinite(x) & np.isfinite(y)
    if calib is not None:
        value[good], error[good] = calib.at(x[good], y[good]), calib.error
    return {
        "base_LocalPhotoCalib": value,
        "base_LocalPhotoCalibErr": error,
        "base_LocalPhotoCalib_flag": np.full(x.size, calib is None) | ~good,
    }


def local_wcs(exposure: Exposure, x: F64, y: F64) -> Columns:
    """Return the matrix from pixels to the local tangent plane, radians per pixel; NaN and a flag without a WCS."""
    matrix = np.full((x.size, 2, 2), np.nan)
    good = np.isfinite(x) & np.isfinite(y)
    if exposure.wcs is not None:
        matrix[good] = np.radians(exposure.wcs.jacobian(x[good], y[good]))
    out: Columns = {f"base_LocalWcs_CDMatrix_{j + 1}_{i + 1}": matrix[:, j, i] for j in (0, 1) for i in (0, 1)}
    return {**out, "base_LocalWcs_flag": ~np.isfinite(matrix).all(axis=(1, 2))}


def neighbours(x: F64, y: F64, moments: F64) -> I32:
    """Return how many other positions (N,) lie within two FWHM of each: each other's fluxes hold light of theirs."""
    out = np.zeros(x.size, np.int32)
    good = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if good.size:
        positions = np.stack([x[good], y[good]], axis=1)
        out[good] = cKDTree(positions).query_ball_point(positions, 2 * fwhm_of(moments[good]), return_length=True) - 1
    return out
