"""Places by plain arithmetic are those of wcslib."""

import numpy as np
import pytest

from exposure.wcs.plain_tan import PlainTan, plain_or_same
from exposure.wcs.sky_wcs import SkyWcs

CD = ((-5e-5, 2e-6), (1e-6, 4.6e-5))


def powers(seed: int) -> list[np.ndarray]:
    p, q = np.indices((4, 4))
    draws = np.random.default_rng(seed).normal(0, 1.0, (2, 4, 4)) * 10.0 ** (2 - 4 * (p + q))
    return list(np.where((p + q >= 2) & (p + q <= 3), draws, 0.0))


@pytest.mark.parametrize("sip", [None, powers(1)], ids=["TAN", "SIP"])
@pytest.mark.parametrize("crval", [(0.0001, -3.0), (77.0, 89.999), (180.0, -90.0)])
@pytest.mark.parametrize("swapped", [False, True])
def test_places_are_those_of_wcslib(sip, crval, swapped):
    cards = dict(SkyWcs.tan_sip((1000.2, 2000.7), crval, CD, sip).to_header())
    if swapped:  # declination along the first axis
        cards["CTYPE1"], cards["CTYPE2"] = cards["CTYPE2"], cards["CTYPE1"]
        cards["CRVAL1"], cards["CRVAL2"] = cards["CRVAL2"], cards["CRVAL1"]
    wcs = SkyWcs.from_header(cards, (30, -20))
    plain = plain_or_same(wcs)
    assert isinstance(plain, PlainTan)
    x, y = np.random.default_rng(2).uniform(-200, 4300, (2, 50))
    (ra, dec), (true_ra, true_dec) = plain.pixel_to_sky(x, y), wcs.pixel_to_sky(x, y)
    assert np.abs(np.sin(np.radians(ra - true_ra)) * np.cos(np.radians(dec))).max() < 1e-13  # 2e-8 arcsec
    assert np.abs(dec - true_dec).max() < 1e-11


def test_what_is_not_plain_stays():
    cards = dict(SkyWcs.tan((1.0, 2.0), (10.0, 20.0), CD).to_header())
    for other in (
        {"CTYPE1": "RA---ZEA", "CTYPE2": "DEC--ZEA"},
        {"LONPOLE": 170.0},
        {"RADESYS": "FK4", "EQUINOX": 1950.0},
    ):
        wcs = SkyWcs.from_header(cards | other)
        assert plain_or_same(wcs) is wcs
