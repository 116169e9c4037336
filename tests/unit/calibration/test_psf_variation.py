"""How a PSF varies over an image, from few stars, judged by the PSF that the stars were made with."""

import numpy as np

from calibration.psf.model import fit_psf
from calibration.psf.variation import shape_modes
from calibration.sources import detect_sources
from exposure import GaussianPsf, MoffatPsf
from simulation.render import add_points
from tests.support.mixed_field import add_noise, size_errors

SIDE = 800


def gaussian(xx, yy, xy=0.0):
    g = np.arange(31) - 15.0
    det = xx * yy - xy * xy
    r2 = (yy * g[None, :] ** 2 - 2 * xy * g[None, :] * g[:, None] + xx * g[:, None] ** 2) / det
    return np.exp(-0.5 * r2) / (2 * np.pi * np.sqrt(det))


def test_modes_are_the_changes_by_size_and_shape():
    s, step = 4.0, 0.01  # px^2; of the logarithm of the size
    size, along, across = shape_modes(GaussianPsf(np.sqrt(s), 31).kernel_at(0, 0)[0].astype(np.float64))
    up, down = np.exp(2 * step), np.exp(-2 * step)
    for mode, made in (
        (size, gaussian(s * up, s * up) - gaussian(s * down, s * down)),
        (along, gaussian(s * up, s * down) - gaussian(s * down, s * up)),
        (across, gaussian(s, s, 2 * step * s) - gaussian(s, s, -2 * step * s)),
    ):
        assert np.abs(mode - made / (2 * step)).max() < 2e-3 * np.abs(mode).max()


def field(seed, stars):
    """A frame of bright stars whose PSF varies quadratically by 5 % in size, and that PSF."""
    rng = np.random.default_rng(seed)
    varies = (4.3, 0.08, -0.06, 0.05, 0.1, -0.08), 3.3, 41, (0, 0, SIDE, SIDE), (0.01, 0.02, -0.02), (0.0, -0.02, 0.01)
    psf, light = MoffatPsf(*varies), np.zeros((SIDE, SIDE))
    x, y = (a.ravel() * 100.0 + 50 + rng.uniform(-25, 25, 64) for a in np.mgrid[:8, :8])
    chosen = rng.permutation(64)[:stars]
    add_points(light, psf, x[chosen], y[chosen], rng.uniform(4e4, 4e5, stars))
    return add_noise(rng, light), psf


def test_fifty_stars_tell_a_quadratic_variation():
    exposure, psf = field(1, 50)
    model = fit_psf(exposure, detect_sources(exposure)).psf
    # a plane would leave 2 % of the FWHM in corners and middle
    assert np.abs(size_errors(model, psf, SIDE)).max() < 0.01
    x, y = (a.ravel() for a in np.meshgrid(*[np.linspace(60, SIDE - 60, 5)] * 2))
    true, found = psf.kernel_at(x, y), model.kernel_at(x, y)
    middle = (found.shape[-1] - true.shape[-1]) // 2
    true = true[:, -middle:middle, -middle:middle] if middle < 0 else true
    found = found[:, middle:-middle, middle:-middle] if middle > 0 else found
    assert np.sqrt(((found - true) ** 2).sum() / (true**2).sum()) < 0.012


def test_eight_stars_vary_by_no_more_than_they_tell():
    exposure, psf = field(2, 8)
    model = fit_psf(exposure, detect_sources(exposure)).psf
    assert np.abs(size_errors(model, psf, SIDE)).max() < 0.06  # what it varies by


def test_a_model_knows_by_how_much_its_fluxes_are_off():
    """By the PSF that the stars have, on four fields: both are known to a quarter of themselves."""
    x, y = (a.ravel() for a in np.meshgrid(*[np.linspace(60, SIDE - 60, 5)] * 2))
    said, true = [], []
    for seed in range(11, 15):
        exposure, psf = field(seed, 40)
        fit = fit_psf(exposure, detect_sources(exposure))
        made, light = fit.psf.kernel_at(x, y).astype(float), psf.kernel_at(x, y).astype(float)
        cut = (made.shape[-1] - light.shape[-1]) // 2
        light = np.pad(light, ((0, 0), *[(max(cut, 0),) * 2] * 2))[:, max(-cut, 0) :, max(-cut, 0) :]
        light = light[:, : made.shape[-1], : made.shape[-1]]
        ratio = (made * light).sum((1, 2)) / (made**2).sum((1, 2)) / light.sum((1, 2))
        true.append(np.mean((ratio - 1) ** 2))
        said.append(fit.psf.flux_error**2)
        assert fit.flux_error == fit.psf.flux_error
    assert 0.6 < np.sqrt(np.mean(said) / np.mean(true)) < 1.6, (said, true)
