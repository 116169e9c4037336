"""A map of bad pixels that a command is given counts instead of the instrument's, is recorded, and is checked first."""

import hashlib
import json

import numpy as np
import pytest
import yaml
from astropy.io import fits
from typer.testing import CliRunner

from exposure import load_instrument
from exposure.errors import InstrumentError
from exposure.flagging.bad_pixels import map_files
from exposure.instrument import instrument_files
from exposure.io.native import read_exposure, read_planes
from service.commands.main import app
from service.frames.given_map import check_fits_some, maps_of, with_bad_pixels
from service.local.night import NightPlan, run_night
from service.pairs.facts import facts_of
from service.processing.instruments import checked_instrument, instrument_folder

WIDTH, HEIGHT = 50, 40


def frame(path, width=WIDTH, height=HEIGHT):
    header = fits.Header({"DATE-OBS": "2024-01-01T01:00:00", "EXPTIME": 30.0, "FILTER": "r"})
    pixels = np.random.default_rng(1).normal(100.0, 5.0, (height, width)).astype(np.float32)
    fits.writeto(path, pixels, header)
    return path


def bpm(path, *bad, width=WIDTH, height=HEIGHT):
    pixels = np.zeros((height, width), np.uint8)
    for x, y in bad:
        pixels[y, x] = 1
    fits.writeto(path, pixels)
    return path


@pytest.fixture
def camera(tmp_path):
    (tmp_path / "cam.yaml").write_text(
        "name: cam\npixel_scale: 0.4\nvariance: empirical\ngain: {constant: 1.5}\nbad_pixels: [{column: 3}]\n"
    )
    return str(tmp_path / "cam.yaml")


def marked(exposure):
    """Return (x, y) of the pixels that are BAD."""
    return [(int(x), int(y)) for y, x in np.argwhere(exposure.flagged("BAD"))]


def test_a_given_map_counts_instead_of_the_instruments(tmp_path, camera):
    given = bpm(tmp_path / "map.fits", (7, 9), (8, 9))
    rules = with_bad_pixels(load_instrument(camera), given)
    assert marked(read_planes(frame(tmp_path / "f.fits"), rules)) == [(7, 9), (8, 9)]
    assert load_instrument(camera).bad_pixels[0].column == 3  # the file's own stay as they were
    assert with_bad_pixels(rules, None) is rules


def test_an_extension_and_lists_of_regions_can_be_given(tmp_path, camera):
    maps = tmp_path / "two.fits"
    other = fits.ImageHDU(np.zeros((HEIGHT, WIDTH), np.uint8), name="CCD2")
    other.data[4, 5] = 1
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((HEIGHT, WIDTH), np.uint8)), other]).writeto(maps)
    bare = tmp_path / "list.yaml"
    bare.write_text("- {point: [1, 2]}\n- {file: two.fits, hdu: CCD2}\n")
    named = tmp_path / "named.yml"
    named.write_text("bad_pixels: [{point: [1, 2]}]\n")
    image = frame(tmp_path / "f.fits")
    for given, expected in (
        (tmp_path / "two.fits[CCD2]", [(5, 4)]),
        (bare, [(1, 2), (5, 4)]),
        (named, [(1, 2)]),
    ):
        rules = with_bad_pixels(load_instrument(camera), given)
        assert marked(read_planes(image, rules)) == expected
    assert map_files(with_bad_pixels(load_instrument(camera), bare)) == (str(bare), str(maps))


def test_a_given_map_holds_for_exposures_in_our_own_layout(tmp_path, camera):
    """Without it only those that the instrument made are marked by the instrument's own map."""
    rules = load_instrument("generic")
    plain = read_planes(frame(tmp_path / "f.fits"), rules)
    plain.write_fits(tmp_path / "native.fits")
    given = with_bad_pixels(rules, bpm(tmp_path / "map.fits", (7, 9)))
    assert marked(read_exposure(tmp_path / "native.fits", load_instrument(camera))) == []
    assert marked(read_exposure(tmp_path / "native.fits", given)) == [(7, 9)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.fits", None, r"none\.fits cannot be read \(no such file\)"),
        ("text.fits", "no FITS at all", r"text\.fits cannot be read"),
        ("list.yaml", "{column: 3}", "expected a list of regions"),
        ("list.yaml", "[{colum: 3}]", r"list\.yaml cannot be used.*colum"),
        ("list.yaml", "[{file: none.fits}]", r"none\.fits cannot be read"),
        ("list.yaml", "- [", r"list\.yaml cannot be used"),
    ],
)
def test_a_file_that_is_no_map_is_refused(tmp_path, camera, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InstrumentError, match=f"(?s){message}"):
        with_bad_pixels(load_instrument(camera), tmp_path / name)


def test_tables_and_cubes_and_missing_extensions_are_no_maps(tmp_path, camera):
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("x", "J", array=[1])])]).writeto(
        tmp_path / "table.fits"
    )
    for given, message in (("table.fits", "holds no image"), ("table.fits[7]", "cannot be read")):
        with pytest.raises(InstrumentError, match=message):
            with_bad_pixels(load_instrument(camera), tmp_path / given)


def test_one_frame_that_a_map_fits_is_enough(tmp_path, camera):
    rules = with_bad_pixels(load_instrument(camera), bpm(tmp_path / "map.fits", (7, 9)))
    good, small = frame(tmp_path / "good.fits"), frame(tmp_path / "small.fits", 20, 10)
    (tmp_path / "text.fits").write_text("no FITS at all")
    check_fits_some(rules, [tmp_path / "text.fits", small, good])
    check_fits_some(rules, [tmp_path / "text.fits"])  # nothing to compare with
    with pytest.raises(InstrumentError, match=r"map\.fits is of 50 x 40 px, small\.fits of 20 x 10"):
        check_fits_some(rules, [tmp_path / "text.fits", small])


def test_a_night_with_a_wrong_map_is_refused_before_anything_is_made(tmp_path, camera):
    image, out = frame(tmp_path / "f.fits"), tmp_path / "out"
    wrong = bpm(tmp_path / "wrong.fits", width=20, height=10)
    for given, message in ((wrong, "20 x 10 px"), (tmp_path / "none.fits", "no such file"), (image.parent, "no such")):
        plan = NightPlan(camera, [image], [image], out, bad_pixels=given)
        with pytest.raises(InstrumentError, match=message):
            run_night(plan)
    assert not out.exists()


def test_children_of_a_night_read_the_instrument_with_the_given_map(tmp_path, camera, monkeypatch):
    """Also an instrument that is known by name; what its file leaves open is still open there."""
    monkeypatch.delenv("ALERTPROD_INSTRUMENTS", raising=False)
    given = bpm(tmp_path / "map.fits", (7, 9))
    for number, name in enumerate([camera, *sorted(instrument_files())]):
        rules = checked_instrument(name, given)
        folder = tmp_path / str(number)
        known, environment = instrument_folder(name, folder, rules)
        monkeypatch.setenv("ALERTPROD_INSTRUMENTS", environment["ALERTPROD_INSTRUMENTS"])
        again = load_instrument(known)
        monkeypatch.delenv("ALERTPROD_INSTRUMENTS")
        assert again == rules
        assert again.model_fields_set == rules.model_fields_set
        assert again.midpoint.model_fields_set == rules.midpoint.model_fields_set
        assert yaml.safe_load((folder / f"{known}.yaml").read_text())["bad_pixels_from"] == str(given)


def test_the_map_is_recorded(tmp_path, camera):
    given = bpm(tmp_path / "map.fits", (7, 9))
    sha = hashlib.sha256(given.read_bytes()).hexdigest()
    rules = with_bad_pixels(load_instrument(camera), given)
    image = frame(tmp_path / "f.fits")
    facts = facts_of(read_planes(image, rules), rules, "f.fits")
    assert dict(facts.maps) == {"BPMFILE": "map.fits", "BPMSHA": sha}
    assert maps_of(rules) == [{"file": str(given), "sha256": sha}]
    bare = load_instrument("generic")
    assert len(facts_of(read_planes(image, bare), bare, "f.fits").maps) == 0
    assert maps_of(bare) == []


def test_the_check_of_an_instrument_takes_a_map(tmp_path, camera):
    image = frame(tmp_path / "f.fits")
    given = bpm(tmp_path / "map.fits", *((x, y) for x in range(10) for y in range(20)))
    said = CliRunner().invoke(app, ["instrument", "check", camera, str(image), "--bad-pixels", str(given), "--json"])
    shares = {i["what"]: i["value"] for i in json.loads(said.stdout)["findings"]}
    assert shares["share of BAD"] == "10.00 %"
    wrong = bpm(tmp_path / "wrong.fits", width=20, height=10)
    said = CliRunner().invoke(app, ["instrument", "check", camera, str(image), "--bad-pixels", str(wrong)])
    assert said.exit_code == 1
    assert "instrument: the bad-pixel map" in said.stdout
    assert "20 x 10 px" in said.stdout
