"""Cosmic rays of an image whose stars are narrow: pixels that are too sharp, and peaks that have not the shape of a
star.

The nine pixels around a star's peak, divided by their sum, have a mean and a covariance: the star's position inside its
pixel, and the PSF's change over the field. Both are measured on known stars of the same image. What is off from that by
more than noise is the track of a particle, though each of its pixels could be that of a star.
"""

import cv2
import numpy as np

from calibration.defects.mending import find_sharp_pixels
from exposure import Exposure
from exposure.stamps import gather
from tasks.arrays import F32, F64, I64, Flags

__all__ = ["find_rays"]

SIDE = 3
PEAK, SHAPE_STAR = 6.0, 15.0  # sigma of the peaks that are judged, and of the known stars that the shape is measured on
ODD = 4.0  # reduced chi2 of a peak that is none of a star: 1e-4 of stars by chance
ENOUGH = 40  # known stars for nine means and their covariance
MOST_OFF = 2.5  # reduced chi2 of a star that the shape is measured on: others are blends
LEAST_SEEN = 5  # good pixels of the nine
ROUGH = 1e-5  # variance of a pixel's share of the light: keeps the equations well posed
LONE = 9  # px: box around such a star without another known one
SPARED = 5  # px: box around a known star that is not judged
FAINT, STEPS = 3.0, 2  # a track's pixels above this (sigma) and as far from a marked one go with it


def find_rays(exposure: Exposure, stars: Flags) -> Flags:
    """Return the pixels of cosmic rays of a background-subtracted image with variance, before any smoothing.

    Parameters
    ----------
    stars
        (height, width) the pixels at the middle of known stars: those are not judged, and tell what stars look like.
        Where there are fewer than `ENOUGH`, only sharp pixels are found.
    """
    spare = _box(stars, SPARED)
    rays = _with_neighbours(exposure, find_sharp_pixels(exposure, spare), spare)
    return rays | _with_neighbours(exposure, _odd_peaks(exposure, stars, spare, rays), spare)


def _with_neighbours(exposure: Exposure, rays: Flags, spare: Flags) -> Flags:
    """Add the light that falls off from marked pixels: smoothed, what is left of a track looks like a star.

    Never uphill: a marked pixel in the wing of a bright source does not take its core.
    """
    bright = exposure.good("BAD", "SAT") & ~spare & (exposure.image > FAINT * _sigma(exposure))
    for _ in range(STEPS):
        marked = np.where(rays, exposure.image, np.float32(-np.inf))
        rays = rays | (bright & (exposure.image <= cv2.dilate(marked, np.ones((3, 3), np.uint8))))
    return rays


def _odd_peaks(exposure: Exposure, stars: Flags, spare: Flags, rays: Flags) -> Flags:
    """Return the peak pixels whose surroundings have not the shape of a star."""
    out = np.zeros_like(rays)
    good = exposure.good("BAD", "SAT", "CR") & ~rays
    y, x = _peaks(exposure, good)
    crowd = cv2.boxFilter(stars.astype(np.float32), -1, (LONE, LONE), normalize=False)
    bright = exposure.image[y, x] > SHAPE_STAR * _sigma(exposure)[y, x]
    sampled = _box(stars, SIDE)[y, x] & bright & (crowd[y, x] < 1.5)
    shape = _star_shape(exposure, good, x[sampled], y[sampled])
    tested = ~spare[y, x]
    if shape is not None and tested.any():
        y, x = y[tested], x[tested]
        odd = _chi2(exposure, good & ~spare, x, y, *shape) > ODD
        out[y[odd], x[odd]] = True
    return out


def _peaks(exposure: Exposure, good: Flags) -> tuple[I64, I64]:
    """Return y, x of the good pixels above the threshold that no neighbour outshines."""
    image = np.where(good, exposure.image, np.float32(-np.inf))
    top = cv2.dilate(image, np.ones((3, 3), np.uint8))
    y, x = np.nonzero(good & (image >= top) & (image > PEAK * _sigma(exposure)))
    return y, x


def _star_shape(exposure: Exposure, good: Flags, x: I64, y: I64) -> tuple[F64, F64] | None:
    """Return mean and covariance of the nine pixels' shares of a star's light; None where too few stars tell."""
    values, seen = _nine(exposure.image, good, x, y)
    total = values.sum(1)
    complete = seen.all(1) & (total > 0)
    if complete.sum() < ENOUGH:
        return None
    share = values[complete] / total[complete, None]
    keep = np.ones(len(share), np.bool_)
    for _ in range(4):
        mean = share[keep].mean(0)
        covariance = np.cov(share[keep].T) + ROUGH * np.eye(SIDE**2)
        off = share - mean
        keep = np.einsum("ni,ij,nj->n", off, np.linalg.inv(covariance), off) < MOST_OFF * SIDE**2
        if keep.sum() < ENOUGH // 2:
            return None
    return mean, covariance


def _chi2(exposure: Exposure, good: Flags, x: I64, y: I64, mean: F64, covariance: F64) -> F64:
    """Return the reduced chi2 of peaks as stars of the best flux; 0 where too few pixels are good.

    The level around a peak (wings of a star nearby) may be off by itself.
    """
    values, seen = _nine(exposure.image, good, x, y)
    noise, _ = _nine(exposure.variance, good, x, y)
    off = _level(exposure.image, good, x, y)
    unit, shape = np.eye(SIDE**2), mean * seen
    flux = (values * shape).sum(1) / np.maximum((shape**2).sum(1), ROUGH)
    for _ in range(2):
        total = flux[:, None, None] ** 2 * covariance + unit * noise[:, None, :] + off[:, None, None] ** 2
        total = total * (seen[:, :, None] & seen[:, None, :]) + unit * ~seen[:, None, :]
        weight = np.linalg.solve(total, shape[..., None])[..., 0]
        flux = (weight * values).sum(1) / np.maximum((weight * shape).sum(1), 1e-30)
    rest = values - flux[:, None] * shape
    chi2 = (rest * np.linalg.solve(total, rest[..., None])[..., 0]).sum(1)
    number = seen.sum(1)
    return np.where(number >= LEAST_SEEN, chi2 / np.maximum(number - 1, 1), 0.0)


def _nine(plane: F32, good: Flags, x: I64, y: I64) -> tuple[F64, Flags]:
    """Return the pixels of a plane around each position, 0 where they are not good, and which are, shapes (n, 9)."""
    seen = gather(good.astype(np.uint8), x, y, SIDE, 0).reshape(len(x), SIDE**2) > 0
    values = gather(np.where(good, plane, np.float32(0)), x, y, SIDE, 0.0).reshape(len(x), SIDE**2)
    return values.astype(np.float64), seen


def _level(image: F32, good: Flags, x: I64, y: I64) -> F64:
    """Return the median of the ring of 9 px around each position, 0 where nothing of it is good."""
    ring = np.ones((LONE, LONE), np.bool_)
    ring[1:-1, 1:-1] = False
    around = gather(np.where(good, image, np.float32(np.nan)), x, y, LONE, np.nan)[:, ring].astype(np.float64)
    around[~np.isfinite(around).any(axis=1)] = 0
    return np.asarray(np.nanmedian(around, axis=1))


def _sigma(exposure: Exposure) -> F32:
    """Return the standard deviation of each pixel, 1 where it is not usable."""
    usable = exposure.good("BAD", "SAT", "CR")
    return np.sqrt(np.where(usable, exposure.variance, np.float32(1)))


def _box(plane: Flags, side: int) -> Flags:
    """Return the pixels within a box of a side around each that is set."""
    return np.asarray(cv2.dilate(plane.astype(np.uint8), np.ones((side, side), np.uint8)) > 0)
