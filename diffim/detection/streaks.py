"""Satellite streaks: straight lines of light on a difference image, found by a Hough transform of its binned significance."""

import math
from typing import Any

import cv2
import numpy as np

from exposure.threads import in_bands
from tasks.arrays import F32, F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["find_streaks"]

BIN = 4
BRIGHT = 2.0  # sigma of a bin that votes
CLIP_AREA = 60  # bins: larger blobs that are round are stars' residuals, not streaks
MIN_SIGNIFICANCE = 9.0  # of the votes of a line over those of chance
MIN_LENGTH = 12  # bins
MAX_WIDTH = 100.0  # px
EDGE_SIGMA = 2.0
N_ANGLES = 360
MAX_STREAKS, MAX_LINES = 8, 16
RIDGE = 0.5  # of the height of a ridge by which it stands above each of its flanks, at least
PARTS, LIT_PARTS = 8, 0.75  # of a line's length, and the share of them that must be lit
PATTERN = 3.0  # FWHM: lines along columns that are wider are no light
BENT, PER_WIDTH = 0.6, 0.05  # bins, and of the width: rms of the middle of the parts about the line, when it is bent


@compiled
def _vote(y: Any, x: Any, cosine: Any, sine: Any, offset: int, votes: Any) -> None:
    for k in range(y.shape[0]):
        for a in range(cosine.shape[0]):
            votes[a, int(x[k] * cosine[a] + y[k] * sine[a] + offset + 0.5)] += 1


@compiled
def _bin_rows(image: Any, variance: Any, good: Any, z: Any, usable: Any, first: int, last: int) -> None:
    """Average some rows of bins: their significance, and whether more than half of their pixels count."""
    for r in range(first, last):
        for c in range(z.shape[1]):
            total = noise = 0.0
            count = 0
            for y in range(r * BIN, (r + 1) * BIN):
                for x in range(c * BIN, (c + 1) * BIN):
                    if good[y, x]:
                        total += image[y, x]
                        noise += variance[y, x]
                        count += 1
            usable[r, c] = 2 * count > BIN * BIN
            z[r, c] = total / math.sqrt(noise) if usable[r, c] and noise > 0 else 0.0


def find_streaks(image: F32, variance: F32, good: Flags, fwhm: float) -> Flags:
    """Return where streaks are, shape (height, width).

    Parameters
    ----------
    image, variance
        A difference (or an image without background) and its variance, shape (height, width), counts and counts^2.
    good
        Pixels that count, shape (height, width).
    fwhm
        Of a star, px: streaks are at least that wide.

    Notes
    -----
    The significance is averaged in bins of 4 x 4; bins above 2 sigma vote for lines (Hough 1962, in the form of Duda & Hart
    1972). A line with far more votes than chance is measured across (its width, where the mean profile falls below 2 sigma)
    and along (where it begins and ends), and taken out before the next is sought. It is a streak, and masked, where it is a
    ridge (a step has one flank only), no wider than `MAX_WIDTH`, straight, and lit all along; what is as long as the
    image, wider than stars and exactly along its columns or rows is a pattern of the detector.
    """
    out = np.zeros(image.shape, np.bool_)
    height, width = (s // BIN for s in image.shape)
    if min(height, width) < MIN_LENGTH:
        return out
    part = np.s_[: height * BIN, : width * BIN]
    z, usable = np.empty((height, width), np.float32), np.empty((height, width), np.bool_)
    in_bands(lambda first, last: _bin_rows(image, variance, good, z, usable, first, last), height)
    z[_round_blobs(z)] = 0
    n_streaks = 0
    for _ in range(MAX_LINES):
        line = _strongest_line(z, usable)
        if line is None:
            break
        extent = _extent(z, usable, *line, fwhm / BIN)
        if extent is None:
            break
        lit_bins, is_streak = extent
        z[lit_bins] = 0
        usable &= ~lit_bins
        if is_streak:
            out[part] |= np.repeat(np.repeat(lit_bins, BIN, axis=0), BIN, axis=1)
            n_streaks += 1
        if n_streaks == MAX_STREAKS:
            break
    return out


def _round_blobs(z: F32) -> Flags:
    """Return bins of connected bright regions that are no longer than wide: sources."""
    n, labels, stats, _ = cv2.connectedComponentsWithStats((z > 3.0).astype(np.uint8), connectivity=8)
    sides = stats[:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].astype(float)
    compact = (sides.max(1) < MIN_LENGTH) & (stats[:, cv2.CC_STAT_AREA] < CLIP_AREA)
    compact[0] = False
    return np.asarray(compact[labels]) if n > 1 else np.zeros(z.shape, np.bool_)


def _strongest_line(z: F32, usable: Flags) -> tuple[float, float] | None:
    """Return (angle, distance) in bins of the line x cos a + y sin a = d with most votes over chance."""
    height, width = z.shape
    y, x = np.nonzero(z > BRIGHT)
    if y.size < MIN_LENGTH:
        return None
    chance = y.size / max(int(usable.sum()), 1)
    angles = np.arange(N_ANGLES) * np.pi / N_ANGLES
    offset = int(np.hypot(height, width)) + 2
    votes = np.zeros((N_ANGLES, 2 * offset + 1), np.int32)
    _vote(y, x, np.cos(angles), np.sin(angles), offset, votes)
    length = _chords(angles, np.arange(-offset, offset + 1), height, width)
    wide = votes[:, :-2] + votes[:, 1:-1] + votes[:, 2:]  # three bins across: a streak is rarely aligned with the grid
    expected = 3 * chance * length[:, 1:-1]
    # of long lines a part may be lit only: judge by the excess over the noise of chance
    score = np.where(length[:, 1:-1] >= MIN_LENGTH, (wide - expected) / np.sqrt(expected + 4.0), 0)
    best = int(np.argmax(score))
    if score.ravel()[best] < MIN_SIGNIFICANCE:
        return None
    a, d = divmod(best, score.shape[1])
    return float(angles[a]), float(d + 1 - offset)


def _chords(angles: F64, distance: I64, height: int, width: int) -> F64:
    """Return the length of the chord of each line in the image, shape (angles, distances), bins."""
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    low = np.full((angles.size, distance.size), -np.inf)
    high = -low
    for origin, direction, top in ((distance * c, -s, width - 1), (distance * s, c, height - 1)):
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = -origin / direction, (top - origin) / direction
        flat = np.abs(direction) < 1e-9
        inside = (origin >= 0) & (origin <= top)
        first = np.where(flat, np.where(inside, -np.inf, np.inf), np.minimum(a, b))
        last = np.where(flat, np.where(inside, np.inf, -np.inf), np.maximum(a, b))
        low, high = np.maximum(low, first), np.minimum(high, last)
    return np.asarray(np.clip(high - low, 0, None))


def _extent(z: F32, usable: Flags, angle: float, distance: float, fwhm: float) -> tuple[Flags, bool] | None:
    """Measure a line across and along; returns its bins and whether it is a streak, None where nothing stands out.

    Where it is none the bins are those of all that is near the line: what is left of a step is no streak either.
    """
    height, width = z.shape
    yy, xx = np.mgrid[0:height, 0:width]
    c, s = math.cos(angle), math.sin(angle)
    across = xx * c + yy * s - distance
    reach = MAX_WIDTH / BIN / 2
    near = usable & (np.abs(across) <= reach + 1)
    if not near.any():
        return None
    along = -xx * s + yy * c
    lit = near & (np.abs(across) <= max(1.5, fwhm))
    first, last = _lit_range(z[lit], along[lit])
    if last - first < MIN_LENGTH:
        return None
    inside = near & (along >= first - 1) & (along <= last + 1)
    index = np.floor(across[inside] + reach + 1.5).astype(int)
    count = np.bincount(index, minlength=int(2 * reach) + 4)
    profile = np.bincount(index, z[inside], minlength=count.size) / np.maximum(count, 1)
    ends = (along >= first - 1) & (along <= last + 1) & (np.abs(across) <= reach + 1)
    there = np.bincount(np.floor(across[ends] + reach + 1.5).astype(int), minlength=count.size) > 0
    high = profile * np.sqrt(np.maximum(count, 1)) > EDGE_SIGMA
    middle = int(reach + 1.5)
    low_edge = middle
    while low_edge > 0 and high[low_edge - 1]:
        low_edge -= 1
    high_edge = middle
    while high_edge < high.size - 1 and high[high_edge + 1]:
        high_edge += 1
    low_d, high_d = low_edge - reach - 2.0, high_edge - reach
    bins = np.asarray((along >= first - 2) & (along <= last + 2) & (across >= low_d) & (across <= high_d))
    more = 0.3 * (high_d - low_d)
    core = inside & (across >= low_d - more) & (across < high_d + more)
    wide = np.count_nonzero(profile > 0.5 * profile[low_edge : high_edge + 1].max()) > PATTERN * max(fwhm, 1.0)
    turned = angle % (np.pi / 2)
    aligned = min(turned, np.pi / 2 - turned) * (last - first) < high_d - low_d
    whole = last - first > 0.7 * (height if abs(c) > 0.5 else width)
    if (
        (wide and aligned and whole)
        or not _is_ridge(profile, count > 0, there, low_edge, high_edge)
        or not _is_straight(z[core], across[core], along[core], (first, last), high_d - low_d)
    ):
        return np.asarray(np.abs(across) <= reach + 1), False
    return bins, True


def _is_ridge(profile: F64, usable: Flags, there: Flags, low: int, high: int) -> bool:
    """Whether a profile falls on both sides of its high part (from `low` to `high`), to less than half of its height.

    `usable` are the places that count, `there` those on the image: only at its edge a streak may have one flank.
    """
    if low <= 1 or high >= profile.size - 3:  # wider than is looked for
        return False
    flank = max(2, (high - low + 1) // 2)
    parts = np.arange(max(low - flank, 0), low), np.arange(high + 1, min(high + 1 + flank, profile.size))
    if any(there[part].any() and not usable[part].any() for part in parts):
        return False
    sides = [float(profile[part[usable[part]]].mean()) for part in parts if usable[part].any()]
    return bool(sides) and max(sides) < (1 - RIDGE) * float(profile[low : high + 1].mean())


def _is_straight(z: F32, across: F64, along: F64, ends: tuple[float, float], width: float) -> bool:
    """Whether a line is lit all along, and its parts lie on it."""
    part = np.clip((along - ends[0]) / (ends[1] - ends[0] + 1e-9) * PARTS, 0, PARTS - 1).astype(int)
    count, total = np.bincount(part, minlength=PARTS), np.bincount(part, z, PARTS)
    seen = count > 0
    mean = total[seen] / count[seen]
    usual = float(np.median(mean)) if mean.size else 0.0
    lit = mean > 0.3 * usual
    if not usual > 0 or lit.mean() < LIT_PARTS:
        return False
    light = np.maximum(z, 0)
    weight = np.bincount(part, light, PARTS)[seen][lit]
    middle = np.bincount(part, light * across, PARTS)[seen][lit] / np.maximum(weight, 1e-9)
    return float(np.std(middle)) < BENT + PER_WIDTH * width


def _lit_range(values: F32, along: F64) -> tuple[float, float]:
    """Return where the light begins and ends: the interval with the largest sum over half the mean of the bright part."""
    step = np.floor(along).astype(int)
    start = int(step.min())
    total = np.bincount(step - start, values)
    count = np.maximum(np.bincount(step - start), 1)
    mean = total / count
    bright = np.sort(mean)[-max(MIN_LENGTH, mean.size // 8) :]
    gain = mean - 0.4 * float(np.median(bright))
    # maximum-sum interval (Kadane)
    cumulative = np.concatenate([[0.0], np.cumsum(gain)])
    lowest = np.minimum.accumulate(cumulative[:-1])
    end = int(np.argmax(cumulative[1:] - lowest))
    begin = int(np.argmin(cumulative[: end + 1]))
    return float(begin + start), float(end + start)
