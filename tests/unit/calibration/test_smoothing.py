"""Smoothing of undersampled images: flux errors stay right, bad pixels do not spread."""

import numpy as np
import pytest

from calibration.psf.smoothing import scale_to_flux_errors, smooth
from exposure import Exposure, GaussianPsf
from exposure.photometry import forced_psf_photometry


def test_fluxes_of_smoothed_images_have_the_errors_they_claim():
    rng = np.random.default_rng(3)
    shape = (1200, 1200)
    image = rng.normal(0, 3, shape).astype("f4")
    exposure = Exposure(image, np.full(shape, 9, "f4"), np.zeros(shape, "i4"))
    smooth(exposure, 0.8)
    exposure.psf = GaussianPsf(float(np.hypot(1.0, 0.8)), 21, (600.0, 600.0))
    assert 0.6 < scale_to_flux_errors(exposure, 0.8) < 1
    gx, gy = np.meshgrid(np.arange(20.3, 1180, 12), np.arange(20.7, 1180, 12))
    table = forced_psf_photometry(exposure.image, exposure.variance, exposure.psf, gx.ravel(), gy.ravel())
    pull = table.instFlux / table.instFluxErr
    assert pull.std() == pytest.approx(1, abs=0.03)  # n = 9400, neighbours share a little noise


def test_bad_pixels_take_no_part():
    image = np.full((60, 60), 7.0, "f4")
    exposure = Exposure(image, np.ones((60, 60), "f4"), np.zeros((60, 60), "i4"))
    exposure.image[20, 30] = 1e6
    exposure.image[40, 10] = np.nan
    hole = np.zeros((60, 60), bool)
    hole[20, 30] = True
    exposure.set_plane("SAT", hole)
    bad = hole | np.isnan(exposure.image)
    exposure.set_plane("BAD", hole)
    exposure.set_plane("NO_DATA", np.isnan(exposure.image))
    smooth(exposure, 1.0)
    assert np.allclose(exposure.image[~bad], 7.0, rtol=1e-5)
