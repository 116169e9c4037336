"""Stars among the sources of an image: the sharp edge at small size of the plane of size and signal to noise.

Nothing is smaller than the PSF, and all stars are as large as it: the sizes of stars are a narrow peak, with hardly
anything below and the broad sizes of galaxies above. The most crowded place of that plane is the edge only where stars
are many. Sizes are therefore described by a mixture (as in Sevilla-Noarbe et al. 2018, MNRAS 481, 5451, section 3, in
one dimension): a Gaussian as wide as the noise of each size, the extended sources at larger sizes only, and a little of
anything. The likelihood says where the peak is. Where the PSF varies the peak moves: it is looked for in cells of the
image, each drawn towards its neighbours, and then followed by planes through the nearest stars.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from exposure.size_mixture import (
    BIN,
    CLASSES,
    KEEP,
    NOISE,
    TABLE,
    Mixture,
    Sizes,
    densities,
    profile,
    shape,
    unstructured,
)
from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled
from tasks.reprs import short_repr

__all__ = ["EVIDENT", "StarLocus", "local_levels", "star_locus"]

EVIDENT = 9.0
"""Gain of ln likelihood by a peak above which there are stars."""
CHANCE = 1 / 150  # of that gain, per source: what the density of galaxies alone is not as smooth as it is taken for
WIDTHS = (0.03, 0.07)  # scatter of stars that is tried first
STEP = 0.03  # of ln size, of the levels that are tried
SURE = 0.4  # gain of ln likelihood per source above which no other start is tried
MOST = 900  # sources that the peak is looked for among
TURNS = 3
MOST_ANCHORS = 300
NEAREST = 16  # stars that a plane goes through
STEEP = 0.5  # ln size over the image: slope of a plane that needs no evidence
A_CELL = 25  # sources
MOST_CELLS = 8  # along a side
LIKELY = 0.6  # probability of a star
EMPTY = 3.0  # ln of the odds against a range of sizes, per ln size, that has artefacts alone
USUAL_EXCESS = 0.6  # ln size of extended sources above that of stars


@dataclass(frozen=True)
class StarLocus:
    """Where the stars are.

    Parameters
    ----------
    star
        Whether each source is one, shape (N,).
    probability
        Of being one, shape (N,); 0 where nothing is known.
    level
        ln of a star's size at each source, shape (N,).
    scatter
        Standard deviation of the ln sizes of stars beyond their noise.
    evidence
        Gain of ln likelihood by the stars; less than `EVIDENT`: there may be none.
    """

    star: Flags
    probability: F64
    level: F64
    scatter: float
    evidence: float

    __repr__ = short_repr


def star_locus(x: F64, y: F64, snr: F64, log_size: F64, clean: Flags, within: float | None = None) -> StarLocus:
    """Find the stars.

    Parameters
    ----------
    x, y
        Shape (N,), px.
    snr
        Signal to noise, shape (N,).
    log_size
        ln of the size (px^2), or of its ratio to that of a PSF model; NaN where there is none, shape (N,).
    clean
        The sources that tell where the stars are, shape (N,): bright, alone, not marred.
    within
        The stars are known to lie this near to 0: `log_size` is relative to a model.
    """
    usable = np.flatnonzero(np.isfinite(log_size) & (snr > 0))
    every = Sizes(x[usable], y[usable], log_size[usable], NOISE / snr[usable], np.digitize(snr[usable], CLASSES))
    rows = np.flatnonzero(clean[usable])
    rows = rows[np.argsort(every.noise[rows], kind="stable")]
    if rows.size > MOST:  # the brightest tell most; of the others some from all classes
        rows = np.append(rows[: MOST // 2], rows[MOST // 2 :: (2 * rows.size - MOST) // MOST + 1])
    out = StarLocus(np.zeros(x.size, np.bool_), np.zeros(x.size), np.full(x.size, np.nan), float("nan"), 0.0)
    if rows.size < 3:
        return out
    some = every.take(rows)
    side = max(float(np.ptp(some.x)), float(np.ptp(some.y)), 1.0)
    start = _peak(some, within) if within is not None else _in_cells(some, *_peak(some, None))
    mixture, levels, evidence = _followed(some, *start, side)
    if within is None and evidence < SURE * rows.size:
        other = _followed(some, *_everywhere(some), side)
        mixture, levels, evidence = other if other[2] > evidence else (mixture, levels, evidence)
    levels = _planes(every.x, every.y, _anchors(some, levels, mixture), mixture.scatter, side)
    parts = densities(every.size - levels, every.noise, every.kind, mixture)
    out.level[usable], out.probability[usable] = levels, parts[0] / parts.sum(0)
    near = np.abs(every.size - levels) < KEEP * np.hypot(every.noise, mixture.scatter)
    out.star[usable] = near & (out.probability[usable] > LIKELY)
    return replace(out, scatter=mixture.scatter, evidence=evidence)


def _followed(some: Sizes, levels: F64, mixture: Mixture, side: float) -> tuple[Mixture, F64, float]:
    """Return mixture and levels (N,) after the stars have told both in turn, and the gain of ln likelihood by them."""
    for _ in range(TURNS):
        mixture = shape(some, levels, mixture)
        levels = _planes(some.x, some.y, _anchors(some, levels, mixture), mixture.scatter, side)
    mixture = shape(some, levels, mixture)
    return mixture, levels, _evidence(some, some.size - levels, mixture)


def _evidence(some: Sizes, above: F64, mixture: Mixture) -> float:
    """Return the gain of ln likelihood by stars among the sources that are not smaller than stars, less what chance gives.

    `above` is their ln size above the level, (N,).
    """
    seen = above > -KEEP * np.hypot(some.noise, mixture.scatter)
    if seen.sum() < 3:
        return 0.0
    parts = densities(above[seen], some.noise[seen], some.kind[seen], mixture)
    gain = np.log(parts.sum(0)).sum() - unstructured(above[seen], some.kind[seen])
    return float(gain - CHANCE * seen.sum())


def _anchors(some: Sizes, levels: F64, mixture: Mixture) -> Sizes:
    """Return those that are stars, the brightest of them; the one nearest to the level where there is none."""
    parts = densities(some.size - levels, some.noise, some.kind, mixture)
    away = np.abs(some.size - levels)
    rows = np.flatnonzero((parts[0] > 0.5 * parts.sum(0)) & (away < KEEP * np.hypot(some.noise, mixture.scatter)))
    return some.take(rows[:MOST_ANCHORS] if rows.size else np.argsort(away)[:1])


def _peak(some: Sizes, within: float | None) -> tuple[F64, Mixture]:
    """Return one level of the stars for all sources (N,), and the mixture there."""
    if within is None:
        low, high = np.quantile(some.size, (0.002, 0.75))
        grid = np.arange(low - 0.1, high + STEP, STEP)
    else:
        grid = np.arange(-within, within + STEP / 2, STEP)
    first, middle, last = np.quantile(some.size, (0.002, 0.25, 0.98))
    table = np.arange(first - 0.5, last + 0.5, BIN)
    best, level, mixture = -np.inf, 0.0, Mixture(np.zeros((0, 3)), np.zeros((0, 0)), 0.0)
    for width in WIDTHS:
        of_class = [some.take(some.kind == c) for c in range(len(CLASSES) + 1)]
        fits = [profile(s.size, np.hypot(s.noise, width), grid, table) for s in of_class]
        score = np.sum([f[0] for f in fits], axis=0) - EMPTY * np.maximum(middle - grid, 0)
        k = int(np.argmax(score))
        if score[k] > best:
            above = [np.interp(TABLE + grid[k], table, f[2][k], left=0, right=0) for f in fits]
            best, level = float(score[k]), float(grid[k])
            shares = np.array([f[1][k] for f in fits])
            shares[[not s.size.size for s in of_class]] = shares[[s.size.size > 0 for s in of_class]].mean(0)
            mixture = Mixture(shares, np.array(above), width)
    return np.full(some.size.size, level), mixture


def _in_cells(some: Sizes, levels: F64, mixture: Mixture) -> tuple[F64, Mixture]:
    """Return the level (N,) at each source: that of its cell, where cells have good reason not to be like the others."""
    grid = levels[0] + np.arange(-1.2, 1.2 + STEP / 2, STEP)
    scores, cells = _cell_scores(some, grid, replace(mixture, scatter=max(mixture.scatter, 0.07)))
    return grid[_agreed(scores, grid, np.full(scores.shape[:2], grid.size // 2))[cells]], mixture


def _everywhere(some: Sizes) -> tuple[F64, Mixture]:
    """Return the level (N,) at each source and the mixture where half of the sources are stars, whatever their size."""
    low, high = np.quantile(some.size, (0.002, 0.98))
    grid = np.arange(float(low), float(high) + STEP, STEP)
    density = np.where(TABLE > 0, np.exp(-TABLE / USUAL_EXCESS), 0) / USUAL_EXCESS
    kinds = len(CLASSES) + 1
    usual = Mixture(np.tile([0.5, 0.45, 0.05], (kinds, 1)), np.tile(density, (kinds, 1)), 0.1)
    scores, cells = _cell_scores(some, grid, usual)
    wide = np.pad(scores, ((1, 1), (1, 1), (0, 0)))
    n = len(scores)
    around = np.sum([wide[j : j + n, i : i + n] for j in range(3) for i in range(3)], axis=0)
    return grid[_agreed(scores, grid, around.argmax(2))[cells]], usual


def _cell_scores(some: Sizes, grid: F64, mixture: Mixture) -> tuple[F64, tuple[I64, I64]]:
    """Return the ln likelihood of the levels of `grid` (M,) in cells of the image, (K, K, M), and each source's cell."""
    n = int(np.clip(np.sqrt(some.size.size / A_CELL), 1, MOST_CELLS))
    cx, cy = (np.clip(((v - v.min()) * n / max(np.ptp(v), 1.0)).astype(np.int64), 0, n - 1) for v in (some.x, some.y))
    order = np.argsort(cy * n + cx, kind="stable")
    ordered = some.take(order)
    parts = densities(ordered.size[None, :] - grid[:, None], ordered.noise, ordered.kind, mixture)
    sums = np.cumsum(np.log(parts.sum(0)), axis=1)
    ends = np.searchsorted((cy * n + cx)[order], np.arange(n * n), side="right")
    sums = np.concatenate([np.zeros((grid.size, 1)), sums], axis=1)[:, np.append(0, ends)]
    return np.diff(sums, axis=1).T.reshape(n, n, grid.size), (cy, cx)


def _agreed(scores: F64, grid: F64, chosen: I64) -> I64:
    """Return the number of the level of each cell (K, K): the likeliest of those that agree with the neighbours'.

    Their disagreement costs the difference in units of 0.05, and never more than 4: a step between amplifiers is paid
    for by a dozen stars (Besag 1986: iterated conditional modes).
    """
    price = np.minimum(np.abs(grid[:, None] - grid[None, :]) / 0.05, 4.0)
    n = len(scores)
    for _ in range(8):
        before = chosen.copy()
        for j in range(n):
            for i in range(n):
                around = [(j + b, i + a) for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1))]
                costs = sum(price[chosen[q]] for q in around if min(q) >= 0 and max(q) < n)
                chosen[j, i] = int(np.argmax(scores[j, i] - costs))
        if np.array_equal(before, chosen):
            break
    return chosen


def _planes(x: F64, y: F64, anchors: Sizes, scatter: float, side: float) -> F64:
    return local_levels(x, y, (anchors.x, anchors.y), anchors.size, np.hypot(anchors.noise, scatter), side)


def local_levels(x: F64, y: F64, anchors: tuple[F64, F64], value: F64, error: F64, side: float) -> F64:
    """Return the level at positions (N,), px: of a plane through the nearest of some values, without one at the place itself.

    Parameters
    ----------
    anchors
        Positions of the values, each (M,), px.
    value, error
        Shape (M,).
    side
        Distance, px, over which a slope costs what a Gaussian prior of `STEEP` says.
    """
    if value.size < 4:
        return np.full(x.size, np.average(value, weights=error**-2.0))
    out = np.empty(x.size)
    _local_planes(x / side, y / side, anchors[0] / side, anchors[1] / side, value, error, out)
    return out


@compiled
def _local_planes(x: F64, y: F64, ax: F64, ay: F64, value: F64, error: F64, out: F64) -> None:
    """Write the value of a plane through the nearest of the points (ax, ay) at each place: weights fall with distance and,
    in three rounds, with disagreement.
    """
    k = min(NEAREST, ax.size - 1)
    near, far, some = np.empty(k, np.int64), np.empty(k), np.empty(k)
    for n in range(x.size):
        count = 0
        for m in range(ax.size):
            d = (ax[m] - x[n]) ** 2 + (ay[m] - y[n]) ** 2
            if d == 0 or (count == k and d >= far[k - 1]):
                continue
            j = min(count, k - 1)
            while j > 0 and far[j - 1] > d:
                far[j], near[j] = far[j - 1], near[j - 1]
                j -= 1
            far[j], near[j] = d, m
            count = min(count + 1, k)
        for j in range(count):
            some[j] = value[near[j]]
        a, b, c = float(np.median(some[:count])), 0.0, 0.0
        reach = 1.05 * math.sqrt(far[count - 1])
        for _ in range(3):
            s = sx = sy = v = vx = vy = 0.0
            sxx = syy = STEEP**-2
            sxy = 0.0
            for j in range(count):
                m = near[j]
                dx, dy = ax[m] - x[n], ay[m] - y[n]
                left = (value[m] - a - b * dx - c * dy) / (2.5 * error[m])
                w = (1 - (math.sqrt(far[j]) / reach) ** 3) ** 3 / (error[m] ** 2 * (1 + left * left))
                s += w
                sx += w * dx
                sy += w * dy
                sxx += w * dx * dx
                syy += w * dy * dy
                sxy += w * dx * dy
                v += w * value[m]
                vx += w * value[m] * dx
                vy += w * value[m] * dy
            # the slopes of normal equations whose constant is eliminated
            sxx, syy, sxy = sxx - sx * sx / s, syy - sy * sy / s, sxy - sx * sy / s
            vx, vy = vx - v * sx / s, vy - v * sy / s
            det = sxx * syy - sxy * sxy
            b, c = (syy * vx - sxy * vy) / det, (sxx * vy - sxy * vx) / det
            a = (v - b * sx - c * sy) / s
        out[n] = a
