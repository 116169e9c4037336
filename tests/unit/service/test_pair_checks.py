"""Pairs that are not what they are said to be: the same image twice, two that do not lie on one grid."""

import numpy as np
import pytest

from calibration.stars import bright_stars
from diffim.errors import DifferencingError, MismatchError, NoTemplateCoverage
from exposure import Exposure, GaussianPsf, SkyWcs, load_instrument
from exposure.errors import WcsMissing
from service.errors import SameImage
from service.pairs.checks import check_distinct, check_one_grid, check_wcs
from service.pairs.difference import difference_pair
from tests.support.pairs import SIDE, SKY, render, stars, wcs

NAMES = ("new.fits", "old.fits")


def exposure(x, y, flux, seed, fwhm=3.0):
    """Stars on a sky of level 0, with a PSF."""
    image, variance = render(x, y, flux, fwhm, seed)
    psf = GaussianPsf(fwhm / 2.3548, 31, (SIDE / 2, SIDE / 2))
    return Exposure(image - np.float32(SKY), variance, np.zeros(image.shape, np.int32), psf=psf)


def moved(x, y, angle=0.0, scale=1.0, shift=(0.0, 0.0)):
    """Positions turned about the middle, stretched and shifted."""
    z = ((x - SIDE / 2) + 1j * (y - SIDE / 2)) * scale * np.exp(1j * np.radians(angle))
    return z.real + SIDE / 2 + shift[0], z.imag + SIDE / 2 + shift[1]


@pytest.mark.parametrize("change", [lambda a: a, lambda a: 1.7 * a + 40, lambda a: -2 * a, lambda a: a + 3000])
def test_the_same_image_twice_is_refused(change):
    new, old = exposure(*stars(), 1), exposure(*stars(), 1)
    old.image = change(old.image).astype(np.float32)
    with pytest.raises(SameImage, match=r"new\.fits and old\.fits are the same image"):
        check_distinct(new, old, NAMES)


def test_pixels_that_are_partly_the_same_are_said():
    new, old = exposure(*stars(), 1), exposure(*stars(), 1)
    old.image[: SIDE // 3] = exposure(*stars(), 2).image[: SIDE // 3]
    assert check_distinct(new, old, NAMES).startswith("6")  # two thirds


@pytest.mark.parametrize("integers", [False, True])
def test_two_images_of_one_field_are_no_image_twice(integers):
    new, old = exposure(*stars(), 1), exposure(*stars(), 2)
    if integers:
        new.image, old.image = np.round(new.image), np.round(old.image)
    assert check_distinct(new, old, NAMES) == ""


def test_images_of_other_shapes_or_without_pixels_are_not_compared():
    new, old = exposure(*stars(), 1), exposure(*stars(), 1)
    assert check_distinct(new, old.cutout(0, 0, SIDE - 1, SIDE), NAMES) == ""
    for e in (new, old):
        e.set_plane("NO_DATA", np.ones(e.image.shape, bool))
    assert check_distinct(new, old, NAMES) == ""


def look(x, y, flux, old_wcs=None, seed=2):
    new = exposure(*stars(), 1)
    new.wcs = wcs()
    return check_one_grid(new, exposure(x, y, flux, seed, 2.7), bright_stars(new), old_wcs, NAMES)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -0.3)])
def test_a_registered_pair_is_none_to_speak_of(shift):
    x, y, flux = stars()
    assert look(*moved(x, y, shift=shift), flux) == ""


def test_shifts_that_can_be_taken_out_are_said():
    x, y, flux = stars()
    said = look(*moved(x, y, shift=(1.4, -1.0)), flux)
    assert "1.7" in said  # hypot(1.4, 1) = 1.72
    assert "resampled" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shift": (9.0, -5.0)}, r"\(\+9\.0, -5\.0\) px"),
        ({"angle": 2.0}, r"turned by 2\.0. degrees"),
        ({"scale": 1.05}, r"scaled by 1\.0[45]"),
        ({"angle": 40.0}, "hardly any lie at the same place"),
        ({"shift": (130.0, 0.0)}, "hardly any lie at the same place"),
    ],
)
def test_a_pair_on_two_grids_is_refused_with_what_was_measured(change, told):
    x, y, flux = stars()
    with pytest.raises(MismatchError, match=told) as error:
        look(*moved(x, y, **change), flux)
    assert "new.fits and old.fits" in str(error.value)
    assert "use --register" in str(error.value)


def test_wcs_that_differ_are_told_with_it():
    x, y, flux = stars()
    with pytest.raises(MismatchError, match=r"their WCS are \d+\.\d px apart"):
        look(*moved(x, y, shift=(9.0, -5.0)), flux, wcs().shifted(9.0, -5.0))
    assert look(x, y, flux, wcs().shifted(9.0, -5.0)) == ""  # the stars decide


def test_another_field_is_refused_and_few_stars_say_nothing():
    with pytest.raises(MismatchError, match="another field"):
        look(*stars(77))
    x, y, flux = stars()
    assert look(x[:0], y[:0], flux[:0]) == ""  # an empty template is no evidence


def test_a_missing_wcs_names_the_file_and_the_ways_out():
    new, old = exposure(*stars(), 1), exposure(*stars(), 2)
    new.wcs = wcs()
    with pytest.raises(WcsMissing, match=r"old\.fits has no celestial WCS.*--register .*--registered"):
        check_wcs((new, old), NAMES)


def test_a_wcs_that_is_wrong_is_refused_with_the_shift():
    x, y, flux = stars()
    new = exposure(x, y, flux, 1)
    old = exposure(*moved(x, y, shift=(20.0, -4.0)), flux, 2, 2.7)
    with pytest.raises(MismatchError, match=r"not brought together by their WCS.*\(\+20\.0, -4\.0\) px.*mend the WCS"):
        check_one_grid(new, old, bright_stars(new), None, NAMES, registered=False)


@pytest.mark.parametrize("share", [0.35, 0.7])
def test_a_template_of_a_part_of_the_image_is_no_mismatch(share):
    x, y, flux = stars()
    new, old = exposure(x, y, flux, 1), exposure(x, y, flux, 2, 2.7)
    empty = np.zeros(old.image.shape, bool)
    empty[:, int((1 - share) * SIDE) :] = True
    old.set_plane("NO_DATA", empty)
    old.image[empty] = np.nan
    assert check_one_grid(new, old, bright_stars(new), None, NAMES, registered=False) == ""


def test_images_without_a_common_pixel_say_where_they_lie():
    new, old = exposure(*stars(), 1), exposure(*stars(), 2)
    new.wcs = wcs()
    old.wcs = SkyWcs.tan((130.0, 120.0), (151.0, 3.0), np.diag([-0.4, 0.4]) / 3600)
    with pytest.raises(NoTemplateCoverage, match=r"no pixel in common.*\(150\.0.*\(15[01]\.\d+, \+[23]\.\d+\) deg"):
        difference_pair(new, old, load_instrument("generic"))


def test_a_kernel_without_light_is_refused():
    """Another field under the same WCS: stars enough in both, none in common, and too few to be called moved."""
    new, old = exposure(*stars(5, 12), 1), exposure(*stars(99, 12), 2)
    new.wcs = old.wcs = wcs()
    with pytest.raises((MismatchError, DifferencingError)):
        difference_pair(new, old, load_instrument("generic"))
