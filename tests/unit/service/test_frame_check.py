"""What is said of a frame before a night is processed with it: every quantity, what is missing, and what to write."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from exposure import Instrument, SkyWcs, load_instrument
from service.commands.main import app
from service.frames.check import check_frame

SIDE, SCALE, FWHM, SKY, GAIN = 320, 0.4, 3.2, 300.0, 1.5
RULES = {"name": "cam", "pixel_scale": SCALE, "variance": "empirical", "zeropoint": "relative", "gain": {"key": "GAIN"}}


def header(turned_deg=30.0):
    """TAN around (150, 2), north `turned_deg` from +y towards +x, east to its left."""
    c, s = np.cos(np.radians(turned_deg)) * SCALE / 3600, np.sin(np.radians(turned_deg)) * SCALE / 3600
    middle = (SIDE + 1) / 2
    return fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": middle, "CRPIX2": middle,
         "CD1_1": -c, "CD1_2": s, "CD2_1": s, "CD2_2": c, "RADESYS": "ICRS", "DATE-OBS": "2024-02-01T01:00:00",
         "EXPTIME": 30.0, "FILTER": "r", "GAIN": GAIN}
    )  # fmt: skip


def sky(rng):
    """Stars of one width on a sky with Poisson noise."""
    stars = np.zeros((SIDE, SIDE))
    stars[rng.integers(20, SIDE - 20, 90), rng.integers(20, SIDE - 20, 90)] = 10 ** rng.uniform(3.5, 4.5, 90)
    image = gaussian_filter(stars, FWHM / 2.3548) + SKY
    return (rng.poisson(image * GAIN) / GAIN).astype(np.float32)


@pytest.fixture(scope="module")
def image():
    return sky(np.random.default_rng(3))


def write(path, image, **cards):
    head = header()
    for key, value in cards.items():
        if value is None:
            del head[key.replace("_", "-")]
        else:
            head[key.replace("_", "-")] = value
    fits.writeto(path, image, head)
    return path


def values(found):
    return {i.what: i.value for i in found.items if not i.state}


def wrong(found):
    return {i.what: (i.state, i.note, i.advice) for i in found.items if i.state}


def test_what_is_understood_of_a_frame(tmp_path, image):
    found = check_frame(write(tmp_path / "a.fits", image), Instrument(**RULES))
    assert found.usable
    seen = values(found)
    assert seen["HDU 0"] == f"PRIMARY: {SIDE} x {SIDE}, BITPIX -32"
    assert seen["midpoint, MJD TAI"] == pytest.approx(60341.0 + (3600.0 + 15.0 + 37.0) / 86400.0, abs=1e-9)
    assert (seen["visit"], seen["detector"], seen["band"]) == (24020103652, 0, "r")
    assert (seen["gain, e-/count"], seen["exposure time, s"]) == (GAIN, 30.0)
    assert seen["ids per visit"] == 2**20 - 1
    ra, dec = map(float, seen["centre, deg (ICRS)"].split())
    assert (ra, dec) == (pytest.approx(150.0, abs=1e-6), pytest.approx(2.0, abs=1e-6))
    assert seen["pixel scale, arcsec"] == pytest.approx(SCALE, abs=1e-4)
    assert seen["north, deg from +y to +x"] == pytest.approx(30.0, abs=0.01)
    assert seen["sky level, counts"] == pytest.approx(SKY, abs=2.0)  # the stars raise the median a little
    noise = np.sqrt(SKY / GAIN)
    assert seen["noise of the sky, counts"] == pytest.approx(
        noise, rel=0.05
    )  # of 100 000 pixels: 0.3 %; wings of stars
    assert seen["FWHM of stars, px"] == pytest.approx(FWHM, rel=0.03)
    assert set(wrong(found)) == {"saturation, counts"}


BAD = [
    ({"EXPTIME": None, "EXPOSURE": 30.0}, {}, "exposure time, s", "exposure_time: {key: EXPOSURE}"),
    ({"EXPTIME": -30.0}, {}, "exposure time, s", "exposure_time:"),
    ({"DATE_OBS": None, "MJD_OBS": 60341.0}, {}, "midpoint, MJD TAI", "midpoint: {key: MJD-OBS, format: mjd}"),
    ({"DATE_OBS": "yesterday"}, {}, "midpoint, MJD TAI", "midpoint:"),
    ({"FILTER": "Clear"}, {}, "band", "band_map: {Clear: r}"),
    ({"FILTER": None, "FILTER1": "r"}, {}, "band", "band: {key: FILTER1}"),
    ({"CTYPE1": None}, {}, "WCS", "WCS"),
    ({"GAIN": 0.0}, {}, "gain, e-/count", "gain:"),
    ({}, {"planes": {"variance": "WEIGHT"}}, "variance", "planes: {variance: null}"),
    ({}, {"ids": {"n_visits": 1000}}, "ids", "n_visits: 100000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("cards", "rules", "what", "advice"), BAD)
def test_what_is_missing_is_said_with_what_to_write(tmp_path, image, cards, rules, what, advice):
    found = check_frame(write(tmp_path / "a.fits", image, **cards), Instrument(**{**RULES, **rules}))
    assert not found.usable
    state, note, said = wrong(found)[what]
    assert state == "missing"
    assert note
    assert advice in said


def test_the_image_of_a_file_of_several_parts_is_the_one_that_is_read(tmp_path, image):
    parts = [fits.PrimaryHDU(), fits.ImageHDU(image, header(), name="SCI"), fits.ImageHDU(image, name="DQ")]
    fits.HDUList(parts).writeto(tmp_path / "one.fits")
    found = check_frame(tmp_path / "one.fits", Instrument(**RULES))
    assert found.usable, wrong(found)
    assert {i.what: i.source for i in found.items}["HDU 1"] == "read as image"
    parts = [fits.PrimaryHDU(), *(fits.ImageHDU(image, header(), name=f"CCD{k}") for k in (1, 2))]
    fits.HDUList(parts).writeto(tmp_path / "two.fits")
    several = check_frame(tmp_path / "two.fits", Instrument(**RULES))
    assert not several.usable
    assert wrong(several)["image"][1].startswith("which_image: two.fits holds 2 images")
    assert check_frame(tmp_path / "two.fits", Instrument(**RULES, planes={"image": "CCD2"})).usable
    assert check_frame(f"{tmp_path}/two.fits[CCD2]", Instrument(**RULES)).usable


def test_doubts_leave_a_frame_usable(tmp_path, image):
    bright = np.where(image > 2000, np.float32(2000.0), image)
    rules = Instrument(**{**RULES, "pixel_scale": 0.5, "gain": {"constant": 1.5}})
    found = check_frame(write(tmp_path / "a.fits", bright, SATURATE=2000.0), rules)
    assert found.usable
    doubts = wrong(found)
    assert doubts["pixel scale, arcsec"][2] == "pixel_scale: 0.4"
    assert doubts["saturation, counts"][2].startswith("saturation: {key: SATURATE}")
    assert doubts["largest value, counts"][2] == "saturation: {constant: 1900}"
    assert "gain, e-/count" in wrong(check_frame(tmp_path / "a.fits", Instrument(name="x", pixel_scale=SCALE)))


def test_on_the_command_line(tmp_path, image):
    (tmp_path / "cam.yaml").write_text(json.dumps(RULES))
    good, bad = write(tmp_path / "a.fits", image), write(tmp_path / "b.fits", image, EXPTIME=None)
    run = CliRunner().invoke
    done = run(app, ["instrument", "check", str(tmp_path / "cam.yaml"), str(good), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["usable"] is True
    refused = run(app, ["instrument", "check", str(tmp_path / "cam.yaml"), str(bad)])
    assert refused.exit_code == 1
    assert "write: exposure_time:" in refused.stdout
    assert "the frame cannot be used" in refused.stdout
    listed = json.loads(run(app, ["instrument", "list", "--json"], env={"ALERTPROD_INSTRUMENTS": str(tmp_path)}).stdout)
    assert listed["cam"] == str(tmp_path / "cam.yaml")
    assert "decam" in listed
    shown = json.loads(run(app, ["instrument", "show", str(tmp_path / "cam.yaml"), "--json"]).stdout)
    assert shown["gain"]["key"] == "GAIN"
    assert shown["exposure_time"]["key"] == "EXPTIME"


def test_a_bare_image_is_enough_for_a_pair(tmp_path):
    """What `alertprod diff` does without is no reason to call a frame unusable under its instrument."""
    rng = np.random.default_rng(5)
    image = rng.normal(300.0, 14.0, (300, 300))
    y, x = np.mgrid[:300, :300]
    for cx, cy in rng.uniform(20, 280, (40, 2)):
        image += 20000.0 / (2 * np.pi * 1.7) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3.4)
    wcs = SkyWcs.tan((149.5, 149.5), (150.0, 2.0), np.diag([-1.0, 1.0]) * 0.4 / 3600)
    path = tmp_path / "bare.fits"
    fits.PrimaryHDU(image.astype(np.float32), wcs.to_header((0, 0))).writeto(path)
    found = check_frame(path, load_instrument("generic"))
    assert found.usable, [i for i in found.items if i.state == "missing"]
    values = {item.what: item.value for item in found.items}
    assert values["FWHM of stars, px"] == pytest.approx(2.3548 * np.sqrt(1.7), rel=0.05)


def test_planes_of_several_images_are_shown_where_they_belong(tmp_path, image):
    """Of two versions of SCI and ERR the image that is named is read with its own errors."""
    parts = []
    for version in (1, 2):
        parts.append(fits.ImageHDU(image, header(), name="SCI", ver=version))
        parts.append(fits.ImageHDU(np.full_like(image, 14.0), name="ERR", ver=version))
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(tmp_path / "two.fits")
    rules = Instrument(**RULES | {"planes": {"image": "SCI", "sigma": "ERR"}})
    for version, (own, other) in ((1, (2, 4)), (2, (4, 2))):
        found = check_frame(Path(f"{tmp_path}/two.fits[SCI,{version}]"), rules)
        read = {i.what: i.source for i in found.items if i.what.startswith("HDU")}
        assert (read[f"HDU {own}"], read[f"HDU {other}"]) == ("read as sigma", "not read")
        assert read[f"HDU {2 * version - 1}"] == "read as image"
