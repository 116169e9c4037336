"""Sums in circles around given positions."""

import numpy as np
import sep

from exposure import Exposure
from exposure.photometry import SPOILT
from tasks.arrays import F64

__all__ = ["aperture_fluxes"]


def aperture_fluxes(exposure: Exposure, x: F64, y: F64, radius: float) -> tuple[F64, F64]:
    """Return sums and their standard errors, each (N,) in the unit of the image, with exact fractions of pixels at the rim.

    They are NaN where the circle leaves the image or has a pixel without a value, a bad one or a cosmic ray.

    Parameters
    ----------
    exposure
        Its sky must be taken off.
    x, y
        Frame positions, shape (N,); NaN allowed.
    radius
        Of the circle, px.
    """
    flux, error = np.full(x.size, np.nan), np.full(x.size, np.nan)
    px, py = x - exposure.origin[0], y - exposure.origin[1]
    with np.errstate(invalid="ignore"):
        inside = (px - radius > -0.5) & (py - radius > -0.5)
        inside &= (px + radius < exposure.width - 0.5) & (py + radius < exposure.height - 0.5)
    rows = np.flatnonzero(inside)
    if not rows.size:
        return flux, error
    bad = ~exposure.good(*SPOILT)
    planes = [np.where(bad, 0, p).astype(np.float32) for p in (exposure.image, exposure.variance)]
    total, sigma, _ = sep.sum_circle(planes[0], px[rows], py[rows], radius, var=planes[1], subpix=0)
    missing, _, _ = sep.sum_circle(bad.astype(np.float32), px[rows], py[rows], radius, subpix=0)
    complete = missing == 0
    flux[rows[complete]], error[rows[complete]] = total[complete], sigma[complete]
    return flux, error
