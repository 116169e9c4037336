"""Configurations of tasks for an instrument: what its file says, over defaults in arcsec that fit its pixels and the seeing."""

from typing import TYPE_CHECKING, Any

import numpy as np

from exposure.exposure import Exposure
from exposure.instrument import Instrument
from exposure.psf import fwhm_of

if TYPE_CHECKING:
    from tasks.base import AlertTask

__all__ = ["arcsec_scale", "task_overrides"]

# defaults in arcsec hold for stars of this FWHM or less; wider ones are placed, and confused, in proportion
USUAL_FWHM_ARCSEC = 1.25
LEAST_FWHM_PX = 2.0  # positions are no better than pixels allow
IN_ARCSEC = (
    "maxDistArcSeconds", "solarSystemMaxDistArcSeconds", "angleMargin", "sigmaFloorArcSeconds",
    "fallbackSigmaArcSeconds", "forcedTrailLengthThreshold",
)  # fmt: skip


def arcsec_scale(rules: Instrument, exposure: Exposure | None = None) -> float:
    """Return the factor of defaults in arcsec: FWHM over `USUAL_FWHM_ARCSEC`, at least 1.

    The FWHM is that of the exposure's PSF where it has one, and at least `LEAST_FWHM_PX` pixels; their scale is that of the
    instrument file, else of the exposure's WCS.
    """
    fwhm = LEAST_FWHM_PX
    if exposure is not None and exposure.psf is not None:
        measured = float(np.squeeze(fwhm_of(exposure.psf.moments_at(*exposure.psf.average_position()))))
        fwhm = max(fwhm, measured) if np.isfinite(measured) else fwhm
    scale = rules.pixel_scale
    if scale is None:
        scale = exposure.pixel_scale_arcsec() if exposure is not None and exposure.wcs is not None else 0.0
    return max(1.0, fwhm * scale / USUAL_FWHM_ARCSEC)


def task_overrides(task: "type[AlertTask]", rules: Instrument, exposure: Exposure | None = None) -> dict[str, Any]:
    """Return the configuration of a task by dotted names: scaled defaults, then what the instrument file says."""
    scale, config = arcsec_scale(rules, exposure), task.ConfigClass()
    scaled = {name: scale * getattr(config, name) for name in IN_ARCSEC if scale > 1 and hasattr(config, name)}
    if hasattr(config, "forcedNeedsReliability"):
        # the measurement scores every source, unless it was told not to
        scaled["forcedNeedsReliability"] = bool(_measurement(rules).get("doReliability", True))
    return {**scaled, **(rules.task_config.get(task.__name__) or {})}


def _measurement(rules: Instrument) -> dict[str, Any]:
    """Return the options of the measurement in an instrument file."""
    return rules.task_config.get("ImageDifferenceTask") or {}
