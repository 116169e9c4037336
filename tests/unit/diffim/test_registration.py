"""diffim/registration: matching of star lists, displacement fits, resampling, the fitted WCS."""

import numpy as np
import pandas as pd
import pytest

from diffim import ImageDifferenceTask
from diffim.errors import DifferencingError
from diffim.matching.registration import StarShifts, fit_displacement, match_lists, register_stars
from exposure import SkyWcs
from tasks import make_task
from tests.support.difference_scene import ORIGIN, scene, subtract

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


def test_stars_that_move_are_told_and_do_not_pull_the_rest():
    rng = np.random.default_rng(3)
    n = 12
    x, y = rng.uniform(0, 1000, (2, n))
    error = np.full(n, 0.01)
    dx, dy = 0.3 + rng.normal(0, 0.01, n), -0.1 + rng.normal(0, 0.01, n)
    dx[0] += 0.4  # the brightest: its centroid is known best, and it has a proper motion
    dy[5] -= 1.2
    error[0] = 0.001
    found, moved = register_stars(StarShifts(x, y, dx, dy, error, np.arange(n)), (0, 0, 1000, 1000))
    assert np.flatnonzero(moved.any(1)).tolist() == [0, 5]
    assert moved[0] == pytest.approx([0.4, 0.0], abs=0.04)
    assert moved[5] == pytest.approx([0.0, -1.2], abs=0.04)
    u, v = found.at(500.0, 500.0)
    assert u - 500 == pytest.approx(0.3, abs=0.01)
    assert v - 500 == pytest.approx(-0.1, abs=0.01)
    # where most disagree nobody moved: the displacement has another form
    wild = StarShifts(x, y, rng.normal(0, 1, n), rng.normal(0, 1, n), error, np.arange(n))
    assert not register_stars(wild, (0, 0, 1000, 1000))[1].any()


def test_a_moving_star_is_a_dipole_and_the_others_subtract():
    science, s = scene(2.4, 3.0, 1, size=400, n=12, flux=(2000, 9000))
    template, _ = scene(2.0, 3.0, 2, pad=40, size=400, n=12, flux=(2000, 9000))
    g = np.arange(-40, 440)

    def star(x, y, sigma, light, grid):
        return light * np.exp(-0.5 * ((grid[:, None] - y) ** 2 + (grid - x) ** 2) / sigma**2) / (2 * np.pi * sigma**2)

    science.image += star(200.0, 210.0, 2.4, 500_000, g[40:-40]).astype("f4")
    template.image += star(200.5, 210.0, 2.0, 500_000, g).astype("f4")
    for e, b, sigma in ((science, 0, 2.4), (template, 40, 2.0)):
        grid = g[40 - b : 480 - (40 - b)]
        e.variance += star(200.0, 210.0, sigma, 500_000, grid).astype("f4")
    new = s.iloc[:1].assign(x=12345 + 200.0, y=67890 + 210.0, psfFlux=500_000.0, snr=700.0)
    task, r = subtract(science, template, pd.concat([new, s], ignore_index=True))
    assert task.metadata["nMovedStars"] == 1
    d = r.subtractedExposure
    z = d.image / np.sqrt(d.variance)
    apart = np.hypot(s.x - 12345 - 200, s.y - 67890 - 210) > 40
    left = [
        z[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].std()
        for x, y in zip(s.x[apart] - 12345, s.y[apart] - 67890, strict=True)
    ]
    assert np.median(left) < 1.2
    near = r.diaSources[np.hypot(r.diaSources.x - 12345 - 200, r.diaSources.y - 67890 - 210) < 5]
    assert near.isDipole.any()
