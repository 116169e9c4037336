"""The PSF measured on an image, judged by the one that the image was made with."""

import numpy as np
import pandas as pd
import pytest

from calibration import sources as sources_module
from calibration.errors import TooCrowded, TooFewStars
from calibration.psf.model import fit_psf
from calibration.psf.stamps import clipped_mean
from calibration.psf.wings import _moffat, _moffat_and_slopes
from calibration.sources import detect_sources
from exposure import Exposure, load_instrument
from service.pairs.prepare import subtract_sky
from tests.support.crowded_field import crowded

RULES = load_instrument("generic")
NOWHERE = ((), ())


def fitted(image):
    made = Exposure(image, np.full_like(image, np.nan), np.zeros(image.shape, np.int32), band="r")
    subtract_sky(made, RULES)
    return fit_psf(made, detect_sources(made))


def flux_ratio(fit, fwhm):
    """The flux that the fitted PSF finds for a star of flux 1 with the true profile (a Moffat's of power 2.5)."""
    psf = fit.psf.kernel_at(*fit.psf.average_position())[0] * (1 - fit.wing_fraction)
    grid, alpha = np.arange(len(psf)) - len(psf) // 2, fwhm / 1.1774
    true = 1.5 / (np.pi * alpha**2) * (1 + (grid[:, None] ** 2 + grid**2) / alpha**2) ** -2.5
    return float((true * psf).sum() / (psf**2).sum())


@pytest.mark.parametrize("density", [100, 200])
def test_psf_of_a_crowded_field_is_the_true_one(density):
    ratios = [
        flux_ratio(fitted(crowded(200, density, fwhm, NOWHERE, 300 + density + seed)), fwhm)
        for seed, fwhm in ((0, 3.6), (1, 3.0))
    ]
    # ten stars, each on the light of some 30 others that are not seen: 1.5 % of scatter; up to 13 % if that is taken for sky
    assert np.abs(np.array(ratios) - 1).max() < 0.045


def test_hot_pixels_make_no_psf():
    """Few stars, 7.5 px wide, and many hot pixels that are all alike."""
    rng = np.random.default_rng(5)
    image, g = rng.normal(0, 5, (260, 260)), np.arange(260)
    for u, v in ((60.3, 70.8), (190.6, 180.1)):
        image += 2e5 / (20 * np.pi) * np.exp(-((g[:, None] - v) ** 2 + (g - u) ** 2) / 20)
    hot = np.array([(x, y) for x in range(25, 240, 40) for y in range(25, 240, 40)])
    image[hot[:, 1], hot[:, 0]] += 3000
    made = Exposure(image.astype("f4"), np.full(image.shape, 25.0, "f4"), np.zeros(image.shape, np.int32))
    with pytest.raises(TooFewStars, match="less than a pixel"):
        fit_psf(
            made,
            pd.DataFrame({"x": hot[:, 0], "y": hot[:, 1], "snr": 600.0, "size": 0.13, "psfFlux": 3e3, "star": True}),
        )


@pytest.mark.parametrize("dark", [0.0, 0.1])
def test_a_model_with_a_dark_ring_is_refused(dark):
    """Where the sky was taken too bright around stars their fluxes would be too small, by the share of all stars."""
    rng = np.random.default_rng(8)
    x, y = (
        a.ravel() + rng.uniform(-0.5, 0.5, 16) for a in np.meshgrid(np.arange(4) * 60 + 40.0, np.arange(4) * 60 + 40.0)
    )
    image, g = rng.normal(0, 5, (260, 260)), np.arange(260)
    for u, v in zip(x, y, strict=True):
        square = (g[:, None] - v) ** 2 + (g - u) ** 2
        image += 2e5 / (2 * np.pi) * (np.exp(-square / 8) / 4 - dark * np.exp(-square / 72) / 36)
    made = Exposure(
        image.astype("f4"),
        np.full(image.shape, 25.0, "f4") + np.maximum(image, 0).astype("f4"),
        np.zeros(image.shape, np.int32),
    )
    sources = detect_sources(made)
    assert sources.star.sum() >= 10
    if dark:
        with pytest.raises(TooFewStars, match="negative in rings"):
            fit_psf(made, sources)
    else:
        assert fit_psf(made, sources).fwhm == pytest.approx(2 * 2.3548, rel=0.01)


@pytest.mark.parametrize("phase", [0.1, 0.3, 0.5])
def test_level_of_digitised_values_is_not_biased(phase):
    rng, digit = np.random.default_rng(5), 12.0
    raw = rng.normal(phase * digit, digit, (200, 400)).astype(np.float32)
    raw[:, :12] += 1e4  # a neighbour
    raw[:, 12:40] = np.nan
    level = clipped_mean(np.round(raw / digit) * digit)
    # of 360 values each: sigma 0.65; the median would be 0 or 12
    assert abs(level.mean() - phase * digit) < 4 * 0.65 / np.sqrt(200) + 0.05
    assert level.std() < 0.8
    assert np.isnan(clipped_mean(np.full((1, 5), np.nan, np.float32)))[0]


def test_heaps_of_sources_are_told_apart_with_more_memory_or_refused(monkeypatch):
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (60, 60)).astype(np.float32)
    g = np.arange(60)
    for x, y in rng.uniform(15, 45, (40, 2)):
        image += 200 * np.exp(-((g[:, None] - y) ** 2 + (g - x) ** 2) / 4)
    made = Exposure(image, np.ones_like(image), np.zeros(image.shape, np.int32))
    usual = detect_sources(made)
    monkeypatch.setattr(sources_module, "SUB_OBJECTS", (2, 4096))
    pd.testing.assert_frame_equal(detect_sources(made), usual)
    monkeypatch.setattr(sources_module, "SUB_OBJECTS", (2,))
    with pytest.raises(TooCrowded, match="smaller part"):
        detect_sources(made)


@pytest.mark.parametrize("p", [(0.7, 0.6, 0.1, -0.2), (-3.5, 3.5, 0.0, 0.3)])  # within limits; held at both
def test_the_slopes_of_a_moffat_are_its_derivatives(p):
    y, x = np.mgrid[-8:9, -8:9].astype(np.float64)
    _, *slopes = _moffat_and_slopes(np.array(p), x, y)
    for k, slope in enumerate(slopes):
        step = 1e-5 * (np.arange(4) == k)
        expected = (_moffat(p + step, x, y) - _moffat(p - step, x, y)) / 2e-5
        assert np.abs(slope - expected).max() <= 1e-6 * np.abs(expected).max(), k
