"""Which bright stars do not subtract: those whose residual has the shape that a wrong PSF leaves, not those with more noise."""

import numpy as np
import pytest

from diffim.checks.star_misfit import star_misfits
from exposure import GaussianPsf
from exposure.stars import Stars
from tests.support.difference_scene import ORIGIN, scene

SIGMA, SIDE = 2.2, 8  # px; stars a row and a column


def left_of_stars(width: float, noise: float, part: float = 1.0):
    """Return a difference with what stars leave that are so many times as wide as the PSF in a part of the frame, and the stars.

    Their own photons have so many times the noise that the variance plane says.
    """
    exposure, _ = scene(SIGMA, 5.0, 1)
    rng = np.random.default_rng(5)
    column, row = np.divmod(np.arange(SIDE**2), SIDE)
    step = exposure.width / SIDE
    x, y = (ORIGIN[k] + step * (v + 0.5) + rng.uniform(-0.5, 0.5, v.size) for k, v in enumerate((column, row)))
    flux = 10 ** rng.uniform(3.5, 5.0, x.size)
    gy, gx = (ORIGIN[k] + np.arange(n) for k, n in ((1, exposure.height), (0, exposure.width)))

    def light(sigma):
        ex, ey = (np.exp(-0.5 * ((g - c[:, None]) / sigma[:, None]) ** 2) for g, c in ((gx, x), (gy, y)))
        return np.einsum("n,ny,nx->yx", flux / (2 * np.pi * sigma**2), ey, ex)

    right = np.full(x.size, SIGMA)
    stars, wider = light(right), light(np.where(column < part * SIDE, width, 1.0) * SIGMA)
    exposure.image[:] = wider - stars + np.sqrt(25 + noise**2 * stars) * rng.normal(size=stars.shape)
    exposure.variance[:] = 25 + stars
    exposure.psf = GaussianPsf(SIGMA, 41, (int(gx.mean()), int(gy.mean())))
    yes, no = np.ones(x.size, np.bool_), np.zeros(x.size, np.bool_)
    return exposure, Stars(x, y, flux / 60, flux, yes, yes, no)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0, 3.0])
def test_stars_with_another_noise_than_is_said_subtract(noise):
    assert star_misfits(*left_of_stars(1.0, noise)).share <= 0.02


@pytest.mark.parametrize("noise", [1.0, 2.0])
@pytest.mark.parametrize("width", [0.85, 1.2])
def test_stars_of_another_width_do_not(noise, width):
    assert star_misfits(*left_of_stars(width, noise)).share > 0.5


def test_the_part_of_the_frame_where_they_do_not_is_found():
    found = star_misfits(*left_of_stars(1.2, 1.0, part=0.25))
    assert 0.15 < found.share <= 0.25
    assert found.local_share > 0.75
    assert found.x - ORIGIN[0] < 70
