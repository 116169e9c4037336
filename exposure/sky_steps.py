"""Steps of the sky from one column, or row, to the next: amplifiers whose zero levels or gains are not the same.

A mesh cannot follow them. It leaves saw teeth on both sides, among which sources are found and stars measured wrong.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from exposure.mask import plane_bits
from exposure.quantiles import block_medians, scatter
from tasks.arrays import F32, F64, I64, Flags

if TYPE_CHECKING:
    from exposure.exposure import Exposure

__all__ = ["subtract_steps"]

WIDE, NARROW = 16, 4  # columns on each side whose medians tell a step's height, and that it is within one column
SURE, SEEN = 8.0, 4.0  # sigma of the height, and of the jump between the few columns next to it
SHARP = 0.6  # of the height that the jump has at least: what rises over more columns is no step
HEIGHT_NOISE, JUMP_NOISE = 0.7, 0.95  # of columns that know nothing of each other, in units of that of one column
MOST = 16  # steps: no detector has more amplifiers beside each other, and what is more is something else
MEDIAN_NOISE = 1.25  # of a median, in units of that of a mean
APART = 8  # columns, more than a source has: their difference knows of noise and sources
SAMPLED = 512  # pixels of a column that its level is known from
DRIFT = 16  # of these, a run whose level is known
STEEP = 10.0  # sigma over a column: a tenth of it that is covered makes a step
LEAST_PIXELS = 32  # of a column: fewer tell nothing
PARTS = (1, 2)  # of a column that are looked at: detectors are read out from both ends


def subtract_steps(exposure: "Exposure") -> int:
    """Take steps of the sky between columns, and between rows, off in place; returns how many there were.

    Only steps beyond doubt are: an image without any stays as it is. The mean level of the image is kept.
    """
    number = 0
    for axis in (0, 1):
        for parts in PARTS:
            for k in range(parts):
                number += _subtract_along(exposure, axis, k, parts)
    return number


def _subtract_along(exposure: "Exposure", axis: int, part: int, parts: int) -> int:
    """Take the steps of one of the parts of the columns (axis 0) or rows (axis 1) off; returns how many there were."""
    size = exposure.image.shape[axis]
    rows = slice(part * size // parts, (part + 1) * size // parts)
    image = (exposure.image if axis == 0 else exposure.image.T)[rows]
    mask = (exposure.mask if axis == 0 else exposure.mask.T)[rows]
    step = max(1, image.shape[0] // SAMPLED)
    some = np.ascontiguousarray(image[::step], np.float32)
    usable = np.isfinite(some) & ((mask[::step] & plane_bits(["NO_DATA", "BAD", "SAT", "CR"])) == 0)
    apart = (some[:, APART:] - some[:, :-APART])[usable[:, APART:] & usable[:, :-APART]][::APART]
    noise = scatter(apart) / np.sqrt(2) if apart.size else 0.0
    some = _without_drift(some, usable, noise)
    levels = np.full((1, some.shape[1]), np.nan)
    block_medians(some, usable, np.array([0, some.shape[0]]), np.arange(some.shape[1] + 1), LEAST_PIXELS, levels)
    least = MEDIAN_NOISE * noise / np.sqrt(some.shape[0])
    where, heights = find_steps(levels[0], least)
    if where.size:
        offsets = np.zeros(some.shape[1])
        offsets[where] = heights
        offsets = np.cumsum(offsets)
        there = (mask & plane_bits(["NO_DATA"])) == 0
        np.subtract(image, (offsets - offsets.mean()).astype(np.float32), out=image, where=there)
    return int(where.size)


def _without_drift(some: F32, usable: Flags, noise: float) -> F32:
    """Return pixels without what changes along the columns; as they are where that is less than `STEEP` times their noise.

    Where it does, the median of a column depends on which of its pixels are covered: a bright star makes steps at its rims.
    """
    runs = max(1, some.shape[0] // DRIFT)
    edges = np.linspace(0, some.shape[0], runs + 1).astype(np.int64)
    drift = np.full((runs, 1), np.nan)
    block_medians(some, usable, edges, np.array([0, some.shape[1]]), LEAST_PIXELS, drift)
    known = np.flatnonzero(np.isfinite(drift[:, 0]))
    if known.size < 2 or np.ptp(drift[known]) <= STEEP * noise:
        return some
    middles = 0.5 * (edges[1:] + edges[:-1] - 1)
    along = np.interp(np.arange(some.shape[0]), middles[known], drift[known, 0])
    return np.asarray(some - along[:, None], np.float32)


def find_steps(levels: F64, least: float = 0.0) -> tuple[I64, F64]:
    """Return the columns (N,) at which steps begin, and their heights (N,), in the unit of the levels.

    Parameters
    ----------
    levels
        Of the columns, shape (width,); NaN where nothing is known.
    least
        Noise that a level has at least, for the noise of its pixels.

    Notes
    -----
    A height is the difference of the medians of `WIDE` columns on both sides, less what the trends on both sides make of it.
    It must stand out of the noise and of the heights at other columns, which know of sources and curvature, and be made at once.
    """
    none = np.zeros(0, np.int64), np.zeros(0)
    known = np.flatnonzero(np.isfinite(levels))
    if known.size < 8 * WIDE:
        return none
    filled = np.interp(np.arange(levels.size), known, levels[known])
    wide = np.median(sliding_window_view(filled, WIDE), axis=1)  # of the columns from each one on
    column = np.arange(2 * WIDE, levels.size - 2 * WIDE + 1)
    left, right = wide[column - WIDE], wide[column]
    height = right - left - 0.5 * (left - wide[column - 2 * WIDE] + wide[column + WIDE] - right)
    narrow = np.median(sliding_window_view(filled, NARROW), axis=1)
    jump = _above_neighbours(narrow[NARROW:] - narrow[:-NARROW])[column - NARROW]
    single = scatter(filled[APART:] - filled[:-APART]) / np.sqrt(2)  # of one column: few have a step between them
    single = float(np.hypot(max(single, least), 2 * _digit(levels[known])))
    sure = (np.abs(height) > SURE * HEIGHT_NOISE * single) & (np.abs(jump) > SEEN * JUMP_NOISE * single)
    sure &= (np.sign(jump) == np.sign(height)) & (np.abs(jump) > SHARP * np.abs(height))
    found: list[int] = []
    for k in np.flatnonzero(sure)[np.argsort(-np.abs(height[sure]), kind="stable")]:
        if all(abs(k - other) >= WIDE for other in found):
            found.append(int(k))
        if len(found) > MOST:
            return none
    rows = np.sort(np.array(found, np.int64))
    return _sharpest(filled, column[rows]), height[rows]


def _digit(levels: F64) -> float:
    """Return the least difference between levels that differ: medians of digitised values are whole digits, or half ones."""
    apart = np.diff(np.unique(levels))
    return float(apart.min()) if apart.size else 0.0


def _above_neighbours(jumps: F64) -> F64:
    """Return jumps less the mean of those 2 `NARROW` columns away on both sides, which a slope has too."""
    far = 2 * NARROW
    padded = np.pad(jumps, far, mode="edge")
    return np.asarray(jumps - 0.5 * (padded[: -2 * far] + padded[2 * far :]))


def _sharpest(levels: F64, columns: I64) -> I64:
    """Return where, within `NARROW` of some columns (N,), the means of the `NARROW` columns on both sides differ most."""
    mean = sliding_window_view(levels, NARROW).mean(1)
    near = columns[:, None] + np.arange(-NARROW, NARROW + 1)
    best = np.abs(mean[near] - mean[near - NARROW]).argmax(1)
    return np.asarray(near[np.arange(columns.size), best])
