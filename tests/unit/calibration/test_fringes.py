"""Fringes are taken off the sky before sources are looked for; nebulae, which the template has too, are left."""

import cv2
import numpy as np
import pytest

from calibration.fringes import subtract_fringes
from exposure import Exposure

SIDE, SIGMA, MESH = 512, 30.0, 64
RNG = np.random.default_rng(11)
NOISE = RNG.normal(0, SIGMA, (SIDE, SIDE))
Y, X = np.mgrid[0:SIDE, 0:SIDE] / SIDE
STARS = np.zeros((SIDE, SIDE))
STARS[tuple(RNG.integers(10, SIDE - 10, (2, 120)))] = 10 ** RNG.uniform(3, 5, 120)
STARS = cv2.GaussianBlur(STARS, (0, 0), 2.0)


def exposure(light):
    image = (NOISE + light).astype("f4")
    return Exposure(image, (SIGMA**2 + np.maximum(light, 0)).astype("f4"), np.zeros(image.shape, np.int32))


@pytest.mark.parametrize("period", [40, 60])
def test_fringes_are_taken_off(period):
    waves = 0.7 * SIGMA * np.sin(2 * np.pi * (X * SIDE / period + 3 * Y + 0.7 * np.sin(6 * Y)))
    e = exposure(STARS + waves)
    rms = subtract_fringes(e, MESH)
    assert rms == pytest.approx(waves.std(), rel=0.15)
    left = (e.image - NOISE - STARS)[16:-16, 16:-16]
    assert left.std() < 0.3 * waves.std()


@pytest.mark.parametrize("level", [0.0, 1.0, -3.0])
def test_fringes_are_taken_off_at_the_rims_too(level):
    """They meet the rims at all phases: mirrored there they would break. A level (sigma) of the sky is left as it is."""
    waves = 0.7 * SIGMA * np.sin(2 * np.pi * (X * SIDE / 57 + 3 * Y + 0.7 * np.sin(6 * Y)))
    e = exposure(STARS + waves + level * SIGMA)
    subtract_fringes(e, MESH)
    left = cv2.blur(e.image - NOISE - STARS, (9, 9))
    assert left.mean() == pytest.approx(level * SIGMA, abs=0.05 * SIGMA)
    for rim in (left[:, :16], left[:, -16:]):
        assert rim.std() < 0.3 * waves.std()


@pytest.mark.parametrize(
    "light",
    [
        np.zeros((SIDE, SIDE)),
        0.2 * SIGMA * np.sin(2 * np.pi * X * SIDE / 60),  # too weak to make sources
        20 * SIGMA * np.exp(-np.hypot(X - 0.6, (Y - 0.5) / 0.7) * SIDE / 60),  # a galaxy
        3 * SIGMA * np.exp(cv2.GaussianBlur(RNG.normal(0, 60, (SIDE, SIDE)), (0, 0), 24)),  # a nebula
    ],
)
def test_what_is_no_fringe_stays_as_it_is(light):
    e = exposure(STARS + light)
    before = e.image.copy()
    assert subtract_fringes(e, MESH) == 0
    assert np.array_equal(e.image, before)
