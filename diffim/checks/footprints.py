"""How much of the light of stars a difference has left, on the discs that they fill, against the sky and against noise."""

from dataclasses import dataclass

import numpy as np

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.photometry import SPOILT
from exposure.quantiles import median
from tasks.arrays import F64, nearest_pixels

__all__ = ["COVERED", "Footprints", "sky_mean"]

COVERED = 0.7  # of a disc must have data in both images: of less nothing is said
MEAN_OF_NOISE = float(np.sqrt(2 / np.pi))  # mean |x| of a unit Gaussian


@dataclass(frozen=True)
class Footprints:
    """Means over the pixels with data of the discs of stars that are covered, shape (N,), counts.

    Parameters
    ----------
    light, left
        Of |I| in the image, and of |D| in the difference.
    noise
        Of what the noise of the difference alone makes |D|: sqrt(2 / pi) sigma of each pixel, the star's own photons in it.
    """

    light: F64
    left: F64
    noise: F64

    @classmethod
    def of(cls, difference: Exposure, science: Exposure, x: F64, y: F64, fwhm: float) -> "Footprints":
        """Measure the discs of radius `fwhm` px around frame positions (N,) of which at least `COVERED` has data in both."""
        side = 2 * round(fwhm) + 1
        g = np.arange(side) - side // 2
        disc = np.hypot(g[:, None], g[None, :]) <= fwhm
        ix, iy = nearest_pixels(x), nearest_pixels(y)
        left, variance = (a[:, disc] for a in MaskedImage.of(difference, *SPOILT).stamps(ix, iy, side))
        light, own = (a[:, disc] for a in MaskedImage.of(science, *SPOILT).stamps(ix, iy, side))
        good = np.isfinite(variance) & np.isfinite(own)
        enough = good.sum(1) >= COVERED * np.count_nonzero(disc)
        weight = good[enough] / good[enough].sum(1, keepdims=True)

        def mean(values: F64) -> F64:
            return np.asarray((weight * values).sum(1), np.float64)

        sigma = np.sqrt(np.where(good, variance, 0))[enough]
        return cls(mean(np.abs(light[enough])), mean(np.abs(left[enough])), MEAN_OF_NOISE * mean(sigma))

    def over_sky(self, sky: float) -> tuple[float, float]:
        """Return mean and standard deviation of (mean |D| - `sky`) / mean |I|: what is left, photon noise of stars included."""
        return self._shares(self.left - sky)

    def over_noise(self) -> tuple[float, float]:
        """Return mean and standard deviation of what is left beyond the noise, over mean |I|: 0 of a perfect subtraction."""
        return self._shares(self.left - self.noise)

    def of_sky(self, sky: float) -> tuple[float, float]:
        """Return mean and standard deviation of `sky` over mean |I|."""
        return self._shares(np.full(self.light.size, sky))

    def _shares(self, values: F64) -> tuple[float, float]:
        ratio = values / np.maximum(self.light, 1e-30)
        return (float(ratio.mean()), float(ratio.std())) if ratio.size else (float("nan"), float("nan"))


def sky_mean(difference: Exposure, x: F64, y: F64, fwhm: float) -> float:
    """Return the mean |D| of the discs at blank positions (frame px), the median |D| of the pixels with data without any."""
    blank = Footprints.of(difference, difference, x, y, fwhm).left
    if blank.size:
        return float(blank.mean())
    some = difference.image[::7, ::7][difference.good(*SPOILT)[::7, ::7]]
    return float(median(np.abs(some))) if some.size else float("nan")
