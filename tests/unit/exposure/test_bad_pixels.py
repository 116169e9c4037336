"""Bad pixels of an instrument file: maps and regions, on every way a frame is read."""

import numpy as np
import pytest
from astropy.io import fits

from exposure import Exposure, GaussianPsf, SkyWcs, VisitInfo, load_instrument
from exposure.errors import InstrumentError
from exposure.flagging.bad_pixels import BadPixelMap, write_bad_pixel_map
from exposure.io.native import read_planes

HEIGHT, WIDTH = 40, 50


def instrument(tmp_path, lines, name="cam"):
    (tmp_path / f"{name}.yaml").write_text(
        "name: cam\npixel_scale: 1\nexposure_time: {constant: 30}\nmidpoint: {key: DATE-OBS}\nband: {constant: r}\n"
        "detector: {key: CCD}\nsaturation: {constant: 900}\nids: {n_detectors: 9}\n" + lines
    )
    return load_instrument(str(tmp_path / f"{name}.yaml"))


def frame(tmp_path, ccd=1):
    header = SkyWcs.tan((20.0, 20.0), (150.0, 2.0), [[-1e-4, 0], [0, 1e-4]]).to_header()
    header.update({"DATE-OBS": "2024-01-01T00:00:00", "CCD": ccd})
    if ccd is None:
        del header["CCD"]
    data = np.random.default_rng(1).normal(100, 3, (HEIGHT, WIDTH)).astype(np.float32)
    path = tmp_path / f"frame{ccd}.fits"
    fits.writeto(path, data, header, overwrite=True)
    return path


def expected(*slices):
    out = np.zeros((HEIGHT, WIDTH), bool)
    for y, x in slices:
        out[y, x] = True
    return out


@pytest.mark.parametrize(
    ("lines", "right"),
    [
        ("bad_pixels: [{point: [3, 7]}]", [(7, 3)]),
        ("bad_pixels: [{points: [[3, 7], [49, 39]]}]", [(7, 3), (39, 49)]),
        ("bad_pixels: [{column: 0}]", [(slice(None), 0)]),
        ("bad_pixels: [{columns: [4, 6]}, {row: 2}]", [(slice(None), slice(4, 7)), (2, slice(None))]),
        ("bad_pixels: [{rows: [38, 60]}]", [(slice(38, None), slice(None))]),
        ("bad_pixels: [{box: [10, 20, 12, 21]}]", [(slice(20, 22), slice(10, 13))]),
        ("bad_pixels: [{detector: 2, column: 5}, {detector: 1, column: 6}]", [(slice(None), 6)]),
        ("bad_pixels:", []),
    ],
)
def test_regions_are_bad_however_the_frame_is_read(tmp_path, lines, right):
    rules = instrument(tmp_path, lines)
    for exposure in (Exposure.read_fits(frame(tmp_path), rules), read_planes(frame(tmp_path), rules)):
        assert np.array_equal(exposure.flagged("BAD"), expected(*right))


def learned(bad):
    return BadPixelMap(bad.astype(np.uint8), *(np.where(bad, v, np.nan).astype(np.float32) for v in (5, 1)))


def test_map_lies_beside_the_instrument_file(tmp_path):
    bad = expected((7, 3), (30, slice(10, 20)))
    (tmp_path / "maps").mkdir()
    write_bad_pixel_map(tmp_path / "maps" / "m.fits", {1: learned(bad), 2: learned(~bad)})
    rules = instrument(tmp_path, "bad_pixels: maps/m.fits")
    assert np.array_equal(Exposure.read_fits(frame(tmp_path), rules).flagged("BAD"), bad)
    assert np.array_equal(Exposure.read_fits(frame(tmp_path, ccd=2), rules).flagged("BAD"), ~bad)
    with pytest.raises(InstrumentError, match="detector 3"):
        Exposure.read_fits(frame(tmp_path, ccd=3), rules)
    again = expected((1, 1))
    write_bad_pixel_map(tmp_path / "maps" / "m.fits", {1: learned(again)})
    assert np.array_equal(read_planes(frame(tmp_path), rules).flagged("BAD"), again)


def test_any_image_that_is_not_zero_is_a_map(tmp_path):
    bad = expected((5, 6))
    fits.writeto(tmp_path / "m.fits.gz", np.where(bad, np.nan, 0).astype(np.float32))
    rules = instrument(tmp_path, "bad_pixels: [{file: m.fits.gz}, {point: [0, 0]}]")
    assert np.array_equal(read_planes(frame(tmp_path, ccd=None), rules).flagged("BAD"), bad | expected((0, 0)))


def test_native_exposures_of_the_instrument_have_its_bad_pixels(tmp_path):
    rules = instrument(tmp_path, "bad_pixels: [{column: 5}]")
    data = np.ones((HEIGHT, WIDTH), np.float32)
    for name, origin, right in (
        ("cam", (0, 0), expected((slice(None), 5))),
        ("cam", (-2, 3), expected((slice(None), 7))),
        ("cam", (30, 0), expected()),
        ("other", (0, 0), expected()),
    ):
        made = Exposure(
            data,
            data.copy(),
            np.zeros(data.shape, np.int32),
            origin=origin,
            psf=GaussianPsf(1.5, 15),
            visit_info=VisitInfo(1, 1, 60000.0, 30.0, instrument=name),
        )
        made.write_fits(tmp_path / "n.fits")
        for exposure in (Exposure.read_fits(tmp_path / "n.fits", rules), read_planes(tmp_path / "n.fits", rules)):
            assert np.array_equal(exposure.flagged("BAD"), right), (name, origin)
        assert not Exposure.read_fits(tmp_path / "n.fits").flagged("BAD").any()


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("bad_pixels: [{point: [3, -1]}]", "point"),
        ("bad_pixels: [{columns: [7, 3]}]", "ends before it begins"),
        ("bad_pixels: [{column: 3, row: 4}]", "exactly one"),
        ("bad_pixels: [{detector: 1}]", "exactly one"),
        ("bad_pixels: [{hdu: 1, row: 4}]", "hdu goes with file"),
        ("bad_pixels: [{colum: 3}]", "colum"),
    ],
)
def test_wrong_entries_are_refused_with_the_file(tmp_path, lines, text):
    with pytest.raises(InstrumentError, match=text):
        instrument(tmp_path, lines)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ("bad_pixels: nowhere.fits", r"nowhere\.fits cannot be read"),
        ("bad_pixels: cam.yaml", r"cam\.yaml cannot be read"),
        ("bad_pixels: [{file: small.fits}]", r"small\.fits is of 5 x 4 px, frame1\.fits of 50 x 40"),
        ("bad_pixels: [{file: two.fits}]", "2 images"),
        ("bad_pixels: [{file: two.fits, hdu: 7}]", "no extension 7"),
        ("bad_pixels: [{column: 50}]", r"outside of frame1\.fits"),
    ],
)
def test_what_does_not_fit_the_frame_is_said(tmp_path, lines, text):
    fits.writeto(tmp_path / "small.fits", np.zeros((4, 5), np.uint8))
    two = [fits.PrimaryHDU(), *(fits.ImageHDU(np.zeros((HEIGHT, WIDTH), np.uint8)) for _ in range(2))]
    fits.HDUList(two).writeto(tmp_path / "two.fits")
    rules = instrument(tmp_path, lines)
    with pytest.raises(InstrumentError, match=text):
        Exposure.read_fits(frame(tmp_path), rules)


def test_regions_by_detector_ask_for_the_detector(tmp_path):
    rules = instrument(tmp_path, "bad_pixels: [{detector: 1, column: 5}]")
    with pytest.raises(InstrumentError, match="go by detector"):
        read_planes(frame(tmp_path, ccd=None), rules)
