"""A PSF that varies faster than a polynomial: the model is made as wide as the stars near each place.

Between amplifiers, and towards the rim of some cameras, the width of stars changes within a tenth of the image. What
changes there is mostly the scale: the polynomial model is kept, and stretched on a grid.
"""

import cv2
import numpy as np

from calibration.psf.misfit import size_excess
from calibration.psf.stamps import Stamps
from exposure import GridPsf, Psf
from exposure.quantiles import median, scatter
from exposure.star_locus import local_levels
from tasks.arrays import F32, F64, Box, Flags

__all__ = ["stretched"]

CELLS = 16  # along a side
FEWEST = 10  # stars
LEAST_SCATTER = 0.003  # of FWHM


def stretched(data: Stamps, use: Flags, model: Psf, fwhm: float, bbox: Box) -> GridPsf | None:
    """Return the model stretched to the stars (N,) of `use` near each cell of a grid; None where these are too few."""
    excess = size_excess(data, model, fwhm)
    rows = np.flatnonzero(use & np.isfinite(excess))
    if rows.size < FEWEST:
        return None
    error = np.hypot(data.noise(fwhm)[rows] / data.flux[rows], LEAST_SCATTER)  # the size is as sure as the flux
    x0, y0, width, height = bbox
    gx, gy = (a.ravel() for a in np.meshgrid(_middles(x0, width), _middles(y0, height)))
    around = local_levels(gx, gy, (data.x[rows], data.y[rows]), excess[rows], error, float(max(width, height)))
    limit = 3 * scatter(excess[rows]) + abs(median(excess[rows]))
    return GridPsf(_stretch(model.kernel_at(gx, gy), np.exp(np.clip(around, -limit, limit))), CELLS, CELLS, bbox)


def _middles(first: int, length: int) -> F64:
    return first + (np.arange(CELLS) + 0.5) * length / CELLS - 0.5


def _stretch(stamps: F32, factor: F64) -> F32:
    """Return stamps (N, S, S), each made wider about its middle by its factor, their sums kept."""
    out, middle = np.empty_like(stamps), stamps.shape[-1] // 2
    for k, (stamp, f) in enumerate(zip(stamps, factor, strict=True)):
        move = np.array([[1 / f, 0, middle * (1 - 1 / f)], [0, 1 / f, middle * (1 - 1 / f)]])
        wide = cv2.warpAffine(stamp, move, stamp.shape, flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP)
        out[k] = wide * (stamp.sum() / wide.sum())
    return out
