"""Whose is the light at a place: a peak of its own, or the flank of a source beside it."""

from types import SimpleNamespace

import numpy as np
import pytest

from service.processing.explain import _peak_within

SCALE = 0.2  # arcsec/px


def score_of(*peaks):
    """Significance with Gaussian peaks (x, y, height), sigma 3 px."""
    rows, columns = np.mgrid[:101, :101]
    image = sum(h * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 18) for x, y, h in peaks)
    wcs = SimpleNamespace(pixel_scale_arcsec=lambda x, y: SCALE)
    return SimpleNamespace(image=image.astype(np.float32), origin=(0, 0), require_wcs=lambda: wcs)


@pytest.mark.parametrize(("x", "y", "peak", "highest"), [
    (52.0, 48.0, 40.0, 40.0),  # the source lies within 2 arcsec: 10 px
    (61.0, 50.0, 0.0, 40 * np.exp(-1 / 18)),  # it is 11 px away: its flank is seen, 1 px from the top
    (68.0, 50.0, 0.0, 40 * np.exp(-64 / 18)),
    (5.0, 5.0, 0.0, 0.0),
])  # fmt: skip
def test_a_flank_is_no_peak(x, y, peak, highest):
    found = _peak_within(score_of((50, 50, 40.0)), x, y, 2.0)
    assert found == pytest.approx((peak, highest), abs=0.01)


def test_a_weak_peak_beside_a_strong_one_is_found():
    peak, highest = _peak_within(score_of((50, 50, 40.0), (66, 50, -8.0)), 66.0, 50.0, 1.0)
    assert peak == pytest.approx(8.0, abs=0.01)
    assert highest == pytest.approx(8.0, abs=0.01)
