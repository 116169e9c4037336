"""Which faint peaks near a bright one are sources of their own and not what the bright one leaves around itself."""

import numpy as np

from exposure.quantiles import SIGMA_PER_MAD
from tasks.arrays import F32, F64, Flags, nearest_pixels

__all__ = ["stand_out"]

STANDS_OUT = 5.0  # times the scatter of what else lies as far from the bright peak
POINTS = 48  # of a circle
APART = 1.0  # FWHM: what is nearer to the faint peak, or to the place opposite of it, is not the circle's
LEAST_POINTS = 12  # of a circle that tell its scatter
SPIKE = (
    0.5  # of the excess of a faint peak: as much of it on the other side of the bright one makes both of them spikes
)


def stand_out(image: F32, bright: F64, faint: F64, fwhm: float) -> Flags:
    """Return which faint peaks rise above the circle around a bright peak that they lie on, shape (N,).

    What a wrong PSF or kernel leaves around a bright source (rings, lobes of any multipole) fills its circles, so that their
    scatter grows with it; a source is one blob of them. Spikes are blobs too, yet in pairs, opposite of each other.

    Parameters
    ----------
    image
        Significance, sigma, shape (height, width); 0 where there is none.
    bright, faint
        Array pixels x, y of the peaks of each pair, of shape (N, 2).
    fwhm
        Of the PSF, px.
    """
    to_faint = faint - bright
    radius = np.hypot(*to_faint.T)[:, None]
    turn = np.arange(POINTS) * (2 * np.pi / POINTS)
    across = np.abs((turn + np.pi) % (2 * np.pi) - np.pi) * radius  # along the circle, from the faint peak
    angle = np.arctan2(to_faint[:, 1], to_faint[:, 0])[:, None] + turn
    circle = _at(image, bright[:, :1] + radius * np.cos(angle), bright[:, 1:] + radius * np.sin(angle))
    others = np.where((across > APART * fwhm) & (np.pi * radius - across > APART * fwhm), circle, np.nan)
    told = np.isfinite(others).sum(axis=1) >= LEAST_POINTS
    others = np.where(told[:, None], others, 0.0)
    level = np.nanmedian(others, axis=1)
    spread = SIGMA_PER_MAD * np.nanmedian(np.abs(others - level[:, None]), axis=1)
    excess = circle[:, 0] - level
    opposite = circle[:, POINTS // 2] - level
    spike = np.nan_to_num(opposite * np.sign(excess)) > SPIKE * np.abs(excess)
    return np.asarray(told & ~spike & (np.abs(excess) > STANDS_OUT * np.maximum(spread, 1.0)))


def _at(image: F32, x: F64, y: F64) -> F64:
    """Return the values of the nearest pixels, NaN outside of the image and where there is no significance."""
    column, row = nearest_pixels(x), nearest_pixels(y)
    height, width = image.shape
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    values = image[np.where(inside, row, 0), np.where(inside, column, 0)].astype(np.float64)
    return np.where(inside & (values != 0), values, np.nan)
