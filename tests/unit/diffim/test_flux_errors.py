"""Errors of fluxes where nobody gave a variance or a gain: pulls of known stars have unit width at every flux."""

import numpy as np

from exposure import Exposure, GaussianPsf, load_instrument
from exposure.photometry import forced_psf_photometry
from service.pairs.prepare import subtract_sky
from tests.support import any_image as made

SIDE, FWHM, APART = 600, 3.0, 30.0
RULES = load_instrument("generic")


def _light(points):
    grid, sigma = np.arange(SIDE), FWHM / 2.3548
    across, up = (np.exp(-0.5 * ((grid[:, None] - points[:, k]) / sigma) ** 2) for k in (0, 1))
    return (up * points[:, 2]) @ across.T / (2 * np.pi * sigma**2)


def test_pulls_of_stars_have_unit_width():
    """108 stars of each flux: the rms of their pulls is known to 6.8 %, so that three of three lie within 20 %."""
    pulls = []
    for k, flux in enumerate((1500.0, 6000.0, 24000.0)):
        rng = np.random.default_rng(k)
        cells = (np.indices((18, 18)).reshape(2, -1).T + 1.0) * APART + rng.uniform(-3, 3, (324, 2))
        fluxes = np.where(
            np.arange(324) % 3 == 0, 10 ** rng.uniform(3.5, 5, 324), flux
        )  # those of other fluxes tell the gain
        points = np.column_stack([cells, fluxes])
        image = made._noisy(_light(points), rng)
        exposure = Exposure(image, np.full_like(image, np.nan), np.zeros(image.shape, np.int32))
        subtract_sky(exposure, RULES)
        known = points[np.arange(324) % 3 == 1]
        psf = GaussianPsf(FWHM / 2.3548, 25)
        got = forced_psf_photometry(exposure.image, exposure.variance, psf, known[:, 0], known[:, 1])
        pulls.append((got.instFlux.to_numpy() - flux) / got.instFluxErr.to_numpy())
    width = np.std(pulls, axis=1)
    assert np.abs(width - 1).max() < 0.2, width
    assert np.abs(np.mean(pulls, axis=1)).max() < 0.4  # 0.1 of noise, and photon noise that counts bright pixels less
