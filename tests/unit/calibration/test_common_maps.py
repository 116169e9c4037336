"""What images of a visit say of each other's maps, against maps that are drawn here."""

import numpy as np
import pytest

from calibration.joint.joint import JointFit
from calibration.joint.model.expected.common_maps import HeaderMaps, TiedStars, expected_maps
from simulation.focal_plane import MosaicSettings, simulate_mosaic
from tests.support.joint_conditions import sky_error_mas
from tests.support.mosaics import config, summaries

SIDE, NOISE, OFFSET, SLOPE = 150.0, 0.01, 0.03, 0.1  # arcsec: half a chip, of a star, chips' offsets, at their edges


def drawn_visit(rng: np.random.Generator, columns: int, rows: int, stars_per_chip: int, fifth: float = 0.0):
    """Chips turned by quarters, whose headers are planes; the sky has a curvature that grows across the field, and a distortion
    of fifth degree of so many arcsec at its edge.
    """
    x, y = (a.ravel() for a in np.meshgrid(np.arange(columns) - columns / 2, np.arange(rows) - rows / 2))
    n = x.size
    middle = 2 * SIDE * np.stack([x, y], 1)
    turn = rng.integers(0, 4, n) * np.pi / 2
    axes = SIDE * np.stack([np.stack([np.cos(turn), np.sin(turn)], 1), np.stack([-np.sin(turn), np.cos(turn)], 1)], 1)
    terms = np.zeros((n, 6, 2))  # 1, u, T2(u), v, uv, T2(v)
    terms[:, 0], terms[:, [1, 3]] = middle, axes
    shift, slope = rng.normal(0, OFFSET, (n, 2)), rng.normal(0, SLOPE, (n, 2, 2))

    def true(image, u, v):
        local = u[:, None] * axes[image, 0] + v[:, None] * axes[image, 1]
        curve = (local / SIDE) ** 2 * (0.3 + 0.1 * middle[image] / SIDE)
        own = shift[image] + u[:, None] * slope[image, 0] + v[:, None] * slope[image, 1]
        whole = middle[image] + local
        return whole + curve + own + fifth * (whole / np.abs(middle).max()) ** 5

    image = np.repeat(np.arange(n), stars_per_chip)[: -3 * stars_per_chip]  # the last three have none
    scaled = rng.uniform(-1, 1, (image.size, 2))
    place = true(image, *scaled.T) + rng.normal(0, NOISE, scaled.shape)
    place[::40] += 3.0  # matched to other stars
    stars = TiedStars(image, scaled, place, np.full(image.size, (NOISE / 2) ** 2))
    return HeaderMaps(2, terms), stars, true


def test_a_curvature_that_all_chips_share_is_expected_of_those_without_stars():
    headers, stars, true = drawn_visit(np.random.default_rng(7), 8, 6, 7)
    found = expected_maps(headers, stars)
    u, v = np.array([-1.0, 1.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.0, -1.0, 1.0, 0.0])
    for i in (45, 46, 47):
        at = true(np.full(5, i), u, v)
        bent = at[:4].sum(0) - 4 * at[4]  # offsets and slopes drop out: 4 (T2(u) + T2(v)) terms
        assert np.abs(bent - 4 * (found.terms[i, 2] + found.terms[i, 5])).max() < 0.06  # 0.3 to 1.2 in the headers
    # errors twice as large as the stars say, and 48 chips of two axes tell a width to 7 %; the curve is 20 mas here and there
    width = np.sqrt(4.0 / found.weight)
    assert 0.7 * OFFSET < np.median(width[:, 0]) < 1.5 * OFFSET
    assert 0.7 * SLOPE < np.median(width[:, [1, 3]]) < 1.4 * SLOPE
    assert np.median(width[:, [2, 4, 5]]) < 0.03


@pytest.mark.parametrize("seed", [8, 15, 16])
def test_widths_do_not_grow_until_wrong_matches_fit(seed):
    headers, stars, _ = drawn_visit(np.random.default_rng(seed), 8, 6, 7)
    width = np.sqrt(4.0 / expected_maps(headers, stars).weight)
    assert np.median(width[:, [2, 4, 5]]) < 0.03  # arcsec; 0.09 to 0.24 where the wrong matches were believed
    assert np.median(width[:, 0]) < 1.5 * OFFSET


def test_a_distortion_of_the_whole_visit_is_no_deviation_of_its_chips():
    headers, stars, _ = drawn_visit(np.random.default_rng(7), 8, 6, 14, fifth=2.0)
    width = np.sqrt(4.0 / expected_maps(headers, stars).weight)
    # smooth functions of third order alone leave 0.27 arcsec of the offsets
    assert np.median(width[:, 0]) < 1.5 * OFFSET
    assert np.median(width[:, [1, 3]]) < 1.4 * SLOPE


def test_a_visit_of_few_chips_says_nothing():
    headers, stars, _ = drawn_visit(np.random.default_rng(7), 5, 2, 7)
    assert expected_maps(headers, stars) is None


def test_chips_of_a_simple_fit_with_five_reference_stars_lean_on_each_other():
    s = simulate_mosaic(MosaicSettings(2, 1, 30, 40.0, reference_mag=20.0))
    result = JointFit(config(doPhotometry=False, astrometryModel="simple"), s.references).run(
        s.sources, summaries(s), s.camera
    )
    table = result.image_quality.set_index(["visit", "detector"])
    assert table.astrometry_referenced.median() <= 5
    assert len(result.outputWcs) >= 28
    for key, wcs in result.outputWcs.items():
        error = sky_error_mas(s, key, wcs)
        assert error < 15.0  # the pointing is 0.3 arcsec off, the chips 30 mas
        assert error < 4e3 * table.astrometry_formal_error[key]
