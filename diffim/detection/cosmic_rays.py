"""Cosmic rays on a difference image: pixels sharper than the PSF allows."""

import math
from typing import Any

import numpy as np

from exposure import Psf
from exposure.mask import true_places
from exposure.threads import in_bands
from tasks.arrays import F32, F64, Flags
from tasks.compiled import compiled

__all__ = ["find_cosmic_rays", "neighbour_ratios"]

MIN_SIGMA, GROW_SIGMA = 6.0, 3.0
NEIGHBOUR_SIGMA = 2.0
SHARPNESS = 0.6  # of what the PSF would give to the neighbours
ITERATIONS = 4


@compiled
def _value(image: Any, good: Any, y: int, x: int) -> float:
    return float(image[y, x]) if good[y, x] else 0.0


@compiled
def _outshines(image: Any, known: Any, unit: float, y: int, x: int) -> bool:
    """Whether the pixel is twice as bright as the brightest known one of the 3x3."""
    most = 0.0
    for j in range(-1, 2):
        for i in range(-1, 2):
            k = unit * float(known[y + j, x + i])
            most = k if k > most else most  # NaN is never larger
    return bool(float(image[y, x]) > 2 * most)


@compiled
def _is_ray(
    image: Any, variance: Any, good: Any, known: Any, unit: float, out: Any, ratios: Any, y: int, x: int
) -> bool:
    """Whether a pair of opposite neighbours is too faint for a PSF; instead of a marked one its opposite counts twice.

    (As zero it would make the pixels of a star next to a cosmic ray look sharp.)
    """
    p, v = float(image[y, x]), float(variance[y, x])
    sharp = (p - 1.0 * math.sqrt(v)) * SHARPNESS
    for k in range(4):
        dy, dx = (0, 1) if k == 0 else (1, 0) if k == 1 else (1, 1) if k == 2 else (1, -1)
        a, b = _value(image, good, y + dy, x + dx), _value(image, good, y - dy, x - dx)
        if out.shape[0] > 0:
            if out[y + dy, x + dx] and out[y - dy, x - dx]:
                continue
            a, b = b if out[y + dy, x + dx] else a, a if out[y - dy, x - dx] else b
        va = float(variance[y + dy, x + dx]) if good[y + dy, x + dx] else v
        vb = float(variance[y - dy, x - dx]) if good[y - dy, x - dx] else v
        if 0.5 * (a + b) + NEIGHBOUR_SIGMA * 0.5 * math.sqrt(va + vb) < ratios[k] * sharp:
            return bool(known.shape[0] == 0 or _outshines(image, known, unit, y, x))
    return False


@compiled
def _cores(
    image: Any, variance: Any, good: Any, known: Any, unit: float, out: Any, ratios: Any, first: int, last: int
) -> None:
    """Mark the sharp pixels above `MIN_SIGMA` of some rows in `out`, each judged by the image as it was."""
    none = np.zeros((0, 0), np.bool_)
    high = np.zeros(-(-image.shape[1] // 8) * 8, np.bool_)
    places = np.empty(high.shape[0], np.int64)
    bright = high[: image.shape[1]]
    least = np.float32(MIN_SIGMA * MIN_SIGMA)
    for y in range(max(first, 1), min(last, image.shape[0] - 1)):
        pixels, spread, able = image[y], variance[y], good[y]
        for x in range(bright.shape[0]):  # without branches: this loop is vectorised
            bright[x] = (pixels[x] > 0) & (pixels[x] * pixels[x] > least * spread[x]) & able[x]
        bright[0] = bright[-1] = False
        for x in places[: true_places(high, places)]:
            if _is_ray(image, variance, good, known, unit, none, ratios, y, x):
                out[y, x] = True


@compiled
def _grow(
    image: Any, variance: Any, good: Any, known: Any, unit: float, out: Any, ratios: Any, at_y: Any, at_x: Any
) -> Any:
    """Mark neighbours of marked pixels that are sharp without those; returns what was marked."""
    height, width = image.shape
    new = [(0, 0)]
    for k in range(at_y.shape[0]):
        for y in range(max(at_y[k] - 1, 1), min(at_y[k] + 2, height - 1)):
            for x in range(max(at_x[k] - 1, 1), min(at_x[k] + 2, width - 1)):
                p = image[y, x]
                if out[y, x] or not good[y, x] or not (p > 0 and p * p > GROW_SIGMA * GROW_SIGMA * variance[y, x]):
                    continue
                if _is_ray(image, variance, good, known, unit, out, ratios, y, x):
                    out[y, x] = True
                    new.append((y, x))
    return np.array(new[1:], np.int64).reshape(-1, 2) if len(new) > 1 else np.zeros((0, 2), np.int64)


def neighbour_ratios(psf: Psf) -> F64:
    """Return the least ratio of the mean of two opposite neighbours to the peak pixel, for any sub-pixel position.

    Four directions: horizontal, vertical, the two diagonals.
    """
    x0, y0 = psf.average_position()
    phase = np.linspace(-0.45, 0.45, 5)
    fx, fy = (a.ravel() for a in np.meshgrid(phase, phase))
    stamps = psf.image_at(np.floor(x0) + fx, np.floor(y0) + fy).astype(np.float64)
    c = stamps.shape[-1] // 2
    peak = stamps[:, c, c]
    pairs = [stamps[:, c + dy, c + dx] + stamps[:, c - dy, c - dx] for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1))]
    return np.array([np.clip((0.5 * pair / peak).min(), 0.05, 1.0) for pair in pairs])


def find_cosmic_rays(
    image: F32,
    variance: F32,
    good: Flags,
    psf: Psf,
    known_light: F32 | None = None,
    known_unit: float = 1.0,
) -> Flags:
    """Return where cosmic rays (and hot pixels) are.

    Parameters
    ----------
    image, variance
        An image without background and its variance.
    good
        Pixels that may be tested.
    psf
        Its PSF: what is sharper is no source.
    known_light, known_unit
        What a template has there, and the factor that turns it into the image's units: a pixel must be twice as bright as the brightest of the 3x3 to
        be a cosmic ray (the cores of undersampled stars are sharp too).
    """
    out = np.zeros(image.shape, dtype=np.bool_)
    ratios = neighbour_ratios(psf)
    known = np.zeros((0, 0), np.float32) if known_light is None else known_light
    planes = (image, variance, good, known, known_unit, out, ratios)
    in_bands(lambda first, last: _cores(*planes, first, last), image.shape[0])
    fresh = np.column_stack(np.unravel_index(np.flatnonzero(out), out.shape))  # argwhere takes seven times as long
    for _ in range(ITERATIONS):
        if not len(fresh):
            break
        fresh = _grow(*planes, fresh[:, 0], fresh[:, 1])
    return out
