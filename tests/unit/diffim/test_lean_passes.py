"""What looks at whole frames without maps of them: the same answers as the plain way."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from calibration.sources import detect_sources
from exposure import Exposure, estimate_background
from exposure.flagging.connected import largest_area
from exposure.noise import MAX_LAG, sky_autocorrelation


@pytest.mark.parametrize(("shape", "share"), [((40, 50), 0.1), ((200, 300), 0.59), ((7, 1), 0.5), ((1, 9), 0.7)])
def test_the_largest_area_is_that_of_a_labelled_image(shape, share):
    flags = np.random.default_rng(3).random(shape) < share
    stats = cv2.connectedComponentsWithStats(flags.view(np.uint8), connectivity=4)[2]
    assert largest_area(flags) == stats[1:, cv2.CC_STAT_AREA].max()
    assert largest_area(np.zeros(shape, bool)) == 0
    assert largest_area(np.ones(shape, bool)) == flags.size


def test_noise_of_some_rows_is_that_of_these_rows_alone():
    rng = np.random.default_rng(5)
    image = cv2.GaussianBlur(rng.normal(size=(960, 512)).astype(np.float32), (0, 0), 0.8)
    variance, good = np.full_like(image, 0.5), np.zeros(image.shape, bool)
    good[256:512] = good[704:] = True
    blank = np.where(good, image, np.float32(1e6))  # what does not count is not looked at
    found = sky_autocorrelation(blank, variance, good)
    z = (image / np.sqrt(variance))[256:512]
    expected = [(z[:, : -k or None] * z[:, k:]).mean() for k in range(4)]
    # 16 blocks of 64 x 64 px whose noise is correlated over some 10 px: 2 % of the variance at each lag
    assert np.allclose(found[MAX_LAG, MAX_LAG : MAX_LAG + 4], expected, atol=0.06 * expected[0])


def test_the_sky_is_taken_off_as_its_map_says():
    rng = np.random.default_rng(7)
    image = (100 + rng.normal(size=(300, 200))).astype(np.float32)
    image[4, 5] = np.nan
    sky = estimate_background(image, None, 64)
    expected, wide = image - sky.level, np.asfortranarray(image)
    sky.take_off(image)
    sky.take_off(wide)
    assert np.array_equal(image, expected, equal_nan=True) and np.array_equal(wide, expected, equal_nan=True)


def test_sources_on_more_pixels_than_the_usual_buffer_holds_are_found(monkeypatch):
    monkeypatch.setattr("calibration.sources.OPEN_PIXELS", 1000)
    rng = np.random.default_rng(9)
    image = rng.normal(size=(256, 256)).astype(np.float32)
    y, x = np.mgrid[:256, :256]
    image += (500 * np.exp(-((x - 120) ** 2 + (y - 130) ** 2) / (2 * 12**2))).astype(np.float32)  # on 3000 px
    found = detect_sources(Exposure(image, np.ones_like(image), np.zeros(image.shape, np.int32)))
    assert abs(found.x[0] - 120) < 0.2 and abs(found.y[0] - 130) < 0.2  # 12 px / S/N of 10 000, and windows


def test_the_command_line_alone_loads_neither_tables_nor_drivers():
    code = "import sys, service.commands.main; print([m for m in ('pandas', 'numba', 'sqlalchemy', 'psycopg') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
