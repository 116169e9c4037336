"""Cosmic rays on a difference image: pixels sharper than the PSF allows."""

import math
from typing import Any, NamedTuple

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


class _Image(NamedTuple):
    """What is tested, all of shape (height, width), as compiled code takes it.

    `template` times `template_unit` is in the image's units; its shape is (0, 0) where there is none. `ratios` (4,) are those
    of `neighbour_ratios`.
    """

    image: F32
    variance: F32
    good: Flags
    template: F32
    template_unit: float
    ratios: F64


@compiled
def _outshines(source: Any, y: int, x: int) -> bool:
    """Whether the pixel is twice as bright as the brightest pixel of the template in the 3x3."""
    most = 0.0
    for j in range(-1, 2):
        for i in range(-1, 2):
            k = source.template_unit * float(source.template[y + j, x + i])
            most = k if k > most else most  # NaN is never larger
    return bool(float(source.image[y, x]) > 2 * most)


@compiled
def _is_ray(source: Any, rays: Any, y: int, x: int) -> bool:
    """Whether a pair of opposite neighbours is too faint for a PSF; instead of a marked one its opposite counts twice.

    Pairs of which a pixel is not known say nothing: beside a bad column the pixels of a star are no sharper than elsewhere.
    `rays` are the marked pixels, of shape (0, 0) where none is.
    """
    image, variance, good = source.image, source.variance, source.good
    p, v = float(image[y, x]), float(variance[y, x])
    sharp = (p - 1.0 * math.sqrt(v)) * SHARPNESS
    for k in range(4):
        dy, dx = (0, 1) if k == 0 else (1, 0) if k == 1 else (1, 1) if k == 2 else (1, -1)
        if not (good[y + dy, x + dx] and good[y - dy, x - dx]):
            continue
        a, b = float(image[y + dy, x + dx]), float(image[y - dy, x - dx])
        if rays.shape[0] > 0:
            if rays[y + dy, x + dx] and rays[y - dy, x - dx]:
                continue
            a, b = b if rays[y + dy, x + dx] else a, a if rays[y - dy, x - dx] else b
        va, vb = float(variance[y + dy, x + dx]), float(variance[y - dy, x - dx])
        if 0.5 * (a + b) + NEIGHBOUR_SIGMA * 0.5 * math.sqrt(va + vb) < source.ratios[k] * sharp:
            return bool(source.template.shape[0] == 0 or _outshines(source, y, x))
    return False


@compiled
def _cores(source: Any, rays: Any, first: int, last: int) -> None:
    """Mark the sharp pixels above `MIN_SIGMA` of some rows in `rays`, each judged by the image as it was."""
    image = source.image
    none = np.zeros((0, 0), np.bool_)
    high = np.zeros(-(-image.shape[1] // 8) * 8, np.bool_)
    columns = np.empty(high.shape[0], np.int64)
    bright = high[: image.shape[1]]
    least = np.float32(MIN_SIGMA * MIN_SIGMA)
    for y in range(max(first, 1), min(last, image.shape[0] - 1)):
        pixels, variances, good = image[y], source.variance[y], source.good[y]
        for x in range(bright.shape[0]):  # without branches: this loop is vectorised
            bright[x] = (pixels[x] > 0) & (pixels[x] * pixels[x] > least * variances[x]) & good[x]
        bright[0] = bright[-1] = False
        for x in columns[: true_places(high, columns)]:
            if _is_ray(source, none, y, x):
                rays[y, x] = True


@compiled
def _grow(source: Any, rays: Any, ys: Any, xs: Any) -> Any:
    """Mark neighbours of the marked pixels (ys, xs) that are sharp without those; returns the new ones, shape (N, 2)."""
    image, variance = source.image, source.variance
    height, width = image.shape
    new = [(0, 0)]
    for k in range(ys.shape[0]):
        for y in range(max(ys[k] - 1, 1), min(ys[k] + 2, height - 1)):
            for x in range(max(xs[k] - 1, 1), min(xs[k] + 2, width - 1)):
                p = image[y, x]
                high = p > 0 and p * p > GROW_SIGMA * GROW_SIGMA * variance[y, x]
                if rays[y, x] or not source.good[y, x] or not high:
                    continue
                if _is_ray(source, rays, y, x):
                    rays[y, x] = True
                    new.append((y, x))
    return np.array(new[1:], np.int64).reshape(-1, 2) if len(new) > 1 else np.zeros((0, 2), np.int64)


def neighbour_ratios(psf: Psf) -> F64:
    """Return the least ratio (4,) of the mean of two opposite neighbours to the peak pixel, for any sub-pixel position.

    Shape (4,): the directions are horizontal, vertical and the two diagonals.
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
    image: F32, variance: F32, good: Flags, psf: Psf, template: F32 | None = None, template_unit: float = 1.0
) -> Flags:
    """Return where cosmic rays (and hot pixels) are, shape (height, width).

    Parameters
    ----------
    image, variance
        An image without background and its variance, shape (height, width), counts and counts^2.
    good
        Pixels that may be tested, shape (height, width).
    psf
        The image's PSF: what is sharper is no source.
    template, template_unit
        A template (height, width), and the factor that turns it into the image's units: a pixel must be twice as bright as
        the template's brightest pixel of the 3x3 to be a cosmic ray (the cores of undersampled stars are sharp too).

    Notes
    -----
    The test of opposite neighbours is that of the SDSS photometric pipeline (Lupton et al. 2001, ASP Conf. Ser. 238, 269).
    """
    rays = np.zeros(image.shape, dtype=np.bool_)
    if template is None:
        template = np.zeros((0, 0), np.float32)
    source = _Image(image, variance, good, template, template_unit, neighbour_ratios(psf))
    in_bands(lambda first, last: _cores(source, rays, first, last), image.shape[0])
    fresh = np.column_stack(np.unravel_index(np.flatnonzero(rays), rays.shape))  # argwhere takes seven times as long
    for _ in range(ITERATIONS):
        if not len(fresh):
            break
        fresh = _grow(source, rays, fresh[:, 0], fresh[:, 1])
    return rays
