"""Bright stars of an image, found fast, and what makes a source a star.

No table is made here: a subtraction alone does not load what tables need.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from calibration.lonely import without_lonely
from exposure import Exposure
from exposure.mask import is_usable, plane_bits, true_places
from exposure.psf import FWHM_PER_SIGMA
from exposure.psf_width import psf_sizes
from exposure.stamps import adaptive_moments, gather
from exposure.star_locus import EVIDENT, star_locus
from exposure.stars import Stars
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, I64, Flags, nearest_pixels
from tasks.compiled import compiled

__all__ = ["Found", "bright_stars", "find_stars", "isolated", "model_sizes", "psf_stars", "shapes"]

MOST = 100_000  # peaks that are looked at
ENOUGH_FOR_PSF, LEAST_STARS, FEW = 6, 4, 8
MIN_SNR, FAINT = 20.0, 10.0  # of stars; where there are few
UNDERSAMPLED, BLUR = 1.05, 1.0  # px: radius below which sizes depend on the place inside the pixel; sigma that helps
LEAST_SIZE = 0.05  # px^2
MODEL_ERROR = 0.15  # ln size by which a PSF model may be off
STAMP, MOST_STAMP, WIDE_ENOUGH = 25, 91, 9.0  # px; px; sigma: side of the stamps that sizes are measured on
MOST_SHAPES = 20_000
USUAL_FWHM, USUAL_RADIUS = 5.0, 10.0  # px: of a neighbour that counts, for stars up to that width
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
    exposure = without_lonely(exposure)
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
    snr = flux / np.sqrt(np.maximum(noise[order], 1e-30))
    size, flagged = shapes(exposure, exposure.image, x, y, snr)
    alone = isolated(x, y, flux)
    classified = find_stars(x, y, flux, snr, size, ~flagged, expected=model_sizes(exposure, x, y))
    position = x + exposure.origin[0], y + exposure.origin[1]
    return Stars(*position, snr, flux, classified.star, alone, flagged, size=size, evidence=classified.evidence)


def shapes(exposure: Exposure, data: F32, x: F64, y: F64, snr: F64) -> tuple[F64, Flags]:
    """Return adaptive sizes (trace radius^2, px^2; NaN of faint sources) and whether a pixel near each is spoilt.

    The stamps are as large as the narrowest tenth of the sources ask for.

    Parameters
    ----------
    x, y
        Array px, shape (N,).
    snr
        Signal to noise, shape (N,).
    """
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    rows = np.flatnonzero(snr >= FAINT)[:MOST_SHAPES]
    size = np.full(x.size, np.nan)
    side = STAMP
    for _ in range(3):
        stamps = gather(data, ix[rows], iy[rows], side, 0.0)
        moments = adaptive_moments(stamps, x[rows] - ix[rows], y[rows] - iy[rows])
        size[rows] = 0.5 * (moments[:, 0] + moments[:, 1])
        radius = _typical_radius(size, snr)
        if radius < UNDERSAMPLED:
            size[rows] = _blurred_sizes(data, x[rows], y[rows], side)
            break
        if side >= min(WIDE_ENOUGH * radius, MOST_STAMP):
            break
        side = min(2 * int(0.75 * WIDE_ENOUGH * radius) + 1, MOST_STAMP)
    reach = max(5, int(FWHM_PER_SIGMA * radius + 0.5))  # px: about the FWHM
    near = gather(exposure.mask, ix, iy, 2 * reach + 1, -1)
    off = (near == -1).any(axis=(1, 2))
    return size, off | ((near & plane_bits(SPOILING)) != 0).any(axis=(1, 2))


def _blurred_sizes(data: F32, x: F64, y: F64, side: int) -> F64:
    """Return the sizes (N,), px^2, of sources that are hardly sampled: of the blurred image, less the blur."""
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    moments = adaptive_moments(gather(cv2.GaussianBlur(data, (9, 9), BLUR), ix, iy, side, 0.0), x - ix, y - iy)
    return np.maximum(0.5 * (moments[:, 0] + moments[:, 1]) - BLUR**2, LEAST_SIZE)


def _typical_radius(size: F64, snr: F64) -> float:
    """Return the radius (sigma, px) of the narrowest of the bright sources; 0 where there are none."""
    bright = size[np.isfinite(size) & (snr > 20)]
    return float(np.sqrt(np.quantile(bright, 0.1))) if bright.size else 0.0


def model_sizes(exposure: Exposure, x: F64, y: F64) -> F64 | None:
    """Return the trace radius^2 (N,), px^2, of the exposure's PSF at array px, None where it has none."""
    if exposure.psf is None:
        return None
    return psf_sizes(exposure.psf, exposure.bbox, x + exposure.origin[0], y + exposure.origin[1])


@dataclass(frozen=True)
class Found:
    """Which sources are stars, (N,), and how evident they are (`exposure.star_locus.EVIDENT`)."""

    star: Flags
    evidence: float


def find_stars(
    x: F64,
    y: F64,
    flux: F64,
    snr: F64,
    size: F64,
    able: Flags,
    merged: Flags | None = None,
    expected: F64 | None = None,
) -> Found:
    """Return which of the `able` sources are stars.

    They are those as large as stars are at their place. What that is tell bright sources that are alone, or, where the
    field is crowded and too few are, that outshine their neighbours.

    Parameters
    ----------
    x, y
        Shape (N,), px.
    flux, snr, size
        Image unit; signal to noise; adaptive trace radius^2, px^2, shape (N,).
    merged
        Sources whose pixels are next to those of another, shape (N,).
    expected
        The size of a PSF model at each source, where there is one.
    """
    usable, radius = able & np.isfinite(size), USUAL_RADIUS * _scale(size, snr)
    blur = BLUR**2 if _typical_radius(size, snr) < UNDERSAMPLED else 0.0  # what was measured is the size with it
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(size + blur)
        relative = None if expected is None else logs - np.log(expected + blur)
    classified = Found(np.zeros(x.size, np.bool_), 0.0)
    for clean in _less_and_less_alone(x, y, flux, usable, merged, radius):
        least = MIN_SNR if (clean & (snr >= MIN_SNR)).sum() >= FEW else FAINT
        bright = clean & (snr >= least)
        locus = None if relative is None else star_locus(x, y, snr, relative, bright, MODEL_ERROR)
        if locus is None or locus.evidence < EVIDENT:
            locus = star_locus(x, y, snr, logs, bright)
        star = locus.star & able & (snr >= least)
        if locus.evidence < EVIDENT and (star & bright).sum() < LEAST_STARS:
            star = _most_alike(snr, size, bright)  # so few that nothing can be told from their sizes
        classified = Found(star, locus.evidence)
        if (star & clean).sum() >= ENOUGH_FOR_PSF:
            break
    return classified


def _scale(size: F64, snr: F64) -> float:
    """Return by how much stars are larger than what distances are meant for, FWHM up to 5 px; 1 or more."""
    return max(1.0, FWHM_PER_SIGMA * _typical_radius(size, snr) / USUAL_FWHM)


def psf_stars(x: F64, y: F64, flux: F64, star: Flags, merged: Flags | None = None, fwhm: float = USUAL_FWHM) -> Flags:
    """Return the stars that a PSF can be measured on: alone, or, if too few are, brighter than their neighbours.

    See `find_stars`; `fwhm` is that of stars, px.
    """
    for chosen in _less_and_less_alone(x, y, flux, star, merged, USUAL_RADIUS * max(1.0, fwhm / USUAL_FWHM)):
        if chosen.sum() >= ENOUGH_FOR_PSF:
            break
    return chosen


def _less_and_less_alone(
    x: F64, y: F64, flux: F64, able: Flags, merged: Flags | None, radius: float
) -> Iterator[Flags]:
    """Yield the sources (N,) that have no neighbour within a radius (px), and then also those that outshine theirs."""
    alone = able & isolated(x, y, flux, radius)
    yield alone if merged is None else alone & ~merged
    for part, share in ((0.6, 0.1), (0.4, 0.3)):
        alone = alone | (able & isolated(x, y, flux, part * radius, share))
        yield alone


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


def _most_alike(snr: F64, size: F64, able: Flags) -> Flags:
    """Return the `able` sources (N,) in the densest range of sizes (px^2)."""
    chosen = np.zeros(snr.size, dtype=bool)
    index = np.flatnonzero(able)[:MOST_SHAPES]
    if index.size < 3:
        return chosen
    logs = np.log(size[index])
    mode = _half_sample_mode(np.sort(logs))
    near = np.abs(logs - mode) < 0.35
    scatter = 1.4826 * np.median(np.abs(logs[near] - mode)) if near.any() else 0.1
    chosen[index[np.abs(logs - mode) < np.clip(3.0 * scatter, 0.08, 0.35)]] = True
    return chosen


def _half_sample_mode(values: F64) -> float:
    """Return the mode of sorted values: the shortest half, again and again (Robertson & Cryer 1974)."""
    while values.size > 3:
        half = (values.size + 1) // 2
        widths = values[half - 1 :] - values[: values.size - half + 1]
        start = int(np.argmin(widths))
        values = values[start : start + half]
    return float(np.mean(values))
