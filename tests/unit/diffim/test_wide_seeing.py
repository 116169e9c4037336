"""Sources in wide seeing: stamps and freedom are those that the PSF asks for."""

import numpy as np
import pytest

from diffim.detection.peaks import detect
from diffim.detection.significance import significance
from diffim.measurement.centroids import fit_centroids
from exposure import Exposure, GaussianPsf, PhotoCalib
from exposure.psf import FWHM_PER_SIGMA


def field(fwhm, snr, seed, rows=9):
    """Return an image of noise 1 with rows x rows sources of one S/N, drawn by their formula, and where they are."""
    sigma, step = fwhm / FWHM_PER_SIGMA, int(7 * fwhm)
    at = (np.arange(rows) + 0.5) * step + np.random.default_rng(seed).uniform(-0.5, 0.5, rows)
    lines = np.exp(-0.5 * ((np.arange(rows * step) - at[:, None]) / sigma) ** 2).sum(0)
    flux = snr * np.sqrt(4 * np.pi) * sigma
    image = np.random.default_rng(seed + 1).normal(size=(rows * step,) * 2)
    image += flux / (2 * np.pi * sigma**2) * lines[:, None] * lines
    e = Exposure(image.astype(np.float32), np.ones(image.shape, np.float32), np.zeros(image.shape, np.int32))
    e.psf, e.photo_calib = GaussianPsf(sigma, 2 * int(4 * sigma) + 1), PhotoCalib(1.0)
    return e, *(a.ravel() for a in np.meshgrid(at, at))


def test_faint_wide_sources_have_positions_with_right_errors():
    e, x, y = field(16.0, 7.0, 2)
    found = detect(significance(e, np.ones(e.image.shape, bool)))
    px, py = (v[found.significance > 0].astype(float) for v in (found.x, found.y))
    apart = np.hypot(px[:, None] - x, py[:, None] - y)
    near = apart.min(1) < 8
    fx, fy, info = fit_centroids(e, e.psf, px[near], py[near])
    row = apart[near].argmin(1)
    assert near.sum() > 70
    assert (info[:, 3] > 0).mean() < 0.03
    good = info[:, 3] == 0
    pulls = np.array([(fx - x[row]) / info[:, 0], (fy - y[row]) / info[:, 1]])[:, good]
    assert pulls.std() == pytest.approx(1, abs=0.2)
