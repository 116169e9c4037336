"""Bright stars of an image, found fast, and what makes a source a star.

No table is made here: a subtraction alone does not load what tables need.
"""

from typing import Any

import numpy as np

from exposure import Exposure
from exposure.mask import is_usable, plane_bits, true_places
from exposure.stamps import adaptive_moments, gather
from exposure.stars import Stars
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, I64, Flags, nearest_pixels
from tasks.compiled import compiled

__all__ = ["bright_stars", "isolated", "likely_stars", "shapes", "unresolved"]

MOST = 100_000  # peaks that are looked at
ENOUGH_FOR_PSF = 6
SPOILING = ("BAD", "SAT", "NO_DATA", "CR", "EDGE")


@compiled
def _peaks(image: F32, variance: F32, mask: I32, bits: Any, threshold: float, out: I64, first: int, last: int) -> int:
    """Write (x, y) of good pixels of some rows above the threshold (sigma), the largest of their 5x5.

    Return how many.
    """
    n = 0
    height, width = image.shape
    high = np.zeros(-(-width // 8) * 8, np.bool_)
    columns = np.empty(high.shape[0], np.int64)
    least = np.float32(threshold * threshold)
    for y in range(max(first, 2), min(last, height - 2)):
        pixels, variances, flags = image[y], variance[y], mask[y]
        for x in range(width):  # without branches: this loop is vectorised
            p, v = pixels[x], variances[x]
            high[x] = (p > 0) & (p * p > least * v) & is_usable(p, v, flags[x], bits)
        for x in columns[: true_places(high, columns)]:
            if 2 <= x < width - 2 and n < out.shape[0] and _largest(image, y, x):
                out[n, 0], out[n, 1] = x, y
                n += 1
    return n


@compiled
def _largest(image: F32, y: int, x: int) -> bool:
    """Whether a pixel is the largest of its 5x5, the first of equal ones."""
    p = image[y, x]
    for j in range(-2, 3):
        for i in range(-2, 3):
            q = image[y + j, x + i]
            if q > p or (q == p and (j < 0 or (j == 0 and i < 0))):
                return False
    return True


def bright_stars(exposure: Exposure, threshold: float = 30.0) -> Stars:
    """Return the bright stars of a background-subtracted image: a fast search for peaks, enough for a matching kernel.

    Positions are those of the peak pixel, fluxes sums within 5 px; brightest first.
    """
    useless = np.int32(plane_bits(["NO_DATA", "BAD", "CR", "SAT"]))
    bands: dict[int, I64] = {}

    def search(first: int, last: int) -> None:
        out = np.empty((MOST, 2), np.int64)
        bands[first] = out[
            : _peaks(exposure.image, exposure.variance, exposure.mask, useless, threshold, out, first, last)
        ]

    in_bands(search, exposure.height)
    peaks = np.concatenate([bands[first] for first in sorted(bands)])[:MOST]
    g = np.arange(-5, 6)
    disc = np.hypot(g[:, None], g[None, :]) <= 5
    total, noise = (
        np.nan_to_num(gather(plane, peaks[:, 0], peaks[:, 1], 11, 0.0)[:, disc]).sum(1, dtype=np.float64)
        for plane in (exposure.image, exposure.variance)
    )
    order = np.lexsort((peaks[:, 0], -total))
    (x, y), flux = peaks[order].T.astype(np.float64), total[order]
    size, flagged = shapes(exposure, exposure.image, x, y)
    alone = isolated(x, y, flux)
    snr = flux / np.sqrt(np.maximum(noise[order], 1e-30))
    star = likely_stars(x, y, flux, snr, size, ~flagged)
    return Stars(x + exposure.origin[0], y + exposure.origin[1], snr, flux, star, alone, flagged, size=size)


def shapes(exposure: Exposure, data: F32, x: F64, y: F64, side: int = 25) -> tuple[F64, Flags]:
    """Return adaptive sizes (trace radius^2, px^2; of the first 4000) and whether a pixel near each is spoilt.

    Parameters
    ----------
    x, y
        Array px, shape (N,).
    """
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    top = min(x.size, 4000)
    size = np.full(x.size, np.nan)
    moments = adaptive_moments(gather(data, ix[:top], iy[:top], side, 0.0), x[:top] - ix[:top], y[:top] - iy[:top])
    size[:top] = 0.5 * (moments[:, 0] + moments[:, 1])
    near = gather(exposure.mask, ix, iy, 11, -1)
    off = (near == -1).any(axis=(1, 2))
    return size, off | ((near & plane_bits(SPOILING)) != 0).any(axis=(1, 2))


def likely_stars(x: F64, y: F64, flux: F64, snr: F64, size: F64, able: Flags) -> Flags:
    """Return which of the `able` sources are stars that a PSF can be measured on, all (N,).

    Those are alone, or, where the field is crowded and too few are, outshine their neighbours. Positions are px, sizes
    px^2.
    """
    star = unresolved(snr, size, able & isolated(x, y, flux))
    for radius, share in ((6.0, 0.1), (4.0, 0.3)):
        if star.sum() >= ENOUGH_FOR_PSF:
            break
        star |= unresolved(snr, size, able & isolated(x, y, flux, radius, share))
    return star


def isolated(x: F64, y: F64, flux: F64, radius: float = 10.0, share: float = 0.03) -> Flags:
    """Return which sources (N,) have no neighbour within `radius` px that has more than a `share` of their flux."""
    order = np.argsort(x, kind="stable")
    out = np.ones(x.size, np.bool_)
    out[order] = _alone(x[order], y[order], flux[order], radius, share)
    return out


@compiled
def _alone(x: F64, y: F64, flux: F64, radius: float, share: float) -> Flags:
    """Sources sorted by x: each meets those within `radius` to its right."""
    out = np.ones(x.shape[0], np.bool_)
    for i in range(x.shape[0]):
        k = i + 1
        while k < x.shape[0] and x[k] - x[i] <= radius:
            if (x[k] - x[i]) ** 2 + (y[k] - y[i]) ** 2 <= radius * radius:
                if flux[k] > share * flux[i]:
                    out[i] = False
                if flux[i] > share * flux[k]:
                    out[k] = False
            k += 1
    return out


def unresolved(snr: F64, size: F64, able: Flags, min_snr: float = 20.0, max_stars: int = 600) -> Flags:
    """Return which of the `able` sources are stars, all (N,): the densest range of sizes (px^2) among the bright ones."""
    chosen = np.zeros(snr.size, dtype=bool)
    index = np.flatnonzero(able & (snr >= min_snr) & np.isfinite(size))[: 3 * max_stars]
    if index.size < 8 and min_snr > 10:
        return unresolved(snr, size, able, 10.0, max_stars)  # a sparse field
    if index.size < 3:
        return chosen
    logs = np.log(size[index])
    mode = _half_sample_mode(np.sort(logs))
    near = np.abs(logs - mode) < 0.35
    scatter = 1.4826 * np.median(np.abs(logs[near] - mode)) if near.any() else 0.1
    keep = np.abs(logs - mode) < np.clip(3.0 * scatter, 0.08, 0.35)
    chosen[index[keep][:max_stars]] = True
    return chosen


def _half_sample_mode(values: F64) -> float:
    """Return the mode of sorted values: the shortest half, again and again (Robertson & Cryer 1974)."""
    while values.size > 3:
        half = (values.size + 1) // 2
        widths = values[half - 1 :] - values[: values.size - half + 1]
        start = int(np.argmin(widths))
        values = values[start : start + half]
    return float(np.mean(values))
