"""Conditions of an exposure, kept with its metrics: seeing and airmass."""

import math

from exposure import Exposure
from exposure.psf import fwhm_of

__all__ = ["conditions_of"]


def conditions_of(science: Exposure) -> dict[str, float]:
    """Return ``seeingArcsec`` (FWHM of the PSF) and ``airmass``; what is not known is left out."""
    out = {"airmass": float(science.require_visit_info().airmass)}
    if science.psf is not None:
        x, y = science.psf.average_position()
        out["seeingArcsec"] = float(fwhm_of(science.psf.moments_at(x, y))[0]) * science.pixel_scale_arcsec()
    return {name: round(value, 4) for name, value in out.items() if math.isfinite(value)}
