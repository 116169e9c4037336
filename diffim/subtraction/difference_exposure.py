"""The difference exposure around subtracted pixels: mask, PSF, calibrations."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy import fft

from diffim.subtraction.alard_lupton import Subtracted
from exposure import Exposure, GridPsf, Psf
from exposure.mask import flagged_pixels, plane_bits, spread_bits
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, Box

__all__ = ["Reach", "combined_mask", "difference_exposure", "difference_psf", "reach_of"]

PSF_CELLS = 6
SPREADING = ("NO_DATA", "SAT_TEMPLATE", "SAT", "HIGH_VARIANCE")  # planes that a kernel carries along
FILLED = ("BAD", "CR")  # of the image: by the template's light
LEAST_WEIGHT = 0.01  # of a kernel: what a pixel with less does to another is lost in the noise
StampsAt = Callable[[F64, F64], F32]


class Reach(NamedTuple):
    """How far a kernel carries what is wrong, px: what is missing, and what is filled and wrong by little more than noise."""

    missing: int
    filled: int


def combined_mask(science: Exposure, template: Exposure, reach: Reach | None, template_reach: Reach | None) -> I32:
    """Return the OR of both masks on the image's box, with what a kernel carries along grown by its reach.

    Bad pixels and cosmic rays of the image hold the template's light by then; those of the template hold nothing.
    """
    x0, y0, width, height = science.bbox
    offset = (y0 - template.origin[1], x0 - template.origin[0])
    part = (slice(offset[0], offset[0] + height), slice(offset[1], offset[1] + width))
    mask, own, old = np.empty_like(science.mask), science.mask, template.mask[part]
    in_bands(lambda first, last: np.bitwise_or(own[first:last], old[first:last], out=mask[first:last]), height)
    if template_reach is not None:
        spread_bits(template.mask, plane_bits((*SPREADING, *FILLED)), template_reach.missing, mask, offset)
    if reach is not None:
        spread_bits(science.mask, plane_bits(SPREADING), reach.missing, mask)
        spread_bits(science.mask, plane_bits(FILLED), reach.filled, mask)
    return mask


def difference_exposure(science: Exposure, subtracted: Subtracted, mask: I32, psf: Psf) -> Exposure:
    """Return the difference with the WCS and the calibrations of the image; 0 where there is no data.

    `mask` has the shape (height, width) of the image.
    """
    subtracted.difference[flagged_pixels(mask, plane_bits(["NO_DATA"]))] = 0
    return Exposure(
        subtracted.difference,
        subtracted.variance,
        mask,
        origin=science.origin,
        wcs=science.wcs,
        psf=psf,
        photo_calib=science.photo_calib,
        visit_info=science.visit_info,
        band=science.band,
        physical_filter=science.physical_filter,
        ap_corr=science.ap_corr,
    )


def reach_of(kernel: F32) -> Reach:
    """Return the radii (px) that hold 99 % of the absolute weight of a kernel (S, S), and all pixels of `LEAST_WEIGHT`."""
    half = kernel.shape[0] // 2
    g = np.arange(-half, half + 1)
    radius = np.hypot(g[:, None], g[None, :]).ravel()
    weight = np.abs(kernel).ravel()
    order = np.argsort(radius, kind="stable")  # many are equal
    share = np.cumsum(weight[order])
    heavy = radius[weight >= LEAST_WEIGHT * share[-1]]
    missing = int(np.ceil(radius[order][np.searchsorted(share, 0.99 * share[-1])]))
    return Reach(missing, min(int(np.ceil(heavy.max(initial=1.0))), missing))


def difference_psf(science: Psf, box: Box, *filters: StampsAt) -> GridPsf:
    """Return the PSF of a transient in the difference, on a grid; its sum is 1 less the light that falls off the stamp.

    What is new is in the science image: its PSF, through everything that image was convolved with. (Where the image is
    convolved to match the template, the template's PSF would be right for a perfect kernel only.)
    """
    x0, y0, width, height = box
    gx = x0 + (np.arange(PSF_CELLS) + 0.5) * width / PSF_CELLS - 0.5
    gy = y0 + (np.arange(PSF_CELLS) + 0.5) * height / PSF_CELLS - 0.5
    mx, my = (a.ravel() for a in np.meshgrid(gx, gy))
    stamps = science.kernel_at(mx, my)
    for kernels_at in filters:
        stamps = _convolved(stamps, kernels_at(mx, my))
    return GridPsf(stamps, PSF_CELLS, PSF_CELLS, box)


def _convolved(stamps: F32, kernels: F32) -> F32:
    """Convolve stamps with centred kernels, one each; the result has the side of the stamps."""
    side, reach = stamps.shape[-1], kernels.shape[-1] // 2
    full = cv2.getOptimalDFTSize(side + 2 * reach)
    wide = fft.irfft2(fft.rfft2(stamps, (full, full)) * fft.rfft2(kernels, (full, full)), (full, full))
    return np.asarray(wide[:, reach : reach + side, reach : reach + side], dtype=np.float32)
