"""Resampling: sums, variances and masks are those of Lanczos-3 however the source is turned."""

import numpy as np
import pytest

from diffim.pixels.warp import nodes, resample
from exposure import Exposure
from exposure.mask import plane_bits

SIDE = 200
BOX = (3, 5, 150, 170)


def source(seed=1):
    rng = np.random.default_rng(seed)
    image = rng.normal(100, 10, (SIDE, SIDE)).astype(np.float32)
    variance = rng.uniform(50, 150, (SIDE, SIDE)).astype(np.float32)
    return Exposure(image, variance, np.zeros((SIDE, SIDE), np.int32), origin=(10, -20))


def place(angle, i, j):
    """Position in the source of pixel (j, i) of the box, which is turned about its middle."""
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    u, v = i - 75, j - 85
    return 10 + SIDE / 2 + 0.3 + c * u - s * v, -20 + SIDE / 2 + 0.2 + s * u + c * v


def turned(angle):
    """Positions of the nodes of the box."""
    gx, gy = nodes(BOX)
    return place(angle, gx - BOX[0], gy - BOX[1])


def weights(offset):
    t = np.arange(-2, 4) - offset
    w = np.sinc(t) * np.sinc(t / 3)
    return w / w.sum()


def by_hand(e, x, y):
    """Image and variance at a frame position, in double precision."""
    x, y = x - e.origin[0], y - e.origin[1]
    ix, iy = int(np.floor(x)), int(np.floor(y))
    part = slice(iy - 2, iy + 4), slice(ix - 2, ix + 4)
    wx, wy = weights(x - ix), weights(y - iy)
    return wy @ e.image[part].astype(float) @ wx, (wy**2) @ e.variance[part].astype(float) @ wx**2


@pytest.mark.parametrize("angle", [0, 0.1, 3, 37, 45, 90.5, 137, 180, 271])
def test_values_and_variances_are_the_sums_at_any_angle(angle):
    e = source()
    gx, gy = turned(angle)
    out = resample(e, gx, gy, BOX, scale=2.0)
    rng = np.random.default_rng(2)
    seen = 0
    for j, i in rng.integers(0, (BOX[3], BOX[2]), (400, 2)):
        x, y = place(angle, i, j)
        if not (3 <= x - 10 < SIDE - 4 and 3 <= y + 20 < SIDE - 4):
            continue
        value, noise = by_hand(e, x, y)
        # positions between nodes are bilinear in single steps: of a straight grid they are right to 1e-9
        assert out.image[j, i] == pytest.approx(2 * value, abs=1e-3)
        assert out.variance[j, i] == pytest.approx(4 * noise, rel=2e-5)
        seen += 1
    assert seen > 250


@pytest.mark.parametrize("angle", [0, 3, 45, 90.5, 180])
def test_a_bad_pixel_is_felt_within_its_reach_only(angle):
    """Also not by those whose vectors hold it with no weight."""
    clean, broken = source(), source()
    broken.image[100, 90] = np.nan
    broken.mask[100, 90] = plane_bits(["NO_DATA"])
    gx, gy = turned(angle)
    a, b = resample(clean, gx, gy, BOX), resample(broken, gx, gy, BOX)
    jj, ii = np.mgrid[0 : BOX[3], 0 : BOX[2]]
    x, y = place(angle, ii, jj)
    off = np.maximum(np.abs(x - 10 - 90), np.abs(y + 20 - 100))
    lost = np.isnan(b.image) & ~np.isnan(a.image)
    assert off[lost].max(initial=0) < 0.6  # of those alone it has half of the weight
    changed = ~np.isnan(a.image) & ~np.isnan(b.image) & (np.abs(a.image - b.image) > 1e-4)
    assert changed.sum() > 5
    assert off[changed].max() <= 3


def test_the_bytes_do_not_depend_on_the_number_of_threads(monkeypatch):
    e = source()
    e.mask[50:60, 70] = plane_bits(["BAD"])
    gx, gy = turned(17.0)
    made = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("ALERTPROD_THREADS", threads)
        out = resample(e, gx, gy, BOX)
        made.append((out.image.tobytes(), out.variance.tobytes(), out.mask.tobytes()))
    assert made[0] == made[1] == made[2]
    assert np.bitwise_or.reduce(out.mask.ravel()) & plane_bits(["BAD"])
