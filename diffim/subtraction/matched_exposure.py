"""The template as it was subtracted, as an exposure of its own."""

import cv2
import numpy as np

from diffim.matching.kernel_fit import KernelFit
from diffim.subtraction.match_and_subtract import Matched
from exposure import Exposure
from tasks.arrays import F32

__all__ = ["matched_exposure"]


def matched_exposure(science: Exposure, template: Exposure, matched: Matched) -> Exposure | None:
    """Return the matched template on the image's pixels and in its counts, with the image's calibrations; None: it was not kept.

    Its mask is that of the template, its variance that of the template through the kernel (before noise is whitened). Where the
    template was convolved its PSF is the image's, else its own.
    """
    if matched.matched is None:
        return None
    own = template.cutout(*science.bbox)
    of_template = matched.convolved == "convolveTemplate"
    variance = own.variance * np.float32(matched.unit**2)
    if of_template and matched.fit is not None:
        variance = _through(own.variance, matched.fit, science)
    return Exposure(
        matched.matched,
        variance,
        own.mask.copy(),
        origin=science.origin,
        wcs=science.wcs,
        psf=science.psf if of_template else template.psf,
        photo_calib=science.photo_calib,
        visit_info=science.visit_info,
        band=science.band,
        physical_filter=science.physical_filter,
        ap_corr=science.ap_corr,
    )


def _through(variance: F32, fit: KernelFit, science: Exposure) -> F32:
    """Return a variance plane through the kernel in the middle of the image: its square, as a Gaussian of that sum and width."""
    x0, y0, width, height = science.bbox
    squared = fit.kernel.kernels_at(np.array([x0 + width / 2]), np.array([y0 + height / 2]))[0].astype(np.float64) ** 2
    total = squared.sum()
    g = np.arange(squared.shape[0]) - squared.shape[0] // 2
    across, up = squared.sum(0) / total, squared.sum(1) / total
    sigma = [max(float(np.sqrt((p * g**2).sum() - (p * g).sum() ** 2)), 0.3) for p in (across, up)]
    smooth = cv2.GaussianBlur(np.nan_to_num(variance), (0, 0), sigma[0], sigmaY=sigma[1])
    return np.asarray(smooth * np.float32(total), np.float32)
