"""Resampling: fluxes do not depend on where a star lies between pixels; sums, variances, masks are right however the source is turned."""

import numpy as np
import pytest

from diffim.pixels.interpolation import WIDTHS
from diffim.pixels.warp import nodes, resample
from exposure import Exposure
from exposure.interpolation import STEPS, weight_table
from exposure.mask import plane_bits
from tests.support.moffat import moffat

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


WEIGHTS = weight_table(3, WIDTHS)


def weights(offset):
    """Of the table, linear between its steps."""
    step = min(int(offset * STEPS), STEPS - 1)
    return WEIGHTS[step] + (offset * STEPS - step) * (WEIGHTS[step + 1] - WEIGHTS[step])


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


@pytest.mark.parametrize("beta", [2.5, 4.765])
@pytest.mark.parametrize("fwhm", [3.0, 3.5, 4.0, 6.0])
def test_the_flux_of_a_star_does_not_depend_on_where_it_lies_between_pixels(fwhm, beta):
    """Stars integrated over pixels, moved by fractions of one: the fit of the true star to the moved image gives its flux."""
    side, phases = 61, np.arange(0, 1, 0.25)
    star = moffat(fwhm, beta, side, 0.0, 0.0).astype(np.float32)
    e = Exposure(star, np.ones_like(star), np.zeros(star.shape, np.int32))
    box, fluxes = (0, 0, side, side), []
    gx, gy = nodes(box)
    for dx in phases:
        for dy in phases:
            truth = moffat(fwhm, beta, side, -dx, -dy)[5:-5, 5:-5]
            moved = resample(e, gx + dx, gy + dy, box).image[5:-5, 5:-5].astype(np.float64)
            fluxes.append((moved * truth).sum() / (truth**2).sum())
            assert np.abs(moved - truth).max() < 0.012 * truth.max()
    assert np.ptp(fluxes) <= 3e-4
    assert np.mean(fluxes) == pytest.approx(1, abs=3e-4)


def test_the_variance_is_that_of_many_images_of_noise_that_is_not_uniform():
    """Pixels 3 px apart are independent: of 200 images of 160 x 160 the variance is known to 0.2 %, that of a quarter to 0.4 %."""
    rng, side = np.random.default_rng(5), 180
    variance = np.exp(2 * np.sin(np.arange(side) / 9)[:, None] * np.cos(np.arange(side) / 14)[None, :]).astype(
        np.float32
    )
    box = (0, 0, 160, 160)
    gx, gy = nodes(box)
    gx, gy = 10.0 + 0.999 * gx + 0.02 * gy, 10.0 - 0.02 * gx + 0.998 * gy
    squares = np.zeros((160, 160))
    for _ in range(200):
        noise = (rng.standard_normal((side, side), np.float32) * np.sqrt(variance)).astype(np.float32)
        out = resample(Exposure(noise, variance, np.zeros((side, side), np.int32)), gx, gy, box)
        squares += out.image.astype(np.float64) ** 2 / 200
    ratio = squares / out.variance
    good = np.isfinite(ratio)
    assert good.mean() > 0.9
    assert ratio[good].mean() == pytest.approx(1, abs=0.01)
    for low, high in ((0, 25), (75, 100)):
        part = good & (out.variance >= np.nanpercentile(out.variance, low))
        part &= out.variance <= np.nanpercentile(out.variance, high)
        assert ratio[part].mean() == pytest.approx(1, abs=0.015)


@pytest.mark.parametrize("angle", [0, 3, 45, 90.5, 180])
@pytest.mark.parametrize(("value", "plane"), [(np.nan, "NO_DATA"), (1e5, "BAD")])
def test_a_bad_pixel_is_felt_within_its_reach_only(angle, value, plane):
    """Also not by those whose vectors hold it with no weight."""
    clean, broken = source(), source()
    broken.image[100, 90] = value
    broken.mask[100, 90] = plane_bits([plane])
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
