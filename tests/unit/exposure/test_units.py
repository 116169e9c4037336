"""Pixel values whose squares cannot be kept are refused; those that can be are not."""

import numpy as np
import pytest
from astropy.io import fits

from exposure import load_instrument
from exposure.errors import UnitsExtreme
from exposure.io.native import read_planes


def frame(path, unit):
    noise = np.random.default_rng(1).normal(20.0, 3.0, (80, 80))
    fits.PrimaryHDU((noise * unit).astype(np.float64)).writeto(path)
    return path


@pytest.mark.parametrize("unit", [1e-20, 1e-15, 1e18, 1e20])
def test_extreme_units_are_refused_with_the_file_and_what_to_do(tmp_path, unit):
    with pytest.raises(UnitsExtreme, match=r"a\.fits scatter by .*multiply"):
        read_planes(frame(tmp_path / "a.fits", unit), load_instrument("generic"))


@pytest.mark.parametrize("unit", [1e-11, 1.0, 1e12])
def test_others_are_read(tmp_path, unit):
    exposure = read_planes(frame(tmp_path / "a.fits", unit), load_instrument("generic"))
    assert float(np.std(exposure.image)) == pytest.approx(3.0 * unit, rel=0.05)


def test_an_instrument_file_that_was_changed_is_read_again(tmp_path):
    path = tmp_path / "cam.yaml"
    path.write_text("name: cam\npixel_scale: 0.4\n")
    assert load_instrument(str(path)) is load_instrument(str(path))
    path.write_text("name: cam\npixel_scale: 0.25\n")
    assert load_instrument(str(path)).pixel_scale == 0.25


def test_a_mask_whose_bits_nobody_names_marks_bad_pixels(tmp_path, caplog):
    image = np.random.default_rng(2).normal(20.0, 3.0, (80, 80)).astype(np.float32)
    mask = np.zeros(image.shape, np.int16)
    mask[10:30] = 4
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, name="IMAGE"), fits.ImageHDU(mask, name="MASK")]
    fits.HDUList(hdus).writeto(tmp_path / "m.fits")
    exposure = read_planes(tmp_path / "m.fits", load_instrument("generic"))
    assert np.array_equal(exposure.flagged("BAD"), mask != 0)
    assert "names no bits" in caplog.text


@pytest.mark.parametrize(("sky", "fill"), [(-700.0, 0.0), (300.0, 0.0), (400.0, 1000.0)])
def test_fill_far_from_the_sky_is_found_to_the_pixel(tmp_path, sky, fill):
    image = np.random.default_rng(4).normal(sky, 15.0, (300, 300)).astype(np.float32)
    y, x = np.mgrid[:300, :300]
    image += (4e5 * np.exp(-((x - 220) ** 2 + (y - 210) ** 2) / 8) / (8 * np.pi)).astype(np.float32)
    image[x + y < 150] = fill
    fits.PrimaryHDU(image).writeto(tmp_path / "f.fits")
    exposure = read_planes(tmp_path / "f.fits", load_instrument("generic"))
    assert np.array_equal(exposure.flagged("NO_DATA"), x + y < 150)
