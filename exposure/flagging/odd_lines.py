"""Rows and columns that are none of the sky: overscan and bias strips along an edge, and dead lines of one value.

What is known of the sky: from one column to the next its level changes little, and its pixels are not all equal. A strip of an
edge that is off from what lies beside it by a step, and quieter, is no sky; neither is a line whose pixels nearly all have one value.
"""

import numpy as np

from tasks.arrays import F32, F64, Flags

__all__ = ["odd_lines"]

WIDEST = 0.2  # of a side: a strip is narrower
BESIDE = 16  # columns inside of a strip that it is held against
QUIET = 0.8  # times their noise: a strip has no light
STEP = 5.0  # times the scatter of steps from line to line, and
STEP_SIGMA = 1.5  # times the scatter of pixels: the least step at the inner edge of a strip
SAME = 0.9  # share of pixels that equal the one before them, in a dead line
USUAL = 0.5  # share of such pixels in other lines, above which equal pixels say nothing
SAMPLE = 512  # pixels of a line whose median is taken


def odd_lines(image: F32) -> Flags | None:
    """Return where an image, shape (height, width), has rows or columns that are no sky; None where there are none."""
    columns, rows = _dead(image) | _strips(image), _dead(image.T) | _strips(image.T)
    if not (columns.any() or rows.any()):
        return None
    return np.asarray(rows[:, None] | columns[None, :])


def _dead(image: F32) -> Flags:
    """Return which columns have one value nearly everywhere."""
    same = (image[1:] == image[:-1]).mean(0)
    return np.asarray((same > SAME) & (np.median(same) < USUAL))


def _strips(image: F32) -> Flags:
    """Return which columns along both edges are off by a step from those inside of them, and quieter."""
    width = image.shape[1]
    out, most = np.zeros(width, np.bool_), int(WIDEST * width)
    level, scatter = _levels(image)
    steps = np.diff(level)
    if most < 2 or np.isfinite(steps).sum() < 16:
        return out
    usual = 1.4826 * float(np.nanmedian(np.abs(steps - np.nanmedian(steps))))
    least = max(STEP * usual, STEP_SIGMA * float(np.nanmedian(scatter)))
    for side in (slice(None), slice(None, None, -1)):
        inner = np.flatnonzero(np.abs(steps[side][:most]) > least)  # few: most columns have no step
        strips = [k for k in inner if _apart(level[side], scatter[side], int(k) + 1, least)]
        if strips:
            out[side][: max(strips) + 1] = True
    return out


def _apart(level: F64, scatter: F64, first: int, least: float) -> bool:
    """Whether the columns before `first` are off to one side by more than they differ, and have less noise than sky."""
    inside = slice(first, first + BESIDE)
    off = level[:first] - np.nanmedian(level[inside])
    off = off[np.isfinite(off)]
    quiet = np.nanmedian(scatter[:first]) < QUIET * np.nanmedian(scatter[inside])
    return bool(off.size and quiet and np.ptp(off) < np.abs(off).min() and np.abs(off).min() > 0.5 * least)


def _levels(image: F32) -> tuple[F64, F64]:
    """Return median and scatter of each column (of some of its pixels; NaN of an empty one)."""
    some = image[:: max(1, image.shape[0] // SAMPLE)].astype(np.float64)
    empty = ~np.isfinite(some).any(0)
    some[0, empty] = 0.0
    some[~np.isfinite(some)] = np.nan
    level = np.nanmedian(some, axis=0)
    scatter = 1.4826 * np.nanmedian(np.abs(some - level), axis=0)
    level[empty] = scatter[empty] = np.nan
    return level, scatter
