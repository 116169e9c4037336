"""The depth that a difference reaches, and what stars leave in it, against the noise of its two images."""

import numpy as np

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.errors import PsfUndefined
from exposure.stamps import sided
from tasks.arrays import F64, nearest_pixels

__all__ = ["depth_loss", "optimal_error", "star_residual_rms"]

SIDE = 128  # of the transforms of PSFs
LEAST = 1e-12  # of the power of a PSF, where both are nothing


def optimal_error(science: F64, template: F64, science_variance: float, template_variance: float) -> float:
    """Return the least error of the flux of a point source in the difference of two images, counts of the image.

    Parameters
    ----------
    science, template
        PSF stamps of sum 1.
    science_variance, template_variance
        Of a pixel, both in counts^2 of the image.

    Notes
    -----
    sigma^2 = 1 / mean(|P_n|^2 |P_r|^2 / (v_r |P_n|^2 + v_n |P_r|^2)): Zackay, Ofek & Gal-Yam (2016), ApJ 830, 27.
    """
    new, old = (
        np.abs(np.fft.rfft2(sided(stamp[None], SIDE - 1)[0], (SIDE, SIDE))) ** 2 + LEAST
        for stamp in (science, template)
    )
    power = new * old / (template_variance * new + science_variance * old)
    both = np.full(power.shape[1], 2.0)  # of a real image half of the frequencies is kept
    both[0] = both[-1] = 1
    return float(1 / np.sqrt((power * both).sum() / SIDE**2))


def depth_loss(
    difference: Exposure, science: Exposure, template: Exposure, unit: float, threshold_scale: float = 1.0
) -> float:
    """Return by how many magnitudes a difference is less deep than the noise and the PSFs of its two images allow.

    NaN where one of the PSFs is not defined in the middle.

    Parameters
    ----------
    unit
        Counts of the image per count of the template, as the stars or the calibrations tell.
    threshold_scale
        What the threshold was raised by.
    """
    x0, y0, width, height = science.bbox
    middle = np.array([x0 + width / 2]), np.array([y0 + height / 2])
    levels, stamps = [], []
    for exposure in (difference, science, template):
        levels.append(float(MaskedImage.of(exposure, "BAD", "SAT").sky_levels(science.bbox, max(width, height))[0, 0]))
        try:
            stamp = exposure.require_psf().kernel_at(*middle)[0].astype(np.float64)
        except PsfUndefined:
            return float("nan")
        stamps.append(stamp / stamp.sum())
    best = optimal_error(stamps[1], stamps[2], levels[1], unit**2 * levels[2])
    reached = np.sqrt(levels[0] / (stamps[0] ** 2).sum()) * threshold_scale
    return float(2.5 * np.log10(reached / best))


def star_residual_rms(
    difference: Exposure, science: Exposure, template: Exposure, x: F64, y: F64, unit: float, side: int = 15
) -> float:
    """Return the rms of difference / sigma on stamps of `side` px at stars, median over those at (x, y); NaN without any.

    Sigma is that of the two images, with the template in `unit` counts of the image per count of its own: a kernel that is
    wrong cannot raise it, as it does the variance plane of the difference.
    """
    if not x.size:
        return float("nan")
    ix, iy = nearest_pixels(x), nearest_pixels(y)
    values, stamp_variance = MaskedImage.of(difference, "BAD", "SAT", "CR").stamps(ix, iy, side)
    own, other = (
        MaskedImage.of(e, "BAD", "SAT").stamps(ix, iy, side)[1].astype(np.float64) for e in (science, template)
    )
    variance = own + unit**2 * other
    good = np.isfinite(stamp_variance) & np.isfinite(variance)
    square = np.where(good, values.astype(np.float64) ** 2 / np.where(good, variance, 1.0), 0).sum((1, 2))
    return float(np.median(np.sqrt(square / np.maximum(good.sum((1, 2)), 1))))
