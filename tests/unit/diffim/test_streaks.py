"""diffim/streaks and diffim/glints."""

import numpy as np
import pandas as pd
import pytest

from diffim.detection.glints import find_glint_trails
from diffim.detection.streaks import find_streaks


def noise_image(size=256, sigma=2.0, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.normal(0, sigma, (size, size)).astype("f4")
    return image, np.full((size, size), sigma**2, "f4"), np.ones((size, size), bool)


def test_a_bright_horizontal_streak_is_fully_masked():
    """The published fixture: rows 20-22, x from 40 to 200, 50 counts."""
    image, variance, good = noise_image()
    image[20:23, 40:200] += 50
    found = find_streaks(image, variance, good, 4.0)
    assert found[20:23, 40:200].all()
    assert found.sum() < 6 * 3 * 160


@pytest.mark.parametrize(
    ("angle", "half_width", "level"), [(0.3, 2, 4.0), (1.2, 8, 1.0), (2.5, 20, 0.5), (1.57, 3, 3.0)]
)
def test_faint_and_wide_streaks_at_any_angle(angle, half_width, level):
    image, variance, good = noise_image(1024, 2.0, 3)
    yy, xx = np.mgrid[0:1024, 0:1024]
    across = (xx - 500) * np.sin(angle) - (yy - 480) * np.cos(angle)
    streak = np.abs(across) <= half_width
    image[streak] += level
    found = find_streaks(image, variance, good, 4.0)
    assert found[streak].mean() > 0.95
    assert (found & (np.abs(across) > half_width + 25)).mean() < 0.01


def test_a_streak_that_ends_in_the_image_is_masked_as_far_as_it_goes():
    image, variance, good = noise_image(1024, 2.0, 4)
    image[400:404, 300:800] += 6
    found = find_streaks(image, variance, good, 4.0)
    assert found[400:404, 300:800].mean() > 0.97
    assert found[390:414, :250].mean() < 0.1
    assert found[390:414, 850:].mean() < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_stars_are_no_streaks(seed):
    image, variance, good = noise_image(1024, 2.0, 10 + seed)
    rng = np.random.default_rng(seed)
    g = np.arange(-15, 16)
    star = np.exp(-0.5 * (g[:, None] ** 2 + g[None, :] ** 2) / 2.0**2)
    for x, y, f in zip(*rng.integers(20, 1000, (2, 300)), 10 ** rng.uniform(0.5, 3.5, 300), strict=True):
        image[y - 15 : y + 16, x - 15 : x + 16] += (f * star * rng.choice([-1, 1])).astype("f4")
    assert not find_streaks(image, variance, good, 4.7).any()


@pytest.mark.parametrize("width", [64, 128, 512])
def test_steps_along_columns_are_no_streaks(width):
    """Amplifiers that are offset by a fifth of the noise of a pixel."""
    image, variance, good = noise_image(1024, 30.0, 3)
    image += (6.0 * (-1.0) ** (np.arange(1024) // width)).astype("f4")
    assert not find_streaks(image, variance, good, 5.0).any()
    assert not find_streaks(np.ascontiguousarray(image.T), variance, good, 5.0).any()


def test_a_streak_along_columns_is_one():
    image, variance, good = noise_image(1024, 30.0, 3)
    x = np.arange(1024)
    image += (60 * np.exp(-0.5 * ((x - 400.3) / 2.2) ** 2)).astype("f4")
    found = find_streaks(image, variance, good, 5.0)
    assert found[:, 398:403].mean() > 0.95
    assert found.mean() < 0.03


def table(x, y):
    return pd.DataFrame({"x": x, "y": y, "isDipole": False, "isNegative": False})


def test_a_row_of_flashes_is_a_glint_trail():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 4000, (2, 60))
    along = np.linspace(-300, 300, 8)
    tx, ty = 2000 + along * np.cos(0.4) + rng.normal(0, 0.5, 8), 1500 + along * np.sin(0.4) + rng.normal(0, 0.5, 8)
    flags, trails = find_glint_trails(table(np.concatenate([x, tx]), np.concatenate([y, ty])))
    assert flags[60:].all()
    assert flags[:60].sum() <= 1
    assert len(trails) == 1
    assert trails.angle[0] % np.pi == pytest.approx(0.4, abs=0.02)
    assert trails.length[0] == pytest.approx(600, abs=5)
    assert trails.slopeErr[0] < 0.02


@pytest.mark.parametrize("n", [5, 60, 1000])
def test_chance_makes_no_trail(n):
    rng = np.random.default_rng(n)
    flags, trails = find_glint_trails(table(*rng.uniform(0, 4000, (2, n))))
    assert flags.mean() < 0.02
    assert len(trails) <= 1


def test_dipoles_and_negatives_take_no_part():
    along = np.linspace(0, 400, 9)
    t = table(1000 + along, 1000 + 0.5 * along)
    t.loc[:4, "isDipole"] = True
    assert not find_glint_trails(t)[0].any()
