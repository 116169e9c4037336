"""Sums in circles around given positions."""

import numpy as np
import sep

from exposure import Exposure
from tasks.arrays import F64

__all__ = ["aperture_fluxes"]


def aperture_fluxes(exposure: Exposure, x: F64, y: F64, radius: float) -> tuple[F64, F64]:
    """Return sums and their errors (unit of the image), exact at the rim; NaN where the circle has a pixel without a value.

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
        whole = (px - radius > -0.5) & (py - radius > -0.5)
        whole &= (px + radius < exposure.width - 0.5) & (py + radius < exposure.height - 0.5)
    rows = np.flatnonzero(whole)
    if not rows.size:
        return flux, error
    bad = ~exposure.good()
    planes = [np.where(bad, 0, p).astype(np.float32) for p in (exposure.image, exposure.variance)]
    total, spread, _ = sep.sum_circle(planes[0], px[rows], py[rows], radius, var=planes[1], subpix=0)
    missing, _, _ = sep.sum_circle(bad.astype(np.float32), px[rows], py[rows], radius, subpix=0)
    kept = missing == 0
    flux[rows[kept]], error[rows[kept]] = total[kept], spread[kept]
    return flux, error
