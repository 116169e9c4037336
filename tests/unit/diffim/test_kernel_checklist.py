"""The parts of the kernel fit on stars without noise, whose kernel is known."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.mask import plane_bits
from tests.support.kernel_stars import SIZE, fitted, stars


@pytest.fixture(params=[(0, 0), (12345, 67890)], ids=["near", "far"])
def origin(request):
    return request.param


@pytest.mark.parametrize(("scale", "background"), [(1.0, 0.0), (2.7, 0.0), (1.0, 11.3), (2.7, 11.3)])
def test_the_same_stars_need_a_kernel_that_changes_nothing(origin, scale, background):
    fluxes = np.linspace(1000, 3000, 9)
    target = stars(origin, 2.0, scale * fluxes, background)
    fit = fitted(origin, stars(origin, 2.0, fluxes), target)
    assert fit.kernel.kernel_sum == pytest.approx(scale, rel=3e-4)  # single precision
    assert fit.kernel.background[0] == pytest.approx(background, abs=1e-3)
    assert fit.residual_rms < 0.1  # nothing is left of a star: 1e-3 of its brightest pixel is 0.1 sigma


def test_stars_of_two_widths_need_the_gaussian_between_them(origin):
    fluxes = np.linspace(1000, 3000, 9)
    fit = fitted(origin, stars(origin, 2.0, fluxes), stars(origin, 3.0, fluxes), (2.0, 3.0))
    k = fit.kernel.kernels_at(origin[0] + 200, origin[1] + 200)[0].astype(float)
    g = np.arange(k.shape[0]) - k.shape[0] // 2
    gauss = np.exp(-0.5 * (g[:, None] ** 2 + g**2) / 5.0) / (10 * np.pi)
    assert k.sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(k - gauss).max() < 0.01 * gauss.max()


@pytest.mark.parametrize(
    ("sums", "rejected"), [([1, 1, 1, 1, 2, 3, 4, 50], [7]), ([1, 1, 1, 1, 100, 1, 1, 1, 1], [4]), ([1, 2, 50], [])]
)
def test_only_a_kernel_sum_far_from_the_others_is_rejected(origin, sums, rejected):
    """The last: three stars cannot tell which of them varies."""
    flux = np.full(len(sums), 1000.0)
    fit = fitted(origin, stars(origin, 2.0, flux), stars(origin, 2.0, flux * np.array(sums)), iterations=0)
    assert np.flatnonzero(~fit.used).tolist() == rejected
    assert fit.n_rejected == len(rejected)


@pytest.mark.parametrize(("order", "terms"), [(0, 1), (1, 3)])
def test_solutions_have_the_size_of_their_order_and_one_kernel_sum(origin, order, terms):
    fluxes = np.linspace(1000, 3000, 16)
    fit = fitted(
        origin,
        stars(origin, 2.0, fluxes),
        stars(origin, 2.5, fluxes),
        (2.0, 2.5),
        kernel_order=order,
        background_order=order,
    )
    kernel = fit.kernel
    assert kernel.coefficients.shape == (27, terms)
    assert kernel.background.shape == (terms,)
    assert np.all(kernel.coefficients[0, 1:] == 0)
    corners = kernel.kernels_at(origin[0] + np.array([0, SIZE - 1]), origin[1] + np.array([0, SIZE - 1]))
    assert corners.sum((1, 2)) == pytest.approx(kernel.kernel_sum, rel=1e-5)


@pytest.mark.parametrize("harm", ["variance", "value", "mask"])
def test_pixels_that_do_not_count_have_no_say(origin, harm):
    fluxes = np.linspace(1000, 3000, 9)
    convolved, target = stars(origin, 2.0, fluxes), stars(origin, 2.4, fluxes)
    clean = fitted(origin, convolved, target, (2.0, 2.4))
    planes, spot = target[0], np.s_[58:60, 61:63]  # beside the first star
    planes.image[spot] = np.nan if harm == "value" else 1e6
    if harm == "variance":
        planes.variance[spot] = 0
    if harm == "mask":
        planes.mask[spot] |= plane_bits(["NO_DATA"])
    fit = fitted(origin, convolved, target, (2.0, 2.4))
    assert fit.used.all()
    at = (origin[0] + 200, origin[1] + 200)
    change = fit.kernel.kernels_at(*at)[0].astype(float) - clean.kernel.kernels_at(*at)[0]
    star = convolved[0].image[40:81, 40:81].astype(float)
    # single pixels of two kernels may differ where no star tells them apart: what counts is what they make of a star
    assert np.abs(fftconvolve(star, change, "same")).max() < 1e-4 * star.max()


def test_stamps_of_nothing_ones_and_holes(origin):
    image = np.ones((30, 30), "f4")
    image[10, 10], image[:, 20:] = np.nan, 0
    e = Exposure(image, np.full(image.shape, 4.0, "f4"), np.zeros(image.shape, np.int32), origin)
    x, y = (np.array(v) + o for v, o in zip(([10, 24, 0], [10, 10, 0]), origin, strict=True))
    values, variances = MaskedImage.of(e).stamps(x, y, 5)
    counts = np.isfinite(variances).sum((1, 2))
    assert counts.tolist() == [24, 25, 9]  # a hole; all; the corner of the image
    assert values.sum((1, 2)).tolist() == [24, 0, 9]
    assert np.all(variances[np.isfinite(variances)] == 4)
