"""Bad pixels that stand alone: the light around them says well enough what a source looks like.

Where bad pixels are scattered nearly every star has some. What is left out of fits costs little; what searches for
sources and measures their shapes needs every pixel, and gets the value of the smooth surface through the neighbours.
"""

from dataclasses import replace

import cv2
import numpy as np

from exposure import Exposure
from exposure.mask import plane_bits
from tasks.arrays import F32, Flags

__all__ = ["are_scattered", "lonely_pixels", "without_lonely"]

SHARE = 5e-4  # of the pixels that are bad: fewer are not looked at
STEP = 8  # px, of the sample that tells
LEAST_KNOWN = 5  # of the eight pixels around
ROUNDS = 4
KINDS, WORSE = ("BAD", "NO_DATA"), ("SAT", "CR", "EDGE")
AROUND = np.array([[0.5, 1, 0.5], [1, 0, 1], [0.5, 1, 0.5]], np.float32)
# the value in the middle of a surface of third order, from its eight neighbours
SURFACE = np.array([[-0.25, 0.5, -0.25], [0.5, 0.0, 0.5], [-0.25, 0.5, -0.25]], np.float32)


def are_scattered(exposure: Exposure) -> bool:
    """Return whether so many pixels are bad that they are worth a look, as a sample tells."""
    return bool(((exposure.mask[::STEP, ::STEP] & plane_bits(KINDS)) != 0).mean() >= SHARE)


def lonely_pixels(exposure: Exposure) -> Flags:
    """Return the bad pixels (height, width) that stand alone and are nothing worse; none where bad pixels are few."""
    if not are_scattered(exposure):
        return np.zeros(exposure.image.shape, np.bool_)
    return np.asarray(_lonely(~exposure.good(*KINDS)) & ((exposure.mask & plane_bits(WORSE)) == 0))


def without_lonely(exposure: Exposure) -> Exposure:
    """Return an exposure whose lonely bad pixels are filled and no longer flagged; the same one where bad pixels are few."""
    if not are_scattered(exposure):
        return exposure
    bits = plane_bits(KINDS)
    bad = ~exposure.good(*KINDS)
    lonely = lonely_pixels(exposure)
    near = _filtered((~bad).astype(np.float32), AROUND)
    planes = []
    for plane in (exposure.image, exposure.variance):
        filled = np.where(bad, np.float32(0), plane)
        filled[lonely] = (_filtered(filled, AROUND) / np.maximum(near, 1e-3))[lonely]
        planes.append(filled)
    for _ in range(ROUNDS):  # those next to each other need one another's value
        planes[0][lonely] = _filtered(planes[0], SURFACE)[lonely]
    mask = np.where(lonely, exposure.mask & np.int32(~bits), exposure.mask)
    return replace(exposure, image=planes[0], variance=planes[1], mask=mask)


def _lonely(bad: Flags) -> Flags:
    """Return the bad pixels with enough good ones around, none of them a piece of a row or column."""
    spoilt = np.pad(bad, 1, constant_values=True)
    middle = slice(1, -1)
    line = (spoilt[:-2, middle] & spoilt[2:, middle]) | (spoilt[middle, :-2] & spoilt[middle, 2:])
    around = cv2.boxFilter(spoilt.astype(np.float32), -1, (3, 3), normalize=False)[1:-1, 1:-1]
    return np.asarray(bad & ~line & (around < 9 - LEAST_KNOWN + 0.5))


def _filtered(image: F32, kernel: F32) -> F32:
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE), np.float32)
