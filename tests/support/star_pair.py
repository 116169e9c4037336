"""Two images of the same stars under any two PSFs, which are known or given wrongly."""

from dataclasses import dataclass

import numpy as np

from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.stamps import add_stamps
from exposure.stars import Stars
from tasks.arrays import nearest_pixels

__all__ = ["StarPair", "residual", "star_pair"]

NOISE, PAD = 5.0, 48
WCS = SkyWcs.tan((0, 0), (150.0, 2.0), [[-0.2 / 3600, 0], [0, 0.2 / 3600]])


@dataclass(frozen=True)
class StarPair:
    """The exposures, the stars, and the light of the stars in the science image without noise."""

    science: Exposure
    template: Exposure
    stars: Stars
    light: np.ndarray


def star_pair(psf, template_psf, n, size=384, seed=1, flux=(3e4, 3e5), dim=None, models=(None, None)):
    """Return a pair; science noise `NOISE`, the template's a third.

    Parameters
    ----------
    dim
        Function of x and y / `size`: what is left of the science image's light.
    models
        PSFs that the exposures say they have, where those are not the true ones.
    """
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(10, size - 10, (2, n))
    f = np.exp(rng.uniform(*np.log(flux), n))
    through = np.ones(n) if dim is None else dim(x / size, y / size)
    science, light = _exposed(psf, (x, y, f * through), size, 0, NOISE, rng, models[0])
    template, _ = _exposed(template_psf, (x, y, f), size, PAD, NOISE / 3, rng, models[1])
    peaks = f * psf.image_at(x, y).max((1, 2))
    snr = f / np.sqrt(f + 4 * np.pi * NOISE**2 * f / (2 * np.pi * peaks))
    flags = np.ones(n, bool)
    return StarPair(science, template, Stars(x, y, snr, f, flags, flags, ~flags).brightest_first(), light)


def _exposed(psf, stars, size, pad, noise, rng, model):
    x, y, f = stars
    light = np.zeros((size + 2 * pad, size + 2 * pad), np.float32)
    add_stamps(light, psf.image_at(x, y), nearest_pixels(x + pad), nearest_pixels(y + pad), f.astype(np.float32))
    variance = light + noise**2
    image = light + rng.normal(size=light.shape) * np.sqrt(variance)
    e = Exposure(
        image.astype("f4"), variance.astype("f4"), np.zeros(light.shape, np.int32), (-pad, -pad), WCS, model or psf,
        PhotoCalib(1.0), VisitInfo(1, 2, 61000.0, 30.0), "r",
    )  # fmt: skip
    return e, light


def residual(pair, difference, least=20.0):
    """Return the std of D / sigma on light of more than `least` sigma of the sky, over that on the sky."""
    z = difference.image / np.sqrt(difference.variance)
    inner = np.zeros(z.shape, bool)
    inner[20:-20, 20:-20] = True
    lit, sky = inner & (pair.light > least * NOISE), inner & (pair.light < 0.1 * NOISE)
    return float(np.sqrt((z[lit] ** 2).mean()) / z[sky].std())
