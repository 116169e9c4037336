"""diffim/shape_fits: how much narrower or wider than the PSF light is, judged by Gaussians of known widths."""

import numpy as np
import pytest

from diffim.measurement.shape_fits import shape_fits

SIDE, SIGMA = 31, 2.0
FWHM = 2.3548 * SIGMA


def gaussian(sx, sy=None, dx=0.0):
    g = np.arange(SIDE) - SIDE // 2
    sy = sx if sy is None else sy
    stamp = np.exp(-0.5 * ((g[None, :] - dx) / sx) ** 2 - 0.5 * (g[:, None] / sy) ** 2)
    return stamp / (2 * np.pi * sx * sy)


def fitted(*stamps, noise=1.0, level=False, reach=1.5):
    """Fit stamps; the PSF is a Gaussian of `SIGMA` px."""
    data = np.array(stamps, np.float32)
    g = np.hypot(*np.mgrid[-(SIDE // 2) : SIDE // 2 + 1, -(SIDE // 2) : SIDE // 2 + 1])
    where = np.repeat((g <= reach * FWHM).astype(np.float64).ravel()[None], len(data), 0)
    model = np.repeat(gaussian(SIGMA)[None].astype(np.float32), len(data), 0)
    sigma = np.broadcast_to(np.asarray(noise, np.float32), data.shape)
    return shape_fits(data, sigma, model, np.full(len(data), FWHM), where, level)


def test_the_covariance_of_what_is_a_little_narrower_or_wider_than_the_psf_is_found():
    widths = np.array([0.96, 1.0, 1.04]) * SIGMA
    out = fitted(*(1e4 * gaussian(w) for w in widths))
    truth = (widths / SIGMA) ** 2 - 1
    for value in (out["narrow"], out["wide"]):  # what is left out is of the order of the square: 0.08^2
        assert value == pytest.approx(truth, abs=0.013)


def test_a_psf_as_wide_as_the_stamp_does_not_wrap_around_it():
    sigma = 9.0
    psf = gaussian(sigma, dx=4.0)[None].astype(np.float32)
    light = 1e6 * gaussian(1.03 * sigma, dx=4.0)[None].astype(np.float32)
    where = np.ones((1, SIDE * SIDE))
    out = shape_fits(light, np.ones_like(light), psf, np.full(1, 2.3548 * sigma), where, False)
    for name in ("narrow", "wide"):
        assert out[name][0] == pytest.approx(1.03**2 - 1, abs=0.01)


def test_a_track_is_narrow_across_and_wide_along():
    out = fitted(1e4 * gaussian(0.9 * SIGMA, 1.1 * SIGMA))
    assert out["narrow"][0] == pytest.approx(0.81 - 1, abs=0.04)
    assert out["wide"][0] == pytest.approx(1.21 - 1, abs=0.04)


def test_light_that_lies_aside_is_moved_by_as_much_and_no_wider():
    out = fitted(1e4 * gaussian(SIGMA, dx=0.3))
    # differences over 2 px are smaller than derivatives: by 1 / (6 sigma^2) and more, 4 to 6 % here
    assert out["moved"][0] == pytest.approx(0.3 / FWHM, rel=0.08)
    assert out["narrow"][0] == pytest.approx(0, abs=0.03)


def test_a_level_below_the_light_is_no_width():
    out = fitted(1e4 * gaussian(SIGMA) + 50, 1e4 * gaussian(SIGMA), level=True, reach=2.0)
    for value in out.values():
        assert value[0] == pytest.approx(value[1], abs=1e-3)


def test_pulls_of_stars_are_those_of_noise():
    rng = np.random.default_rng(3)
    n, noise = 500, 5.0
    data = 1000 * gaussian(SIGMA)[None] + noise * rng.normal(size=(n, SIDE, SIDE))
    out = fitted(*data, noise=noise)
    chi2 = 10 ** out["rest"]
    assert chi2.mean() == pytest.approx(1, abs=0.02)  # 140 degrees of freedom each: the error of the mean is 0.005
    pulls = np.sinh(out["narrow_pull"])
    assert -1.5 < np.median(pulls) < 0  # the smaller one of two eigenvalues
    assert (pulls < -4).mean() < 0.01


def test_pixels_without_data_do_not_count():
    light = 1e4 * gaussian(SIGMA)
    noise = np.ones((SIDE, SIDE))
    noise[:, SIDE // 2 + 3 :] = 1e-15
    holed = np.where(noise < 1e-3, 0, light)
    out = fitted(holed, noise=noise)
    assert out["narrow"][0] == pytest.approx(0, abs=0.01)
    assert out["rest"][0] == pytest.approx(-2)


def test_nothing_and_a_psf_that_is_not_defined_give_no_error():
    out = fitted(np.zeros((SIDE, SIDE)), np.full((SIDE, SIDE), np.nan))
    assert np.isfinite(out["narrow"][0])
    assert np.isnan(out["narrow"][1])
