"""Pictures: colours of masked pixels, scales, order of the sources, blocks of large images."""

import numpy as np
import pandas as pd
import pytest

from diffim.pictures.blocks import block_mean, block_significance, block_size, in_blocks
from diffim.pictures.difference_pages import Subject, _mosaic, _page, draw_subtraction
from diffim.pictures.masks import KINDS, binned_kinds, kinds_of, legend_handles, painted
from diffim.pictures.noise import LAGS, correlations, radial_power
from diffim.pictures.stamps import _in_order, _Stamps, stretched
from exposure import Exposure, GaussianPsf, GridPsf
from exposure.mask import PLANES, plane_bits

NUMBER = {kind.name: k for k, kind in enumerate(KINDS)}


def test_each_kind_of_masked_pixel_has_its_colour_and_the_first_counts():
    mask = np.array(
        [
            [
                0,
                plane_bits(["SAT"]),
                plane_bits(["CR", "BAD"]),
                plane_bits(["NO_DATA", "SAT", "CR"]),
                plane_bits(["DETECTED"]),
            ]
        ],
        np.int32,
    )
    kinds = kinds_of(mask)
    assert kinds.tolist() == [[-1, NUMBER["saturated"], NUMBER["bad"], NUMBER["no data"], -1]]
    colours = painted(kinds)
    assert colours[0, 0, 3] == 0  # a good pixel is not covered
    assert np.allclose(colours[0, 1], KINDS[NUMBER["saturated"]].colour)
    assert [h.get_label() for h in legend_handles(kinds)] == ["no data", "saturated", "bad"]
    assert {p for kind in KINDS for p in kind.planes} <= set(PLANES)


def test_blocks_show_what_a_quarter_of_their_pixels_is():
    mask = np.zeros((8, 9), np.int32)
    mask[:2, :2] = plane_bits(["BAD"])  # a quarter of the first block
    mask[5, 5] = plane_bits(["CR"])  # a sixteenth of the last
    assert binned_kinds(mask, 4).tolist() == [[NUMBER["bad"], -1], [-1, -1]]
    assert np.array_equal(binned_kinds(mask, 1), kinds_of(mask))


def test_blocks_of_noise_keep_its_width():
    z = np.random.default_rng(3).normal(size=(400, 400)).astype(np.float32)
    z[:8, :8] = np.nan
    z[8, 8] = np.nan
    small = block_significance(z, 4)
    assert small.shape == (100, 100)
    assert np.isnan(small[:2, :2]).all()
    assert np.isfinite(small[2:]).all()
    assert np.nanstd(small) == pytest.approx(1, abs=5 / np.sqrt(2 * small.size))  # five times the error of a width


def test_blocks_hold_the_mean_of_what_is_known():
    image = np.arange(36, dtype=np.float32).reshape(6, 6)
    image[:3, 3:] = np.nan
    image[0, 3] = 5.0
    assert block_mean(image, 3).tolist() == [[7.0, 5.0], [25.0, 28.0]]
    assert in_blocks(np.zeros((7, 11)), 3).shape == (2, 3, 3, 3)


def test_the_noise_of_masked_images_is_measured_on_the_pixels_that_count():
    rng = np.random.default_rng(5)
    white = rng.normal(size=(600, 560)).astype(np.float32)
    noise = (white[:, 1:] + white[:, :-1]) / np.sqrt(np.float32(2))  # correlation 1/2 at 1 px along x, else 0
    ok = rng.random(noise.shape) > 0.3  # of the pairs half are known
    ok[:, :200] = False
    error = 1 / np.sqrt(ok.sum() * 0.7)
    expected = np.zeros((2, LAGS))
    expected[0, 0] = 0.5
    assert np.abs(correlations(noise, ok) - expected).max() < 5 * error
    white[:80] = white[:, :200] = np.nan
    frequency, power = radial_power(white, np.isfinite(white))
    outer = frequency > 0.05
    modes = np.pi * frequency[outer] * 256  # in a ring, half of all: the others are their conjugates
    assert np.average(power[outer], weights=modes) == pytest.approx(1, abs=5 / np.sqrt(modes.sum()))


def test_images_that_are_masked_throughout_have_no_noise_to_show():
    z = np.full((60, 70), np.nan, np.float32)
    assert not correlations(z, np.isfinite(z)).any()
    assert not radial_power(z, np.isfinite(z))[1].any()


def test_the_page_has_the_shape_of_the_image():
    assert _page(600, 600) == pytest.approx((11.0, 10.7))
    wide, high = _page(300, 1200)
    assert wide == pytest.approx(11.0)
    assert high < 4
    assert _page(1200, 100)[0] >= 6  # the legend has room


@pytest.mark.parametrize(("sigma", "step"), [(1.4, 1), (4.2, 3), (6.5, 5)])
def test_sources_of_wide_psfs_are_shown_in_blocks_and_stand_out(sigma, step):
    n, x, y = 300, 141.4, 162.7
    rng = np.random.default_rng(8)
    psf = GaussianPsf(sigma, 61, (n / 2, n / 2))
    yy, xx = np.mgrid[:n, :n]
    shape = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    flux = 12 / np.sqrt((shape**2).sum())  # of 12 sigma
    image = (rng.normal(size=(n, n)) + flux * shape).astype(np.float32)
    mask = np.zeros((n, n), np.int32)
    mask[:, 180:] = plane_bits(["BAD"])
    difference = Exposure(image, np.ones((n, n), np.float32), mask, psf=psf)
    assert block_size(difference) == step
    stamps = _Stamps(Subject(difference), np.array([x]), np.array([y]))
    row, column = np.unravel_index(np.argmax(stamps.z[0]), (31, 31))
    at = stamps.place(0, x, y)
    assert abs(column - at[0]) <= 1.5
    assert abs(row - at[1]) <= 1.5
    # the peak of what is smoothed over that many pixels, less five times its noise
    assert stamps.z[0].max() > 12 * step / np.sqrt(4 * np.pi * sigma**2) * 0.6
    assert stamps.z[0].max() > 2.5
    first = int(np.ceil(stamps.place(0, 180 + step / 2, y)[0]))  # of the narrow ones off the stamp
    assert (stamps.kinds[2][0][:, first:] == NUMBER["bad"]).all()
    assert (stamps.kinds[2][0][:, : first - 2] == -1).all()


def test_the_scale_is_black_at_minus_three_sigma_and_white_at_the_top():
    stamps = np.array([[[-30.0, -6.0, 0.0], [20.0, 200.0, 900.0], [np.nan, 1.0, 2.0]]], np.float32)
    shown = stretched(stamps, np.array([2.0]), np.array([100.0]))[0]
    assert shown[0, :2].tolist() == [0, 0]
    assert 0.2 < shown[0, 2] < 0.35  # the sky is dark grey, not black: its noise is seen
    assert shown[1].tolist() == sorted(shown[1].tolist())
    assert shown[1, 1:].tolist() == [1, 1]
    assert np.isnan(shown[2, 0])


def test_the_most_reliable_sources_come_first_and_equal_ones_by_significance():
    table = pd.DataFrame(
        {"id": [1, 2, 3, 4], "reliability": [0.2, 0.998, 0.999, 0.7], "significance": [90.0, 8.0, 6.0, 50.0]}
    )
    assert _in_order(table)["id"].tolist() == [2, 3, 4, 1]
    assert _in_order(table.drop(columns="reliability"))["id"].tolist() == [1, 4, 2, 3]


def test_the_first_stamp_of_a_mosaic_is_at_the_lower_left_and_rows_go_up():
    from matplotlib.figure import Figure

    stamps = np.arange(6.0)[:, None, None] * np.ones((3, 3))
    shown = _mosaic(Figure().subplots(), stamps, 3, "gray", None)
    assert shown.get_array()[::3, ::3].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert shown.origin == "lower"


@pytest.fixture(scope="module")
def empty():
    n = 1100
    rng = np.random.default_rng(1)
    psf = GaussianPsf(1.4, 21, (n / 2, n / 2))
    cube = psf.kernel_at(np.zeros(1), np.zeros(1))
    e = Exposure(
        rng.normal(size=(n, n)).astype(np.float32),
        np.ones((n, n), np.float32),
        np.zeros((n, n), np.int32),
        psf=GridPsf(cube, 1, 1, (0, 0, n, n)),
    )
    e.mask[400:600, 300:700] = plane_bits(["STREAK"])
    return Subject(e)


def test_a_large_image_without_sources_is_drawn_in_blocks(empty, tmp_path):
    from matplotlib.image import imread

    assert {p.name for p in draw_subtraction(empty, tmp_path)} == {"difference.png", "noise.png", "psf.png"}
    pixels = imread(tmp_path / "difference.png")[..., :3]
    teal = (pixels[..., 2] - pixels[..., 0] > 0.2).mean()  # seen through: noise below the colour of streaks
    # 200 x 400 of 1100 x 1100 px, on two thirds of the page
    assert 0.03 < teal < 0.08
