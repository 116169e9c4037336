"""Blocks of pixels in pictures: large images are shown smaller, wide sources in blocks that stand out of the noise."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure import Exposure
from exposure.psf import fwhm_of
from tasks.arrays import F32

__all__ = ["block_mean", "block_significance", "block_size", "in_blocks", "seeing_of"]

BLOCKS = 2.2  # at least, across the FWHM: more of them, and a source of 10 sigma is lost in the noise of its pixels


def seeing_of(difference: Exposure) -> float:
    """Return the FWHM of the PSF (px) in the middle of a difference, NaN where it is undefined there."""
    x0, y0, width, height = difference.bbox
    return float(np.atleast_1d(fwhm_of(difference.require_psf().moments_at(x0 + width / 2, y0 + height / 2)))[0])


def block_size(difference: Exposure) -> int:
    """Return the side of the blocks (px, odd) that leave `BLOCKS` of them to the FWHM: 1 for all but wide PSFs."""
    fwhm = seeing_of(difference)
    return 2 * int(max(fwhm / BLOCKS - 1, 0) / 2) + 1 if np.isfinite(fwhm) else 1


def in_blocks(image: NDArray[Any], step: int) -> NDArray[Any]:
    """Return an image as an array of shape (rows, step, columns, step), without what is over at its upper and right edge."""
    height, width = (n // step * step for n in image.shape)
    return image[:height, :width].reshape(height // step, step, width // step, step)


def block_significance(z: F32, step: int) -> F32:
    """Return the significance of blocks of `step` x `step` pixels of white noise; NaN where none of them is good."""
    return z if step == 1 else _summed(z, step, 0.5)


def block_mean(image: F32, step: int) -> F32:
    """Return the mean of the finite pixels of blocks of `step` x `step`; NaN where there is none."""
    return image if step == 1 else _summed(image, step, 1.0)


def _summed(image: F32, step: int, power: float) -> F32:
    """Return the sums of the finite pixels of blocks, over a power of their number."""
    blocks = in_blocks(image, step)
    count = np.isfinite(blocks).sum((1, 3))
    return np.asarray(np.nansum(blocks, axis=(1, 3)) / np.where(count > 0, count, np.nan) ** power, np.float32)
