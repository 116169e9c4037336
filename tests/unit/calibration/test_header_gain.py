"""A GAIN card that no instrument file names: taken only where the image tells nothing, and never an amplifier's setting."""

import logging

import numpy as np
import pytest
from astropy.io import fits

from calibration.gain import estimate_gain
from exposure import load_instrument
from exposure.errors import GainUnknown
from exposure.io.native import read_planes


def blank(path, **cards):
    """A frame of noise about zero: neither sky nor stars tell a gain."""
    rng = np.random.default_rng(3)
    fits.PrimaryHDU(rng.normal(0, 10, (160, 160)).astype(np.float32), fits.Header(cards)).writeto(path)
    return read_planes(path, load_instrument("generic"))


def gain(exposure):
    return estimate_gain(exposure, np.full(exposure.image.shape, 10, np.float32))


@pytest.mark.parametrize("card", ["GAIN", "EGAIN"])
def test_a_card_is_taken_with_a_warning_where_the_image_tells_nothing(tmp_path, caplog, card):
    with caplog.at_level(logging.WARNING, logger="alertprod.calibration"):
        assert gain(blank(tmp_path / "a.fits", **{card: 2.5})) == 2.5
    assert "2.5 electrons per count" in caplog.text


@pytest.mark.parametrize("value", [0.0, -1.0, 120.0, "high"])
def test_what_cannot_be_electrons_per_count_is_not_taken(tmp_path, value):
    with pytest.raises(GainUnknown, match="instrument file"):
        gain(blank(tmp_path / "a.fits", GAIN=value))


def test_what_the_sky_tells_goes_before_a_card(tmp_path):
    exposure = blank(tmp_path / "a.fits", GAIN=2.5)
    exposure.metadata["skyLevel"] = 400.0  # of variance 100: 4 electrons per count
    assert gain(exposure) == pytest.approx(4.0)
