"""Overscan, bias strips and dead lines are no sky; gradients, amplifiers and stars are."""

import numpy as np
import pytest

from exposure.flagging.odd_lines import odd_lines

N = 240


def sky(seed=1, level=400.0, noise=16.0):
    image = np.random.default_rng(seed).normal(level, noise, (N, N))
    y, x = np.mgrid[:N, :N]
    for cx, cy, flux in ((60, 60, 9e4), (8, 120, 5e4), (200, 30, 3e5), (239, 200, 8e4)):  # some at the edges
        image += flux * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 8) / (8 * np.pi)
    return image.astype(np.float32)


@pytest.mark.parametrize("level", [0.0, 100.0, 1000.0, 60000.0])
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_strips_along_edges_are_found_to_the_column(level, noise):
    image = sky()
    rng = np.random.default_rng(2)
    image[:, :20] = level + rng.normal(0, 1, (N, 20)) * noise
    image[:, -24:] = level + rng.normal(0, 1, (N, 24)) * noise
    image[:7] = level + rng.normal(0, 1, (7, N)) * noise
    truth = np.zeros(image.shape, bool)
    truth[:, :20] = truth[:, -24:] = truth[:7] = True
    assert np.array_equal(odd_lines(np.rint(image)), truth)


def test_a_hot_column_beside_a_strip_hides_it_not():
    image = sky()
    image[:, :12] = 1000 + np.random.default_rng(3).normal(0, 3, (N, 12))
    image[:, 30] += 500
    found = odd_lines(image)
    assert found[:, :12].all()
    assert not found[:, 12:].any()


@pytest.mark.parametrize("value", [0.0, 400.0, 5.0])
def test_dead_lines_are_found(value):
    image = sky()
    image[:, 133] = value
    image[77] = value
    found = odd_lines(image)
    truth = np.zeros(image.shape, bool)
    truth[:, 133] = truth[77] = True
    assert np.array_equal(found, truth)


def vignetted():
    x = np.linspace(-1, 1, N)
    return sky() * (1 - 0.6 * (x**2 + x[:, None] ** 2) / 2)


@pytest.mark.parametrize(
    "image",
    [
        sky(),
        sky() + np.linspace(0, 3000, N),  # a gradient of 12 counts a pixel
        vignetted(),
        np.rint(sky(noise=0.4)),  # coarse digits: most neighbours are equal
        sky() + np.where(np.arange(N) < 40, 60.0, 0.0),  # amplifiers that differ have the noise of the sky
        np.where(sky() > 400, sky(), np.nan),
        np.full((N, N), 7.0),
        np.full((N, N), np.nan),
        sky()[:5, :5],
    ],
    ids=["sky", "gradient", "vignetted", "coarse", "amplifiers", "half empty", "constant", "empty", "tiny"],
)
def test_what_is_sky_is_left(image):
    assert odd_lines(image.astype(np.float32)) is None
