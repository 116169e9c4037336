"""Fields of stars for the matching kernel, and its fit."""

import numpy as np

from diffim.matching.kernel_basis import make_basis
from diffim.matching.kernel_fit import FitOptions, fit_kernel
from diffim.matching.kernel_stamps import StarPositions
from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.psf import FWHM_PER_SIGMA

__all__ = ["SIZE", "SPACING", "VARIANCE", "fitted", "stars"]

SIZE, SPACING, VARIANCE = 400, 80, 1e-4


def stars(origin, sigma, fluxes, background=0.0):
    """Gaussian stars on a grid: planes, and their frame positions."""
    n = int(np.ceil(np.sqrt(len(fluxes))))
    at = 60 + SPACING * np.arange(n)
    x, y = (a.ravel()[: len(fluxes)] + 0.0 for a in np.meshgrid(at, at))
    grid = np.arange(SIZE)
    ex, ey = (np.exp(-0.5 * ((grid - c[:, None]) / sigma) ** 2) for c in (x, y))
    image = np.einsum("n,nj,ni->ji", fluxes, ey, ex) / (2 * np.pi * sigma**2) + background
    mask = np.zeros(image.shape, np.int32)
    e = Exposure(image.astype("f4"), np.full(image.shape, VARIANCE, "f4"), mask, origin)
    return MaskedImage.of(e), x + origin[0], y + origin[1]


def fitted(origin, convolved, target, sigmas=(2.0, 2.0), **options):
    planes, x, y = convolved
    basis = make_basis(*(s * FWHM_PER_SIGMA for s in sigmas))
    orders = {"kernel_order": 0, "background_order": 0} | options
    options = FitOptions(white_noise=False, **orders)
    return fit_kernel(planes, target[0], StarPositions(x, y), basis, (*origin, SIZE, SIZE), options)
