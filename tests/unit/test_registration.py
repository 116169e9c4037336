"""diffim/registration: matching of star lists, displacement fits, resampling, the fitted WCS."""

import numpy as np
import pandas as pd
import pytest

from diffim import ImageDifferenceTask
from diffim.errors import DifferencingError
from diffim.registration import fit_displacement, match_lists
from exposure import SkyWcs
from tasks import make_task
from tests.unit.test_diffim import ORIGIN, scene, subtract

BOX = (*ORIGIN, 1000, 800)


def field(n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(BOX[0], BOX[0] + 1000, n), rng.uniform(BOX[1], BOX[1] + 800, n), rng


@pytest.mark.parametrize(("n", "order"), [(5, 0), (30, 1), (200, 2)])
def test_displacement_is_recovered_with_the_order_that_the_stars_pay_for(n, order):
    x, y, rng = field(n)
    u, v = (x - BOX[0]) / 500 - 1, (y - BOX[1]) / 400 - 1
    dx = 0.3 + (0.2 * u if order else 0) + (0.15 * u * v if order > 1 else 0)
    dy = -0.2 - (0.1 * v if order else 0) + (0.1 * v**2 if order > 1 else 0)
    error = np.full(n, 0.02)
    noisy = [d + rng.normal(0, 0.02, n) for d in (dx, dy)]
    noisy[0][::15] += 3.0  # a wrong match now and then
    found = fit_displacement(x, y, *noisy, error, BOX)
    assert found.order == order
    px, py = found.at(x, y)
    assert np.abs(px - x - dx).max() < 0.05
    assert np.abs(py - y - dy).max() < 0.05
    assert found.scatter == pytest.approx(0.02, rel=0.6)


def test_too_few_stars_are_refused():
    with pytest.raises(DifferencingError, match="need 3"):
        fit_displacement(*(np.zeros(2) for _ in range(5)), BOX)


def test_lists_are_matched_over_shift_and_rotation_and_refused_when_unrelated():
    x, y, rng = field(150)
    angle = np.radians(0.4)
    cx, cy = x - BOX[0] - 500, y - BOX[1] - 400
    ox = np.cos(angle) * cx - np.sin(angle) * cy + BOX[0] + 500 + 37.0 + rng.normal(0, 0.1, 150)
    oy = np.sin(angle) * cx + np.cos(angle) * cy + BOX[1] + 400 - 21.0 + rng.normal(0, 0.1, 150)
    order = rng.permutation(150)[:110]  # not all are seen in both
    first, second = match_lists(x, y, ox[order], oy[order])
    assert len(first) >= 105
    assert np.array_equal(order[second], first)
    with pytest.raises(DifferencingError, match="give the images a WCS"):
        match_lists(x, y, *field(150, 9)[:2], radius=2.0)


def test_fitted_wcs_puts_the_templates_stars_right():
    """Seed interface: a relative WCS of the template from matched positions."""
    wcs = SkyWcs.tan((ORIGIN[0] + 500.0, ORIGIN[1] + 400.0), (150.0, 2.2), 0.2 / 3600 * np.array([[-1.0, 0], [0, 1.0]]))
    template, _ = scene(2.0, 1.0, 1)
    template.wcs = wcs
    x, y, rng = field(200)
    x, y = ORIGIN[0] + (x - ORIGIN[0]) / 4, ORIGIN[1] + (y - ORIGIN[1]) / 4
    ra, dec = wcs.pixel_to_sky(x, y)
    u = (x - ORIGIN[0]) / 128 - 1
    seen = pd.DataFrame({"x": x + 0.8 + 0.3 * u**2 + rng.normal(0, 0.01, 200), "y": y - 0.5 + rng.normal(0, 0.01, 200)})
    result = make_task(ImageDifferenceTask).fitAstrometry(seen, template, pd.DataFrame({"ra": ra, "dec": dec}))
    assert len(result.matches) >= 195
    assert (result.matches.templateIndex == result.matches.selectIndex).mean() > 0.99
    px, py = result.wcs.sky_to_pixel(ra, dec)
    assert np.hypot(px - seen.x, py - seen.y).max() < 0.05


def test_a_displaced_template_is_resampled_and_leaves_no_dipoles():
    science, s = scene(2.4, 1.0, 1, n=40)
    template, _ = scene(2.0, 1.0, 2, pad=30, n=40)
    moved = scene(2.0, 1.0, 2, pad=30, n=40, shift=(0.9, -0.6))[0]
    _, there = subtract(science, template, s, mode="convolveTemplate")
    task, mended = subtract(science, moved, s, mode="convolveTemplate")
    stars = np.zeros(science.image.shape, bool)
    for x, y in zip(s.x - ORIGIN[0], s.y - ORIGIN[1], strict=True):
        stars[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = True

    def misfit(result):
        d = result.subtractedExposure
        return float((d.image / np.sqrt(d.variance))[stars].std())

    assert misfit(mended) < 1.1 * misfit(there)
    assert task.metadata["registrationShift"] == pytest.approx(np.hypot(0.9, 0.6), abs=0.03)
