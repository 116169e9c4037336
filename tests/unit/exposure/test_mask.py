"""Growing mask planes: against a dilation by SciPy, whatever the number of threads; bright peaks likewise."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from calibration.stars import bright_stars
from exposure import Exposure
from exposure.mask import count_flagged, plane_bits, spread_bits, translate


def marked():
    rng = np.random.default_rng(3)
    mask = np.zeros((700, 500), np.int32)
    mask.flat[rng.integers(0, mask.size, 400)] = 1
    mask[100:180, 50:90] |= 2
    mask[345:356] |= 2  # over the border of two bands
    return mask


def disc(radius):
    g = np.arange(-int(radius + 1), int(radius + 1) + 1)
    return g[:, None] ** 2 + g**2 <= (radius + 0.25) ** 2


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_bits_grow_by_a_disc(threads, monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", threads)
    mask, out = marked(), np.zeros((650, 480), np.int32)
    spread_bits(mask, 3, 6.5, out, (20, 10))
    expected = sum(bit * binary_dilation(mask & bit > 0, disc(6.5)) for bit in (1, 2))
    np.testing.assert_array_equal(out, expected[20:670, 10:490])


@pytest.mark.parametrize("threads", ["1", "2", "7"])
def test_another_bit_is_put_around_in_place(threads, monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", threads)
    mask = marked()
    own = mask.copy()
    spread_bits(own, 2, 9, own, put=64)
    np.testing.assert_array_equal(own, mask | 64 * binary_dilation(mask & 2 > 0, disc(9)))


@pytest.mark.parametrize("threads", ["1", "3"])
def test_planes_are_kept_renamed_or_dropped(threads, monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", threads)
    rng = np.random.default_rng(11)
    mask = np.zeros((200, 333), np.int32)
    mask.flat[rng.integers(0, mask.size, 300)] = rng.integers(0, 1 << 19, 300)
    kept, (old, new) = plane_bits(["BAD", "NO_DATA"]), (plane_bits([name]) for name in ("SAT", "SAT_TEMPLATE"))
    expected = (mask & kept) | np.where(mask & old, new, 0)
    made = mask.copy()
    translate(made, kept, {"SAT": "SAT_TEMPLATE"})
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_flagged_pixels_of_two_masks_are_counted(threads, monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", threads)
    mask, wide = marked(), np.zeros((800, 600), np.int32)
    wide[100:150] = 2
    other = wide[50:750, 30:530]  # a part of a larger image
    assert count_flagged(mask, other, 2) == np.count_nonzero((mask | other) & 2)
    assert count_flagged(mask, mask, 1) == np.count_nonzero(mask & 1)


def test_bright_stars_do_not_depend_on_the_number_of_threads(monkeypatch):
    rng = np.random.default_rng(7)
    image = rng.normal(0, 1, (600, 400)).astype(np.float32)
    y, x = np.mgrid[-6:7, -6:7]
    places = np.column_stack([rng.integers(10, 590, 120), rng.integers(10, 390, 120)])
    places[:30, 0] = rng.integers(296, 304, 30)  # where two bands meet
    for j, i in places:
        image[j - 6 : j + 7, i - 6 : i + 7] += 300 * np.exp(-(x**2 + y**2) / 8)
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("ALERTPROD_THREADS", threads)
        mask = np.zeros(image.shape, np.int32)
        mask[:, 200] = plane_bits(["BAD"])
        found.append(bright_stars(Exposure(image, np.ones_like(image), mask)))
    assert len(found[0]) > 100
    for other in found[1:]:
        for name in ("x", "y", "snr", "psfFlux", "size", "star", "isolated", "flagged"):
            np.testing.assert_array_equal(getattr(found[0], name), getattr(other, name))
