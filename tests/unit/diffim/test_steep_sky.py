"""A sky that is a steep plane is taken off whole; one that is flat is left to the mesh, to the last bit."""

import numpy as np
import pytest

from calibration.noise import subtract_background
from exposure import Exposure
from exposure.background import subtract_plane
from tests.support.pairs import SIDE, render, stars


def exposure(slope, seed=3):
    image, variance = render(*stars(), 3.0, seed)
    plane = slope[0] * (np.arange(SIDE) - (SIDE - 1) / 2) + slope[1] * (np.arange(SIDE) - (SIDE - 1) / 2)[:, None]
    return Exposure(
        image + plane.astype(np.float32), np.full_like(variance, np.nan), np.zeros(image.shape, np.int32)
    ), plane


@pytest.mark.parametrize("slope", [(3.0, 0.0), (0.0, -5.0), (4.0, 4.0)])
def test_stars_on_a_steep_plane_keep_their_light(slope):
    """Nothing of the plane, which rises by up to 50 sigma over the image, is left: levels of corners within 0.2 sigma."""
    flat, steep = exposure((0.0, 0.0))[0], exposure(slope)[0]
    subtract_background(flat, 64)
    subtract_background(steep, 64)
    apart = steep.image - flat.image
    assert np.abs(np.median(apart)) < 0.1 * 15
    corners = [apart[a : a + 40, b : b + 40].mean() for a in (5, SIDE - 45) for b in (5, SIDE - 45)]
    assert np.abs(corners).max() < 0.2 * 15


def test_a_flat_sky_is_left_alone():
    made, _ = exposure((0.0, 0.0))
    before = made.image.copy()
    subtract_plane(made, 64)
    assert np.array_equal(made.image, before)


def test_half_an_image_without_data_does_not_tilt_the_plane():
    made, plane = exposure((3.0, 1.0))
    made.image[:, : SIDE // 2] = np.nan
    made.set_plane("NO_DATA", ~np.isfinite(made.image))
    before = made.image.copy()
    subtract_plane(made, 64)
    rest = (before - made.image - plane)[:, SIDE // 2 :]
    assert np.abs(rest).max() < 15  # one sigma at the worst corner
