"""What the kernel fit says of itself: forced directions, condition number, widths and peaks that are equal to rounding."""

import logging

import numpy as np
import pytest

from diffim.detection.peaks import detect
from diffim.detection.significance import Significance
from diffim.errors import InsufficientKernelSources
from diffim.matching.kernel_basis import make_basis
from diffim.matching.kernel_fit import fit_kernel
from diffim.matching.kernel_solution import MAX_CONDITION
from diffim.matching.kernel_stamps import StarPositions
from diffim.options import plain_options
from diffim.pipeline import Differencing
from diffim.pixels.masked_image import MaskedImage
from exposure import Exposure
from exposure.stars import Stars
from tests.support.difference_scene import FWHM, scene, subtract
from tests.support.kernel_stars import SIZE, fitted, stars


@pytest.mark.parametrize(
    ("science_sigma", "template_sigma", "mode", "deconvolves"),
    [
        (2.0, 2.4, "convolveTemplate", True), (2.4, 2.0, "convolveScience", True), (2.4, 2.0, "convolveTemplate", False),
        (2.0, 2.4, "convolveScience", False), (2.0, 2.4, "auto", False), (2.0, 2.0, "convolveTemplate", False),
    ],
)  # fmt: skip
def test_a_forced_deconvolution_is_warned_of(science_sigma, template_sigma, mode, deconvolves, caplog):
    science, s = scene(science_sigma, 5.0, 1)
    template, _ = scene(template_sigma, 5.0, 2, pad=40)
    with caplog.at_level(logging.WARNING):
        task, _ = subtract(science, template, s, mode=mode, doDetection=False)
    m = task.metadata
    assert m["kernelDeconvolves"] is deconvolves
    assert ("deconvolution" in m["kernelWarning"]) is deconvolves
    assert any("deconvolution" in r.getMessage() for r in caplog.records) is deconvolves
    assert m["spatialConditionNum"] < MAX_CONDITION
    # a Gaussian that broadens sigma a to b has a noise gain of 1 / (2 sqrt(pi (b^2 - a^2))): 0.21 here
    if not deconvolves and science_sigma != template_sigma:
        assert m["kernelNoiseGain"] == pytest.approx(0.5 / np.sqrt(np.pi * 1.76), rel=0.3)


def test_a_fit_that_rounding_would_decide_is_held_and_warned_of(caplog):
    """Functions of 0.7 px on stars of 6 px: some are the same on them to the last digit of double precision."""
    fluxes = np.linspace(4e5, 1e6, 9)
    fit = fitted((0, 0), stars((0, 0), 6.0, fluxes), stars((0, 0), 6.0, fluxes))
    assert fit.kernel.condition > MAX_CONDITION
    assert fit.kernel.rank < fit.kernel.coefficients.size + fit.kernel.background.size
    assert fit.kernel.kernel_sum == pytest.approx(1.0, abs=3e-4)  # single precision
    science, s = scene(2.4, 5.0, 1)
    template, _ = scene(2.4, 5.0, 2, pad=40)
    way = Differencing(plain_options({"doDetection": False, "doFindCosmicRays": False}), earlier_fit=fit)
    with caplog.at_level(logging.WARNING):
        way.run(science, template, s)
    assert way.numbers["spatialConditionNum"] == fit.kernel.condition
    assert way.numbers["kernelRank"] == fit.kernel.rank
    assert "condition number" in way.numbers["kernelWarning"]
    assert any("condition number" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("unit", [2.0**-40, 2.0**40])
def test_the_kernel_does_not_depend_on_the_unit_of_the_images(unit):
    """Powers of two: single precision keeps every digit of the pixels, so nothing but the solving can differ."""
    fluxes = np.linspace(1000, 3000, 9)

    def pair(unit):
        made = []
        for sigma, background in ((2.0, 0.0), (2.6, 11.3)):
            planes, x, y = stars((0, 0), sigma, fluxes, background)
            e = Exposure(
                np.float32(unit) * planes.image,
                np.float32(unit**2) * planes.variance,
                np.zeros(planes.image.shape, np.int32),
            )
            made.append((MaskedImage.of(e), x, y))
        return fitted((0, 0), *made, (2.0, 2.6), background_order=1).kernel

    usual, other = pair(1.0), pair(unit)
    assert usual.condition < MAX_CONDITION
    assert other.condition == pytest.approx(usual.condition, rel=1e-3)
    assert other.rank == usual.rank
    assert other.kernel_sum == pytest.approx(usual.kernel_sum, rel=1e-7)
    assert other.background / unit == pytest.approx(usual.background, rel=1e-5, abs=1e-6)
    assert usual.background[0] == pytest.approx(11.3, abs=1e-3)


def test_stars_without_light_are_a_typed_error():
    image = np.zeros((SIZE, SIZE), "f4")
    e = Exposure(image, np.full(image.shape, np.nan, "f4"), np.zeros(image.shape, np.int32))
    x = np.array([100.0, 200.0, 300.0])
    with pytest.raises(InsufficientKernelSources):
        fit_kernel(MaskedImage.of(e), MaskedImage.of(e), StarPositions(x, x), make_basis(5.0, 6.0), (0, 0, SIZE, SIZE))


@pytest.mark.parametrize("change", [-1e-7, -1e-12, 1e-12, 1e-7])
def test_the_last_digit_of_a_width_changes_no_basis(change):
    equal, nearly = make_basis(2.0 * FWHM, 2.0 * FWHM), make_basis(2.0 * FWHM * (1 + change), 2.0 * FWHM)
    assert (nearly.sigmas, nearly.size, nearly.mode) == (equal.sigmas, equal.size, equal.mode)


def test_noise_free_stars_in_the_last_digit_give_the_same_kernel():
    """Sharper to broader: a template whose pixels are off by 1e-7 changes what is made of a star by no more than that."""
    fluxes = np.linspace(1000, 3000, 9)
    origin = (0, 0)
    target = stars(origin, 2.4, fluxes)
    kernels = []
    for noise in (0.0, 1e-7):
        planes, x, y = stars(origin, 2.0, fluxes)
        planes.image[:] *= 1 + noise * np.random.default_rng(1).normal(size=planes.image.shape)
        kernels.append(fitted(origin, (planes, x, y), target, (2.0, 2.4)).kernel)
    one, other = (k.kernels_at(200, 200)[0].astype(float) for k in kernels)
    assert kernels[1].kernel_sum == pytest.approx(kernels[0].kernel_sum, rel=1e-6)
    assert np.abs(one - other).max() < 1e-3 * one.max()


@pytest.mark.parametrize("more", [-1e-6, 0.0, 1e-6])
def test_a_source_between_two_pixels_is_one(more):
    g = np.arange(64)
    light = 20 * np.exp(-0.5 * ((g[:, None] - 30) ** 2 + (g[None, :] - 31.5) ** 2) / 2.0**2).astype("f4")
    light[30, 32] = light[30, 31] + np.float32(more)
    found = detect(Significance(light, 1.0, 2.0 * FWHM), 5.0)
    assert found.x.size == 1


def test_stars_that_are_equal_to_rounding_keep_their_order():
    x = np.arange(20.0)
    snr = np.full(20, 300.0) * (1 + 1e-9 * np.random.default_rng(1).normal(size=20))
    snr[7] = 400.0
    flags = np.ones(20, bool)
    made = Stars(x=x, y=x, snr=snr, psfFlux=snr, star=flags, isolated=flags, flagged=~flags)
    assert made.brightest_first().x.tolist() == [7.0, *(v for v in x if v != 7)]
