"""A PSF that varies faster than a polynomial: the model is made as wide as the stars near each place.

Between amplifiers, and towards the rim of some cameras, the width of stars changes within a tenth of the image. What
changes there is mostly the scale: the polynomial model is kept, and stretched on a grid.
"""

import cv2
import numpy as np
import pandas as pd

from calibration.psf.misfit import size_excess
from exposure import GridPsf, Psf
from exposure.quantiles import scatter
from exposure.star_locus import local_levels
from tasks.arrays import F32, F64, Box

__all__ = ["stretched"]

CELLS = 16  # along a side
FEWEST = 10  # stars


def stretched(stars: pd.DataFrame, model: Psf, bbox: Box) -> GridPsf | None:
    """Return the model stretched to the stars near each cell of a grid; None where these are too few."""
    excess, error = size_excess(stars, model, bbox)
    known = np.isfinite(excess)
    if known.sum() < FEWEST:
        return None
    x0, y0, width, height = bbox
    gx, gy = (a.ravel() for a in np.meshgrid(_middles(x0, width), _middles(y0, height)))
    at = stars.x.to_numpy(np.float64)[known], stars.y.to_numpy(np.float64)[known]
    around = local_levels(gx, gy, at, excess[known], error[known], float(max(width, height)))
    limit = 3 * scatter(excess[known])
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
