"""Before a night starts: bad frames are left out, every exposure has a number of its own, options of tasks are checked."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from exposure import Instrument
from exposure.errors import InstrumentError
from service.errors import BadMessage
from service.intake.message import parse_message
from service.local.night_frames import read_frames
from service.processing.instruments import checked_instrument, instrument_folder

MYCAM = {"name": "mycam", "pixel_scale": 0.4, "detector": {"key": "CCD"}, "ids": {"n_detectors": 8}}


def rules(**more):
    return Instrument.model_validate({**MYCAM, **more})


def frame(folder, name, time, detector=0, **cards):
    header = fits.Header({"DATE-OBS": time, "EXPTIME": 30.0, "FILTER": "r", "CCD": detector, **cards})
    fits.PrimaryHDU(np.zeros((8, 8), np.float32), header).writeto(folder / name)
    return folder / name


def numbers(frames):
    return {f.path.name: (f.visit, f.detector) for f in frames}


def read(paths, instrument=None):
    return read_frames(paths, instrument or rules(), lambda text: None)


def test_frames_within_a_second_are_visits_of_their_own(tmp_path):
    """30 s exposures: 01:00:00 UTC begins at 01:00:37 TAI, the middle is 3652 s into the day."""
    made = [
        frame(tmp_path, "b.fits", "2024-02-01T01:00:00.700"), frame(tmp_path, "a.fits", "2024-02-01T01:00:00.700"),
        frame(tmp_path, "c.fits", "2024-02-01T01:00:00.100"), frame(tmp_path, "d.fits", "2024-02-01T01:00:01.000"),
        frame(tmp_path, "e.fits", "2024-02-01T01:01:00.000"),
    ]  # fmt: skip
    expected = {"c.fits": 24020103652, "a.fits": 24020103653, "b.fits": 24020103654, "d.fits": 24020103655,
                "e.fits": 24020103712}  # fmt: skip
    for seed in range(4):
        random.Random(seed).shuffle(made)
        frames, left = read(made)
        assert left == []
        assert {k: v for k, (v, _) in numbers(frames).items()} == expected
        assert [f.mjd for f in frames] == sorted(f.mjd for f in frames)


def test_detectors_of_an_exposure_share_its_number(tmp_path):
    made = [
        frame(tmp_path, f"{name}{ccd}.fits", f"2024-02-01T01:00:00.{tenth}", ccd)
        for name, tenth in (("x", 1), ("y", 7))
        for ccd in (0, 1, 2)
        if (name, ccd) != ("x", 1)
    ]
    frames, _ = read(made)
    first, second = 24020103652, 24020103653
    assert numbers(frames) == {
        "x0.fits": (first, 0),
        "x2.fits": (first, 2),
        "y0.fits": (second, 0),
        "y1.fits": (second, 1),
        "y2.fits": (second, 2),
    }


def test_after_the_last_second_comes_the_next_day_and_13_digits_hold(tmp_path):
    made = [frame(tmp_path, f"{k}.fits", "2024-12-31T23:59:07.5") for k in range(2)]  # the middle: 23:59:59.5 TAI
    assert numbers(read(made)[0]) == {"0.fits": (24123186399, 0), "1.fits": (25010100000, 0)}
    long = rules(visit_rule="yyyymmddsssss", ids={"n_visits": 10**13, "n_detectors": 8})
    frames, left = read(made, long)
    assert left == []
    assert numbers(frames) == {"0.fits": (2024123186399, 0), "1.fits": (2025010100000, 0)}
    small = rules(ids={"n_visits": 1000, "n_detectors": 8})
    frames, left = read(made, small)
    assert frames == []
    assert all("id sizes" in x.reason for x in left)


def test_a_frame_given_twice_is_one_visit(tmp_path, monkeypatch):
    one = frame(tmp_path, "a.fits", "2024-02-01T01:00:00")
    (tmp_path / "link.fits").symlink_to(one)
    os.link(one, tmp_path / "hard.fits")
    monkeypatch.chdir(tmp_path)
    said = []
    frames, left = read_frames([one, Path("a.fits"), Path("link.fits"), Path("hard.fits")], rules(), said.append)
    assert (len(frames), left) == (1, [])
    assert len(said) == 3 and all("given twice" in text for text in said)


def test_numbers_out_of_headers_are_not_changed(tmp_path):
    by_header = rules(visit={"key": "EXPID"})
    made = [frame(tmp_path, f"{k}.fits", f"2024-02-01T01:0{k}:00", EXPID=7) for k in range(2)]
    frames, left = read(made, by_header)
    assert numbers(frames) == {"0.fits": (7, 0)}
    assert [(x.code, x.visit) for x in left] == [("duplicate_visit", 7)]
    assert "0.fits has already" in left[0].reason


def test_bad_frames_are_left_out_with_the_reason(tmp_path):
    good = frame(tmp_path, "good.fits", "2024-02-01T01:00:00")
    (tmp_path / "text.fits").write_text("no FITS at all")
    (tmp_path / "cut.fits").write_bytes(good.read_bytes()[:3000])
    frame(tmp_path, "date.fits", "yesterday")
    fits.PrimaryHDU(np.zeros((8, 8), np.float32)).writeto(tmp_path / "bare.fits")
    odd = frame(tmp_path, "odd.fits", "2024-02-01T02:00:00")
    odd.write_bytes(odd.read_bytes().replace(b"EXPTIME =                 30.0", b"EXPTIME =                 30,0"))
    (tmp_path / "folder.fits").mkdir()
    frames, left = read([*sorted(tmp_path.iterdir()), tmp_path / "missing.fits"])
    assert list(numbers(frames)) == ["good.fits"]
    codes = {x.path.name: x.code for x in left}
    assert set(codes) == {"text.fits", "cut.fits", "date.fits", "bare.fits", "odd.fits", "folder.fits", "missing.fits"}
    assert not set(codes.values()) & {"internal", ""}
    assert all(x.reason for x in left)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("ImageDiferenceTask: {kernelSize: 21}", "no such task.*ImageDifferenceTask"),
        ("ImageDifferenceTask: {kernelSise: 21}", "kernelSise.*did you mean kernelSize"),
        ("ImageDifferenceTask: {kernelSize: large}", "kernelSize"),
        ("ImageDifferenceTask: {kernelSize: -3}", "kernelSize"),
        ("ImageDifferenceTask: {mode: sideways}", "mode"),
        ("DiaPipelineTask: {maxDistArcSeconds: [1]}", "maxDistArcSeconds"),
        ("DiaPipelineTask: {maxDistArcSeconds: null}", "maxDistArcSeconds"),
        ("DiaPipelineTask: 5", "wrong"),
        ("DiaPipelineTask: {sub.field: 5}", "sub"),
    ],
)
def test_options_of_tasks_are_checked_with_the_file(tmp_path, config, said):
    file = tmp_path / "cam.yaml"
    file.write_text(f"name: cam\npixel_scale: 1\ntask_config:\n  {config}\n")
    with pytest.raises(InstrumentError, match=said) as caught:
        checked_instrument(str(file))
    assert "cam.yaml" in str(caught.value)
    assert "\n" not in str(caught.value) or said == "wrong"


def test_options_that_only_go_together_are_taken_together(tmp_path):
    file = tmp_path / "cam.yaml"
    file.write_text(
        "name: cam\npixel_scale: 1\ntask_config:\n"
        "  ImageDifferenceTask: {subtractAlgorithm: ZOGY, doDecorrelation: false, kernelSize: 21}\n"
    )
    assert checked_instrument(str(file)).task_config["ImageDifferenceTask"]["kernelSize"] == 21
    file = tmp_path / "apart.yaml"
    file.write_text("name: a\npixel_scale: 1\ntask_config: {ImageDifferenceTask: {subtractAlgorithm: ZOGY}}\n")
    with pytest.raises(InstrumentError, match="doDecorrelation"):
        checked_instrument(str(file))


def test_shipped_instruments_pass():
    for name in ("generic", "hatp32", "simcam", "decam"):
        assert checked_instrument(name).name


def test_an_instrument_by_path_has_a_name_for_the_messages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", "/elsewhere")
    (tmp_path / "my cam.yml").write_text("name: mine\npixel_scale: 0.3\n")
    name, environment = instrument_folder("./my cam.yml", tmp_path / "for children", checked_instrument("./my cam.yml"))
    assert name == "my_cam"
    folders = environment["ALERTPROD_INSTRUMENTS"].split(os.pathsep)
    assert folders == [str(tmp_path / "for children"), "/elsewhere"]
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", environment["ALERTPROD_INSTRUMENTS"])
    assert checked_instrument(name).pixel_scale == 0.3
    assert instrument_folder("hatp32", tmp_path / "none", checked_instrument("hatp32")) == ("hatp32", {})
    for path in ("cam.yaml", "CAM.YML", "../cam.yaml", "/etc/passwd"):
        with pytest.raises(BadMessage, match="instrument"):
            parse_message({"instrument": path, "science": "/x.fits"})


def mosaic(folder, name, time, numbers, **primary):
    """A frame with an image for each number, which stands in its own header; time and filter are in the primary one."""
    head = fits.Header({"DATE-OBS": time, "EXPTIME": 30.0, "FILTER": "r", **primary})
    parts = [fits.ImageHDU(np.zeros((8, 8), np.float32), name=f"CHIP{k}") for k in range(len(numbers))]
    for part, number in zip(parts, numbers, strict=True):
        if number is not None:
            part.header["CCD"] = number
    fits.HDUList([fits.PrimaryHDU(header=head), *parts]).writeto(folder / name)
    return folder / name


def test_each_image_of_a_mosaic_is_a_detector_of_its_own(tmp_path):
    made = [
        mosaic(tmp_path, "a.fits", "2024-02-01T01:00:00", [3, 1, 2]),
        mosaic(tmp_path, "b.fits", "2024-02-01T01:01:00", [3, 1, None]),
        frame(tmp_path, "c.fits", "2024-02-01T01:02:00", 5),
    ]
    frames, left = read(made)
    first, second, third = 24020103652, 24020103712, 24020103772
    assert numbers(frames) == {
        "a.fits[CHIP1]": (first, 1),
        "a.fits[CHIP2]": (first, 2),
        "a.fits[CHIP0]": (first, 3),
        "b.fits[CHIP1]": (second, 1),
        "b.fits[CHIP0]": (second, 3),
        "c.fits": (third, 5),
    }
    assert [(x.path.name, x.code) for x in left] == [("b.fits[CHIP2]", "instrument")]
    assert "CCD" in left[0].reason
    assert frames[0].message("mycam")["science"] == str(tmp_path / "a.fits[CHIP1]")
    one, none = read([Path(f"{made[0]}[CHIP2]"), Path(f"{made[0]}[2]"), Path(f"{made[0]}[CHIP2]")])
    assert ({f.detector for f in one}, none) == ({2, 1}, [])
    alone, none = read(made[:1], rules(planes={"image": "CHIP1"}))
    assert (numbers(alone), none) == ({"a.fits": (first, 1)}, [])


@pytest.mark.parametrize(
    ("primary", "more", "said"),
    [({"CCD": 4}, {}, "now CCD"), ({}, {"detector": {"constant": 0}}, "it names none")],
)
def test_images_of_a_file_that_share_a_detector_are_refused(tmp_path, primary, more, said):
    path = mosaic(tmp_path, "a.fits", "2024-02-01T01:00:00", [None, None], **primary)
    frames, left = read([path], rules(**more))
    assert frames == []
    assert [(x.path, x.code) for x in left] == [(path, "which_image")]
    assert said in left[0].reason and "planes.image" in left[0].reason
