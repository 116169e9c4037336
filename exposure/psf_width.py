"""The full width at half maximum of a PSF model over a box."""

import numpy as np

from exposure.errors import PsfUndefined
from exposure.psf import Psf, fwhm_of
from tasks.arrays import Box

__all__ = ["psf_fwhm"]


def psf_fwhm(psf: Psf, box: Box) -> float:
    """Return the FWHM in px at the average position, or its mean over a 10 x 10 grid of the box where that is undefined.

    NaN where the model is defined nowhere.
    """
    try:
        value = float(fwhm_of(psf.moments_at(*psf.average_position()))[0])
        if np.isfinite(value):
            return value
    except PsfUndefined:
        value = float("nan")  # the average position may lie in a gap: the grid below decides
    x0, y0, width, height = box
    gx, gy = np.meshgrid(x0 + width * np.linspace(0.05, 0.95, 10), y0 + height * np.linspace(0.05, 0.95, 10))
    values = [_fwhm_at(psf, x, y) for x, y in zip(gx.ravel(), gy.ravel(), strict=True)]
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else float("nan")


def _fwhm_at(psf: Psf, x: float, y: float) -> float:
    try:
        return float(fwhm_of(psf.moments_at(x, y))[0])
    except PsfUndefined:
        return float("nan")
