"""The difference exposure around subtracted pixels: mask, PSF, calibrations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffim.pixels.stamp_convolution import stamps_through
from diffim.subtraction.alard_lupton import Subtracted
from exposure import Exposure, GridPsf, Psf
from exposure.mask import flagged_pixels, plane_bits, spread_bits
from exposure.photometry import SPOILT
from exposure.threads import in_bands
from tasks.arrays import F32, F64, I32, Box

__all__ = [
    "Reach",
    "StampsAt",
    "combined_mask",
    "difference_exposure",
    "difference_psf",
    "pixel_reach",
    "reach_of",
]

PSF_CELLS = 12
SPREADING = ("SAT_TEMPLATE", "SAT", "HIGH_VARIANCE")  # planes that a kernel carries along
LEAST_WEIGHT = 0.01  # of a kernel: what a pixel with less does to another is lost in the noise
StampsAt = Callable[[F64, F64], F32]


@dataclass(frozen=True)
class Reach:
    """How far (px) the filters of an image carry a pixel of it: all of them, and the matching kernel (None: there is none).

    Where data are missing all filters matter; what is bad is filled with the light of the other image, and is carried by `pixels`.
    Other planes are carried by a matching kernel alone.
    """

    filters: int
    pixels: int
    kernel: int | None = None


def combined_mask(science: Exposure, template: Exposure, reach: Reach, template_reach: Reach) -> I32:
    """Return the OR of both masks on the image's box, with what filters carry along grown by their reach.

    ``EDGE`` is set where the filters of an image reach beyond it.

    Bad pixels and cosmic rays of either image hold the light of the other by then.
    """
    x0, y0, width, height = science.bbox
    offset = (y0 - template.origin[1], x0 - template.origin[0])
    part = (slice(offset[0], offset[0] + height), slice(offset[1], offset[1] + width))
    mask, own, old = np.empty_like(science.mask), science.mask, template.mask[part]
    in_bands(lambda first, last: np.bitwise_or(own[first:last], old[first:last], out=mask[first:last]), height)
    for exposure, far, corner in ((template, template_reach, offset), (science, reach, (0, 0))):
        spread_bits(exposure.mask, plane_bits(["NO_DATA"]), far.filters, mask, corner)
        spread_bits(exposure.mask, plane_bits(SPOILT), far.pixels, mask, corner)
        if far.kernel is not None:
            spread_bits(exposure.mask, plane_bits(SPREADING), far.kernel, mask, corner)
        _mark_edge(mask, corner, exposure.mask.shape, far.filters)
    return mask


def _mark_edge(mask: I32, corner: tuple[int, int], shape: tuple[int, ...], reach: int) -> None:
    """Set ``EDGE`` in a mask, pixel [0, 0] of which is pixel `corner` of an image of a shape, less than `reach` px from its rim."""
    bit = np.int32(plane_bits(["EDGE"]))
    for axis in (0, 1):
        rows = mask if axis == 0 else mask.T
        low = max(0, reach - corner[axis])
        high = max(0, corner[axis] + rows.shape[0] + reach - shape[axis])
        rows[:low] |= bit
        rows[rows.shape[0] - min(high, rows.shape[0]) :] |= bit


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


def reach_of(kernel: F32, share_inside: float = 0.99) -> int:
    """Return the radius (px) that holds a share of the absolute weight of a kernel (S, S)."""
    radius, weight = _by_radius(kernel)
    order = np.argsort(radius, kind="stable")  # many are equal
    share = np.cumsum(weight[order])
    return int(np.ceil(radius[order][np.searchsorted(share, share_inside * share[-1])]))


def pixel_reach(kernel: F32) -> int:
    """Return the radius (px) of the pixels of a kernel (S, S) that weigh `LEAST_WEIGHT` or more, at most its reach."""
    radius, weight = _by_radius(kernel)
    heavy = radius[weight >= LEAST_WEIGHT * weight.sum()]
    return min(int(np.ceil(heavy.max(initial=1.0))), reach_of(kernel))


def _by_radius(kernel: F32) -> tuple[F64, F32]:
    """Return the distance from the centre (px) and the absolute weight of the pixels of a kernel (S, S)."""
    half = kernel.shape[0] // 2
    g = np.arange(-half, half + 1)
    return np.hypot(g[:, None], g[None, :]).ravel(), np.abs(kernel).ravel()


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
        stamps = stamps_through(stamps, kernels_at(mx, my))
    return GridPsf(stamps, PSF_CELLS, PSF_CELLS, box)
