"""Noise of a source's own photons in an image that was filtered: it is correlated, which the variance plane does not tell.

A difference D = F_s * S - F_t * T is made so that the noise of the sky is white in it. That of a source's own photons is
not: with e the variance that a source of flux 1 adds to the image in front of a filter F, a linear estimate sum(w D) has the
variance of the variance plane, sum_x w(x)^2 (F^2 * e)(x), and beyond that

    A = sum_y e(y) (F^T w)(y)^2 - sum_x w(x)^2 (F^2 * e)(x)

for each unit of flux. A is positive where F is broad (a matching kernel) and negative where it sharpens (the whitening).
What is new shines in S, what is gone in T, what is constant in both.

A whitening has its limits: of a resampled template, whose noise has next to no power at high frequencies, some correlation of the sky is
left. With C its autocorrelation (1 at lag 0), measured on the difference, and V the variance of the sky, sum(w D) has the variance

    B = V sum_h (C(h) - [h = 0]) sum_x w(x) w(x + h)

beyond that of the variance plane, whatever the flux.

A PSF model that was measured is known as well as the stars tell: fluxes by it are off by a share of themselves, whose variance
is kept with those.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from exposure.field import neighbours_2d
from tasks.arrays import F32, F64, Box
from tasks.reprs import short_repr

__all__ = [
    "AP_FLUX",
    "AP_RADIUS",
    "CENTROID",
    "FILTER_SIDE",
    "LEAST",
    "MODEL",
    "NUMBERS",
    "PSF_FLUX",
    "SKY",
    "SLOPE",
    "PhotonNoise",
    "corrected",
]

AP_RADIUS = 12.0
"""Of aperture fluxes, px."""
PSF_FLUX, AP_FLUX, SLOPE = 0, 1, 2
CENTROID = slice(3, 7)
MODEL = 7
NUMBERS = 8
SKY = 2
"""Row of what does not depend on the flux, behind those of image and template."""
FILTER_SIDE = 41
"""Of the stamps of filters that are kept, px."""
LEAST = 0.2
"""Of a variance that remains: what is taken off is an estimate."""


@dataclass(frozen=True)
class PhotonNoise:
    """Variances beyond those of the variance plane, on a grid of cells, for each unit of flux.

    Parameters
    ----------
    values
        Shape (ny * nx, 3, 8), x fastest; of light in the image (0) and in the template (1): A of the PSF flux; of the flux
        within `AP_RADIUS`; the slope of the variance plane over the PSF (variance for each unit of P); A of the sums over
        the pixels of a centroid's fit: of P, of its derivatives in x and y, and of the product of these (of px^-2); the relative variance
        of PSF fluxes by what is not known of the PSF (for a flux squared, not for a unit of it). Of the sky (2): B of the same, 0
        for slope and PSF.
    nx, ny
        Cells.
    bbox
        (x0, y0, width, height) that the grid covers.
    filters
        Shape (ny * nx, 2, S, S): what the image (0) and the template (1) are convolved with, F_s and F_t; None: not known.
    """

    values: F64
    nx: int
    ny: int
    bbox: Box
    filters: F32 | None = None

    __repr__ = short_repr

    def at(self, x: ArrayLike, y: ArrayLike) -> F64:
        """Return the values (N, 3, 8) at frame positions (N,), px; those at positions that are no numbers are no numbers."""
        xs, ys = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        placed = np.isfinite(xs) & np.isfinite(ys)
        index, weight = neighbours_2d(np.where(placed, xs, 0), np.where(placed, ys, 0), self.bbox, self.nx, self.ny)
        out = np.einsum("nc,ncik->nik", weight, self.values[index])
        return np.where(placed[:, None, None], out, np.nan)

    def filters_at(self, x: F64, y: F64) -> F64 | None:
        """Return the filters (N, 2, S, S) at frame positions (N,), px; None where they are not known."""
        if self.filters is None:
            return None
        index, weight = neighbours_2d(x, y, self.bbox, self.nx, self.ny)
        return np.asarray(np.einsum("nc,ncijk->nijk", weight, self.filters[index]))

    def variance(self, x: ArrayLike, y: ArrayLike, flux: F64, slope: F64) -> F64:
        """Return what comes to the variances, shape (N, 8), of sources at frame positions; the last is the relative one of the model.

        Parameters
        ----------
        flux
            Of each on the difference, shape (N,): positive where the image is brighter than the template.
        slope
            Of the variance plane over the PSF, shape (N,): there is no more noise of photons than it says, and what the flux
            does not account for is of a source that is in both images.
        """
        values = self.at(x, y)
        own, both = np.where((flux > 0)[:, None], values[:, 0], values[:, 1]), values[:, :SKY].sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            # of light that the variance plane knows nothing of, as that of what was put in without noise, there is no noise
            of_new = np.fmin(np.abs(flux), np.where(own[:, SLOPE] > 0, np.maximum(slope, 0) / own[:, SLOPE], 0.0))
            rest = np.where(both[:, SLOPE] > 0, np.maximum(slope - of_new * own[:, SLOPE], 0) / both[:, SLOPE], 0.0)
        out = own * of_new[:, None] + both * rest[:, None] + values[:, SKY]
        out[:, MODEL] = own[:, MODEL]
        return np.asarray(out)


def corrected(error: F64, more: F64) -> F64:
    """Return standard errors (N,) whose variances are changed by `more` (N,), but not below `LEAST` of what they are."""
    square = error**2
    return np.asarray(np.sqrt(np.maximum(square + np.where(np.isfinite(more), more, 0.0), LEAST * square)))
