"""Smoothing of undersampled images: below 2.2 pixels per FWHM light is aliased and no PSF model or kernel can follow
it.

A Gaussian takes out the frequencies that carry aliased light. PSF fluxes then scatter with the photon noise instead of
with the position of the star inside its pixel, and two such images can be matched.
"""

import cv2
import numpy as np

from exposure import Exposure
from tasks.arrays import F32

__all__ = ["UNDERSAMPLED_FWHM", "scale_to_flux_errors", "smooth"]

UNDERSAMPLED_FWHM = 2.2  # px: narrower stars are aliased by more than kernels can follow


def smooth(exposure: Exposure, sigma: float) -> None:
    """Convolve the image, in place, with a Gaussian of `sigma` px.

    Pixels without data, with bad values or with cosmic rays take no part and stay flagged; those of cosmic rays get
    what is around them. The variance plane keeps the noise power at low frequencies (that of the input): the noise is
    correlated, and single pixels scatter less than it says.
    """
    good = exposure.good("BAD", "CR") & np.isfinite(exposure.variance)
    weight = _blur(good.astype(np.float32), sigma)
    usable = (good | exposure.flagged("CR")) & (weight > 0.05)
    for plane in (exposure.image, exposure.variance):
        filled = _blur(np.where(good, plane, 0).astype(np.float32), sigma)
        plane[usable] = filled[usable] / weight[usable]


def scale_to_flux_errors(exposure: Exposure, sigma: float) -> float:
    """Scale the variance plane of a smoothed image so that errors of PSF fluxes are right; returns the factor.

    A flux is the sum of P d / sum of P^2. For noise smoothed with G its variance is V0 sum((G * P)^2) / (sum P^2)^2,
    while the formula for white noise says V / sum P^2.
    """
    psf = exposure.require_psf()
    stamp = psf.kernel_at(*psf.average_position())[0]
    factor = float((_blur(stamp, sigma) ** 2).sum() / (stamp**2).sum())
    exposure.variance *= np.float32(factor)
    return factor


def _blur(plane: F32, sigma: float) -> F32:
    side = 2 * int(np.ceil(4 * sigma)) + 1
    return np.asarray(cv2.GaussianBlur(plane, (side, side), sigma, borderType=cv2.BORDER_CONSTANT), dtype=np.float32)
