"""How wide a PSF model is over a box."""

import numpy as np

from exposure.errors import PsfUndefined
from exposure.psf import Psf, fwhm_of
from tasks.arrays import F64, Box

__all__ = ["psf_fwhm", "psf_sizes"]

NODES = 9  # along a side


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


def psf_sizes(psf: Psf, box: Box, x: F64, y: F64) -> F64:
    """Return the trace radius^2 (N,), px^2, of a PSF model at frame positions, interpolated between nodes over the box.

    NaN next to nodes where the model is not defined.
    """
    x0, y0, width, height = box
    across, along = x0 + width * np.linspace(0, 1, NODES), y0 + height * np.linspace(0, 1, NODES)
    gx, gy = np.meshgrid(across, along)
    try:
        moments = psf.moments_at(gx.ravel(), gy.ravel())
    except PsfUndefined:
        moments = np.concatenate([_moments_at(psf, u, v) for u, v in zip(gx.ravel(), gy.ravel(), strict=True)])
    size = (0.5 * (moments[:, 0] + moments[:, 1])).reshape(NODES, NODES)
    u, v = (np.clip((p - o) / s * (NODES - 1), 0, NODES - 1) for p, o, s in ((x, x0, width), (y, y0, height)))
    i, j = (np.minimum(p.astype(np.int64), NODES - 2) for p in (u, v))
    u, v = u - i, v - j
    low, high = ((1 - u) * size[k, i] + u * size[k, i + 1] for k in (j, j + 1))
    return np.asarray((1 - v) * low + v * high)


def _moments_at(psf: Psf, x: float, y: float) -> F64:
    try:
        return psf.moments_at(x, y)
    except PsfUndefined:
        return np.full((1, 3), np.nan)
