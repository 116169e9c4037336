"""The sky of a difference and the scale of variance planes, against what was put in."""

import cv2
import numpy as np
import pytest

from diffim.detection.significance import significance
from diffim.subtraction.difference_background import subtract_difference_sky
from diffim.subtraction.variance_scale import scale_variance
from exposure import Exposure, GaussianPsf
from exposure.mask import plane_bits

SIDE, SIGMA = 1024, 30.0
RNG = np.random.default_rng(7)
NOISE = RNG.normal(0, SIGMA, (SIDE, SIDE)).astype(np.float32)


def exposure(image, variance=None):
    plane = np.full(image.shape, SIGMA**2, np.float32) if variance is None else variance
    return Exposure(image.astype(np.float32), plane.astype(np.float32), np.zeros(image.shape, np.int32))


def stars(number, flux, fwhm=5.0):
    light = np.zeros((SIDE, SIDE), np.float32)
    np.add.at(light, tuple(RNG.integers(0, SIDE, (2, number))), flux)
    return cv2.GaussianBlur(light, (0, 0), fwhm / 2.3548)


def test_the_sky_is_known_to_a_small_part_of_a_source_s_error():
    """A level error of s costs a source of 70 px s * sqrt(70) / sigma of its own error: here less than 0.07."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    sky = 40 + 2 * np.sin(3 * x) + 5 * y**2
    e = exposure(NOISE + sky)
    subtract_difference_sky(e, 256, "BAD")
    left = (e.image - NOISE)[64:-64, 64:-64]
    assert left.std() < 0.008 * SIGMA
    assert abs(left.mean()) < 4 * SIGMA / SIDE


def test_variances_made_of_the_noisy_counts_do_not_draw_the_sky_down():
    e = exposure(NOISE, SIGMA**2 + NOISE)
    subtract_difference_sky(e, 256, "BAD")
    assert abs((e.image - NOISE).mean()) < 4 * SIGMA / SIDE


def test_many_new_sources_of_one_sign_hardly_raise_the_sky():
    light = stars(1200, 6000.0)  # one in 30 x 30 px, each 20 sigma: 6.9 a pixel if nothing was left out
    e = exposure(NOISE + light)
    subtract_difference_sky(e, 256, "BAD")
    assert abs((e.image - NOISE - light).mean()) < 0.5


def test_cells_without_data_take_the_level_of_their_neighbours():
    e = exposure(NOISE + 25)
    e.mask[:300, :300] |= plane_bits(["NO_DATA"])
    e.image[:300, :300] = np.nan
    e.mask[300:700, 300:700] |= plane_bits(["BAD"])
    e.image[300:700, 300:700] = 1e6
    subtract_difference_sky(e, 256, "BAD")
    assert np.isnan(e.image[:300, :300]).all()
    assert np.isfinite(e.image[300:]).all()
    left = (e.image - NOISE)[700:, 700:]
    assert abs(left.mean()) < 0.02 * SIGMA


def test_an_image_without_sky_stays_as_it_is():
    e = exposure(NOISE)
    e.mask[:] = plane_bits(["BAD"])
    subtract_difference_sky(e, 256, "BAD")
    np.testing.assert_array_equal(e.image, NOISE)


def test_threads_do_not_change_the_bytes(monkeypatch):
    made = []
    for threads in "1", "2", "3":
        monkeypatch.setenv("ALERTPROD_THREADS", threads)
        e = exposure(NOISE + 3)
        subtract_difference_sky(e, 128, "BAD")
        made.append(e.image.tobytes())
    assert made[0] == made[1] == made[2]


def test_light_of_faint_stars_is_no_noise():
    """Stars of S/N 2 to 6, one in 500 px, raise the variance of the sky by a twentieth; a difference has none of them."""
    light = stars(2100, RNG.uniform(600, 1800, 2100))
    assert np.var(NOISE + light) > 1.05 * np.var(NOISE)
    assert scale_variance(exposure(NOISE + light)) == pytest.approx(1.0, abs=0.02)


def test_a_variance_plane_that_is_wrong_is_made_right_under_faint_stars():
    e = exposure(NOISE + stars(1500, RNG.uniform(600, 1500, 1500)), np.full((SIDE, SIDE), SIGMA**2 / 1.345))
    assert scale_variance(e) == pytest.approx(1.345, abs=0.04)
    assert np.median(e.variance) == pytest.approx(SIGMA**2, rel=0.03)


def test_the_light_of_a_crowd_is_no_noise():
    """One star in 150 px, the bright ones of S/N 400: what all pixels scatter by is three times the noise."""
    flux = 1200.0 * RNG.uniform(size=7000) ** (-1 / 0.7)
    crowd = NOISE + stars(7000, np.minimum(flux, 1e5))
    assert scale_variance(exposure(crowd)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("shift", [0.25, 0.5])
def test_resampled_noise_keeps_the_variance_of_its_pixels(shift):
    """Its neighbours are correlated: differences between them would say too little."""
    moved = cv2.warpAffine(
        NOISE, np.array([[1, 0, shift], [0, 1, shift]]), (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP
    )
    true = float(np.var(moved))
    assert true < 0.9 * SIGMA**2
    assert scale_variance(exposure(moved, np.full((SIDE, SIDE), true))) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("sigma", [0.8, 1.3, 3.0])
def test_the_scatter_of_coarsely_digitised_images_is_known(sigma):
    """Quartiles fall on steps: what they say jumps by a step; the variance includes that of the digitisation."""
    counts = np.round(NOISE * np.float32(sigma / SIGMA) + 100) - 100
    true = sigma**2 + 1 / 12
    assert scale_variance(exposure(counts, np.full((SIDE, SIDE), true))) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("slope", [0.01, 0.02])
def test_a_steep_sky_is_followed(slope):
    """Slopes in sigma per px: several sigma within a cell, and what is new on it stays."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    light = stars(100, 20_000.0)
    e = exposure(NOISE + light + SIGMA * slope * (x - 0.5 * y))
    subtract_difference_sky(e, 256, "BAD")
    left = (e.image - NOISE - light)[128:-128, 128:-128]
    assert abs(left.mean()) < 0.05 * SIGMA
    assert left.std() < 0.05 * SIGMA


def test_bright_stars_are_no_sign_of_digitisation():
    """A plane that knows nothing of the stars: their pixels are counted, and are few."""
    crowd = NOISE + stars(700, 1e6)
    assert 0.9 < scale_variance(exposure(crowd)) < 1.5


X, Y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
PATTERNS = {
    "fringes": 0.4 * np.sin(2 * np.pi * (X / 57 + 3 * Y / SIDE + 0.7 * np.sin(6 * Y / SIDE))),
    "wide fringes": 0.4 * np.sin(2 * np.pi * (X / 150 + Y / 400)),
    "steps": 0.25 * (-1.0) ** (X // 128),
    "uneven steps": 0.2 * (-1.0) ** (X // 90) * (Y < 512),
    "rows": 0.2 * (-1.0) ** (Y // 64),
    "hills": 0.7 * np.exp(-0.5 * (((X - 400) / 50) ** 2 + ((Y - 600) / 60) ** 2)),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_structure_of_the_sky_is_taken_out(name):
    """In units of a pixel's noise. A source of 70 px and 8.4 sigma has an error of 70 s / 8.4 of its own from a level off by s."""
    light = stars(60, 20_000.0)
    e = exposure(NOISE + light + SIGMA * PATTERNS[name])
    found = subtract_difference_sky(e, 256, "BAD", fwhm=5.0)
    left = (e.image - NOISE - light)[32:-32, 32:-32] / SIGMA
    smooth = cv2.blur(left, (9, 9))
    assert smooth.std() < 0.04
    rms = float(np.std(SIGMA * PATTERNS[name]))
    assert np.hypot(np.hypot(found.columns, found.rows), found.smooth) == pytest.approx(rms, rel=0.35)


def test_a_clean_sky_has_no_structure():
    found = subtract_difference_sky(exposure(NOISE + stars(60, 20_000.0)), 256, "BAD", fwhm=5.0)
    assert (found.columns, found.rows, found.smooth) == (0, 0, 0)
    crowd = subtract_difference_sky(exposure(NOISE + stars(1200, 6000.0)), 256, "BAD", fwhm=5.0)
    assert (crowd.columns, crowd.rows) == (0, 0)
    assert crowd.smooth < 0.02 * SIGMA  # of new sources, one in 30 x 30 px, some light is left over


def test_the_threshold_rises_only_where_the_noise_is_more():
    image = NOISE.copy()
    image[:512, :512] *= 1.8
    e = exposure(image)
    e.psf = GaussianPsf(2.1, 25, (512, 512))
    s = significance(e, e.good())
    assert s.largest_scale == pytest.approx(1.8, rel=0.1)
    assert s.image[20:380, 20:380].std() == pytest.approx(1.0, abs=0.08)
    assert s.image[660:, 660:].std() == pytest.approx(1.0, abs=0.03)
