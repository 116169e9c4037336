"""Errors of fits to a difference and the two images behind it, through the filters that made the difference.

With w_D, w_s, w_t the weights of an estimate on the difference, the image and the template, and F what each image was convolved
with, D = F_s * S - F_t * T, the noise of the two images, which are independent, gives

    Var = sum_y V_s(y) (w_s + F_s^T w_D)(y)^2 + sum_y V_t(y) (w_t - F_t^T w_D)(y)^2.

It holds whatever the filters make of a source's own photons.
"""

from dataclasses import dataclass

import numpy as np
from numpy import fft

from exposure import Exposure
from exposure.psf import GridPsf
from exposure.stamps import gather
from tasks.arrays import F64, I64

__all__ = ["ImageBehind", "covariance_through", "images_behind"]

BATCH = 64  # fits whose weights on the images are held


@dataclass(frozen=True)
class ImageBehind:
    """An image behind a difference around N places, in counts of the difference.

    Parameters
    ----------
    filters
        What it was convolved with, shape (N, S, S).
    variance
        Shape (N, W, W), counts^2; 0 where nothing is known.
    """

    filters: F64
    variance: F64


def images_behind(
    difference: Exposure,
    science: Exposure | None,
    template: Exposure | None,
    template_unit: float,
    centres: tuple[I64, I64],
    side: int,
) -> tuple[ImageBehind, ImageBehind] | None:
    """Return image and template around pixels as far as weights on stamps of a side reach; None where filters are not known.

    Parameters
    ----------
    template_unit
        Counts of the difference per count of the template.
    centres
        Frame pixels x, y, each of shape (N,).
    """
    noise = difference.psf.photon_noise if isinstance(difference.psf, GridPsf) else None
    cx, cy = centres
    filters = None if noise is None else noise.filters_at(cx.astype(np.float64), cy.astype(np.float64))
    if science is None or template is None or filters is None:
        return None
    reach = side + filters.shape[-1] - 1
    images = []
    for k, (e, unit) in enumerate(((science, 1.0), (template, template_unit))):
        variance = gather(e.variance, cx - e.origin[0], cy - e.origin[1], reach, 0.0).astype(np.float64)
        counts = np.isfinite(variance) & (variance > 0)
        images.append(ImageBehind(filters[:, k] / unit, np.where(counts, variance, 0.0) * unit**2))
    return images[0], images[1]


def covariance_through(weights: list[F64], images: tuple[ImageBehind, ImageBehind], side: int) -> F64:
    """Return the covariance (N, K, K) of K estimates that weigh difference, image and template by (N, K, side^2) each."""
    n, number = weights[0].shape[:2]
    out = np.zeros((n, number, number))
    for first in range(0, n, BATCH):
        part = slice(first, first + BATCH)
        own = [w[part].reshape(-1, number, side, side) for w in weights]
        for image, direct, sign in zip(images, own[1:], (1.0, -1.0), strict=True):
            through = sign * _transposed(own[0], image.filters[part])
            reach = (through.shape[-1] - side) // 2
            through[..., reach : reach + side, reach : reach + side] += direct
            noisy = (through * image.variance[part, None]).reshape(len(through), number, -1)
            out[part] += noisy @ through.reshape(noisy.shape).transpose(0, 2, 1)
    return out


def _transposed(weights: F64, filters: F64) -> F64:
    """Return what weights (N, K, side, side) on a filtered image are on the image itself, on all pixels that have a part in them."""
    side = weights.shape[-1] + filters.shape[-1] - 1
    full = (side, side)
    turned = fft.rfft2(filters[:, None, ::-1, ::-1], full)
    return np.asarray(fft.irfft2(fft.rfft2(weights, full) * turned, full))
