"""Amplifiers with levels of their own: the steps between them are taken off, and nothing else is taken for one."""

import numpy as np
import pytest

from exposure import Exposure
from exposure.mask import plane_bits
from exposure.sky_steps import subtract_steps

SIDE, SIGMA, AMPLIFIER = 512, 30.0, 64
RNG = np.random.default_rng(3)
NOISE = RNG.normal(0, SIGMA, (SIDE, SIDE))
Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(float)
HEIGHT_ERROR = np.sqrt(5) * 1.25**2 * SIGMA / np.sqrt(16 * SIDE)
"""Of a median of medians of 16 columns (a median is known 1.25 times worse than a mean), with two trends taken off."""


def exposure(image):
    return Exposure(image.astype("f4"), np.full(image.shape, SIGMA**2, "f4"), np.zeros(image.shape, np.int32))


def levels(image, axis):
    parts = np.split(image, SIDE // AMPLIFIER, axis)
    return np.array([np.nanmedian(p) for p in parts])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("height", [30.0, 120.0])
def test_steps_of_amplifiers_are_taken_off(height, axis):
    offsets = 0.5 * height * (-1.0) ** ((X if axis == 1 else Y) // AMPLIFIER)
    e = exposure(NOISE + 0.05 * X + offsets)
    assert subtract_steps(e) >= SIDE // AMPLIFIER - 1
    left = levels(e.image - NOISE - 0.05 * X, axis)
    assert np.abs(np.diff(left)).max() < 4 * HEIGHT_ERROR
    assert abs(left.mean() - offsets.mean()) < 4 * HEIGHT_ERROR  # the level of the whole is kept


def test_amplifiers_of_the_upper_half_have_steps_of_their_own():
    upper = Y >= SIDE // 2
    e = exposure(NOISE + np.where(upper, 60.0 * (X // AMPLIFIER % 2), 0.0))
    e.mask[:, 200:203] |= plane_bits(["BAD"])
    e.image[:, 200:203] = np.nan
    subtract_steps(e)
    rest = np.where(np.isfinite(e.image), e.image - NOISE, np.nan)
    for rows in (slice(0, SIDE // 2), slice(SIDE // 2, SIDE)):
        assert np.nanmax(np.abs(np.diff(levels(rest[rows], 1)))) < 4 * np.sqrt(2) * HEIGHT_ERROR


@pytest.mark.parametrize(
    "light",
    [
        2000 * np.exp(-np.hypot(X - 250, (Y - 240) / 3) / 40),  # a galaxy
        40 * np.sin(2 * np.pi * X / 57),  # fringes along the columns
        np.where(np.abs(X - 300) < 2.5, 200.0, 0.0),  # a trail along a column
        0.5 * X + 0.3 * Y,
    ],
)
def test_a_sky_without_steps_stays_as_it_is(light):
    e = exposure(NOISE + light)
    before = e.image.copy()
    assert subtract_steps(e) == 0
    assert np.array_equal(e.image, before)


@pytest.mark.parametrize("digit", [5.0, 60.0])
def test_whole_digits_are_no_steps(digit):
    """Medians of digitised pixels differ by whole digits, or by none at all."""
    e = exposure(digit * np.round((NOISE + 0.02 * X) / digit + 0.45))
    before = e.image.copy()
    assert subtract_steps(e) == 0
    assert np.array_equal(e.image, before)


def test_a_bright_star_on_a_steep_sky_makes_no_step():
    """A quarter of some rows is covered: their median is that of the other three quarters, on a sky that rises to one side."""
    light = 60 * SIGMA * X / SIDE
    e = exposure(NOISE + light)
    e.mask[200:260, :128] |= plane_bits(["SAT"])
    before = e.image.copy()
    assert subtract_steps(e) == 0
    assert np.array_equal(e.image, before)
