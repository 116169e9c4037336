"""Bad pixels learned from synthetic nights whose defects are known."""

import numpy as np
import pytest

from calibration.defects.learned_map import SkyFrame, learn_defects
from calibration.defects.mending import mend_bad_pixels
from calibration.errors import TooLittleDrift
from exposure import Exposure, Instrument
from exposure.flagging.bad_pixels import DEFECTS, BadPixelMap, write_bad_pixel_map
from exposure.mask import plane_bits

SIDE = 160
SKY = 5.0  # counts, one sigma


def star_frame(rng, x, y, flux, fwhm=2.2):
    g = np.arange(SIDE)
    s = fwhm / 2.3548
    light = np.zeros((SIDE, SIDE))
    for k in range(x.size):  # a hundred stars of a made-up frame
        light += (
            flux[k]
            / (2 * np.pi * s**2)
            * np.outer(np.exp(-0.5 * ((g - y[k]) / s) ** 2), np.exp(-0.5 * ((g - x[k]) / s) ** 2))
        )
    return light + rng.normal(0, 1, light.shape) * np.sqrt(SKY**2 + light)


def night(seed, step=(3.0, 1.3), n=18, n_stars=120, still=None):
    """Frames, and the truth: masks of hot, cold, unstable pixels and of a column."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(SIDE * SIDE)[:260]
    kinds = {name: np.zeros((SIDE, SIDE), bool) for name in ("hot", "cold", "unstable", "line")}
    for name, part in (("hot", places[:150]), ("cold", places[150:200]), ("unstable", places[200:])):
        kinds[name].ravel()[part] = True
    kinds["line"][30:130, 77] = True
    offset = np.where(kinds["hot"], rng.uniform(4, 60, (SIDE, SIDE)) * SKY, 0)
    offset -= np.where(kinds["cold"], rng.uniform(4, 10, (SIDE, SIDE)) * SKY, 0)
    offset += np.where(kinds["line"], 1.0 * SKY, 0)
    reach = SIDE + 2 * n * max(np.abs(step))
    x, y = rng.uniform(-reach / 2, SIDE + reach / 2, (2, int(n_stars * (2 * reach / SIDE) ** 2 / 4)))
    flux = 10 ** rng.uniform(2.3, 5, x.size)
    if still is not None:
        x[0], y[0], flux[0] = *still, 3e4
    frames = []
    for k in range(n):
        image = star_frame(rng, x + step[0] * (k - n // 2), y + step[1] * (k - n // 2), flux) + offset
        image += np.where(kinds["unstable"] & (rng.uniform(size=image.shape) < 0.4), 12 * SKY, 0)
        made = Exposure(
            (image + 300).astype(np.float32), np.full(image.shape, np.nan, np.float32), np.zeros(image.shape, np.int32)
        )
        frames.append(SkyFrame.of(made, 40))
    return frames, kinds, offset


@pytest.fixture(scope="module")
def drifting():
    frames, kinds, offset = night(1)
    return frames, kinds, offset, learn_defects(frames)


def test_known_defects_are_found_and_good_pixels_stay(drifting):
    _, kinds, offset, found = drifting
    bad = found.map.bits > 0
    judged = np.abs(np.arange(SIDE) - SIDE / 2) < SIDE / 2 - 8
    inner = judged[:, None] & judged[None, :]
    for name in (
        "hot",
        "cold",
        "unstable",
    ):  # the faintest are 4 sigma off, the limit is 2.5: 5 sigma of a median of 18
        assert bad[kinds[name] & inner].mean() >= 0.97, name
    assert bad[kinds["line"]].mean() > 0.9
    good = ~(kinds["hot"] | kinds["cold"] | kinds["unstable"])
    good[10:150, 77] = False  # ends of the column are found to half of the length that is judged together
    assert bad[good].mean() < 1e-3
    hot = kinds["hot"] & inner & np.isfinite(found.map.offset)
    pull = (found.map.offset - offset)[hot] / (1.2533 * SKY / np.sqrt(18))
    assert np.abs(np.median(pull)) < 1.0  # faint stars lift the sky of a dense field by a quarter of its noise
    assert 1.4826 * np.median(np.abs(pull - np.median(pull))) < 2.5  # stars that pass add to it


def test_a_map_of_one_half_holds_in_the_other(drifting):
    frames, _, _, whole = drifting
    first, second = learn_defects(frames[:9]).map.bits > 0, learn_defects(frames[9:]).map.bits > 0
    assert (first & ~second).mean() < 0.01
    assert (first & second).sum() > 0.8 * (whole.map.bits > 0).sum()


def test_a_star_of_the_sky_is_no_defect_though_it_lingers():
    """Half a pixel a frame: a bright star covers a pixel for a quarter of the night."""
    frames, kinds, _ = night(3, step=(0.9, 0.9), n=24, n_stars=60, still=(81.0, 79.0))
    found = learn_defects(frames).map.bits > 0
    path = np.zeros_like(found)
    for k in range(24):
        at = np.round(np.array([79.0, 81.0]) + 0.9 * (k - 12)).astype(int)
        path[at[0] - 2 : at[0] + 3, at[1] - 2 : at[1] + 3] = True
    truth = kinds["hot"] | kinds["cold"] | kinds["unstable"]
    truth[10:150, 77] = True
    assert not (found & path & ~truth).any()
    assert found[kinds["hot"]].mean() > 0.85


@pytest.mark.parametrize(("step", "n"), [((0.0, 0.0), 12), ((0.3, 0.1), 12), ((3.0, 0.0), 6)])
def test_a_night_that_stays_teaches_nothing(step, n):
    frames, _, _ = night(4, step=step, n=n, n_stars=40)
    with pytest.raises(TooLittleDrift, match="drifts"):
        learn_defects(frames)


def test_mended_pixels_are_right_to_their_errors(tmp_path):
    """Bad pixels on stars and on sky: guess, error and flags; known offsets make them better."""
    rng = np.random.default_rng(5)
    x, y = (
        a.ravel() + rng.uniform(-0.5, 0.5, 81) for a in np.meshgrid(np.arange(9) * 16 + 16.0, np.arange(9) * 16 + 16.0)
    )
    image = star_frame(rng, x, y, 10 ** rng.uniform(4, 5, x.size), fwhm=2.6)
    light = star_frame(np.random.default_rng(0), x, y, np.zeros(x.size))
    assert light.shape == image.shape
    bad = rng.uniform(size=image.shape) < 0.02
    offset = np.where(bad, rng.uniform(3, 50, image.shape) * SKY, 0)
    for known in (False, True):
        bits = bad.astype(np.uint8) * DEFECTS["hot"]
        planes = (np.where(bad & known, v, np.nan).astype(np.float32) for v in (offset, 0.3 * SKY))
        write_bad_pixel_map(tmp_path / f"{known}.fits", {0: BadPixelMap(bits, *planes)})
        rules = Instrument.model_validate(
            {"name": "c", "pixel_scale": 1, "bad_pixels": str(tmp_path / f"{known}.fits")}
        )
        variance = (SKY**2 + np.maximum(image, 0)).astype(np.float32)
        made = Exposure((image + offset).astype(np.float32), variance, np.zeros(image.shape, np.int32))
        made.set_plane("BAD", bad)
        made.set_plane("SAT", bad & (offset > 40 * SKY))
        assert mend_bad_pixels(made, rules) > 0.95 * bad.sum()
        assert not made.flagged("SAT").any()
        mended = made.flagged("INTRP")
        assert not (mended & ~bad).any()
        assert not made.flagged("BAD")[mended].any()
        pull = ((made.image - image) / np.sqrt(made.variance))[mended]
        assert np.sqrt(np.mean(pull**2)) < 1.5
        bright = mended & (image > 200)
        worst = np.sqrt(np.mean(((made.image - image)[bright] / image[bright]) ** 2))
        assert worst < (0.1 if known else 0.5)  # a pixel of 200 counts has 7 % of noise of its own
        assert np.array_equal(made.image[~bad], image.astype(np.float32)[~bad])


def test_lonely_bad_pixels_of_an_image_s_own_mask_are_mended():
    """No list of the instrument is needed where they are scattered; a bad column, which nobody knows, stays bad."""
    rng = np.random.default_rng(6)
    x, y = rng.uniform(10, 150, (2, 40))
    image = star_frame(rng, x, y, 10 ** rng.uniform(4, 5, x.size), fwhm=4.0)
    bad = rng.uniform(size=image.shape) < 0.03
    bad[:, 80] = True
    e = Exposure(
        np.where(bad, 5e4, image).astype("f4"),
        (SKY**2 + np.maximum(image, 0)).astype("f4"),
        np.zeros(image.shape, np.int32),
    )
    e.set_plane("BAD", bad)
    number = mend_bad_pixels(e, Instrument.model_validate({"name": "c", "pixel_scale": 1}))
    mended = e.flagged("INTRP")
    assert number == mended.sum() > 0.7 * bad.sum()
    assert not mended[:, 80].any()
    assert np.array_equal(e.flagged("BAD"), bad & ~mended)
    pull = ((e.image - image) / np.sqrt(e.variance))[mended]
    assert np.sqrt(np.mean(pull**2)) < 1.5
    few = Exposure(e.image.copy(), e.variance, np.zeros(image.shape, np.int32))
    few.mask[41, 41] = plane_bits(["BAD"])  # one alone may be anything
    assert mend_bad_pixels(few, Instrument.model_validate({"name": "c", "pixel_scale": 1})) == 0
