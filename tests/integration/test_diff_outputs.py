"""What ``alertprod diff`` writes and says: header, packed files, table, pictures, the summary, refusals."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from matplotlib.image import imread
from typer.testing import CliRunner

from diffim.pictures.masks import KINDS
from exposure import Exposure
from exposure.errors import InstrumentError, WcsMissing
from exposure.io.writing import write_exposure
from service.commands.diff import summary
from service.commands.main import app
from service.errors import OutputError, SameImage
from service.pairs.output_checks import check_outputs
from tests.support.pairs import SIDE, make_pair, wcs


def run(folder, *words):
    return CliRunner().invoke(app, ["diff", str(folder / "new.fits"), str(folder / "old.fits"), *map(str, words)])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    truth = make_pair(folder)
    done = run(
        folder,
        "-o",
        folder / "out" / "d.fits",
        "--sources",
        folder / "s.Parquet",
        "--plots",
        folder / "p",
        "--json",
        "-c",
        "spatialKernelOrder=0",
    )
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.stdout), truth


def test_the_header_says_where_the_difference_comes_from(written):
    folder, report, _ = written
    with fits.open(folder / "out" / "d.fits") as hdus:
        hdus.verify("exception")
        header, image = hdus[0].header, hdus["IMAGE"].header
        assert (header["SCIFILE"], header["TMPFILE"]) == ("new.fits", "old.fits")
        assert header["SCISHA"] == hashlib.sha256((folder / "new.fits").read_bytes()).hexdigest()
        assert header["TMPSHA"] == hashlib.sha256((folder / "old.fits").read_bytes()).hexdigest()
        # 03:04:05 UTC and half of 30 s, 37 s behind TAI
        assert (header["TIMESYS"], header["DATE-AVG"]) == ("TAI", "2024-05-02T03:04:57.000")
        assert header["TMPDATE"] == "2024-03-01T02:00:52.000"
        assert header["MJD-AVG"] == pytest.approx(60432 + (3 * 3600 + 4 * 60 + 57) / 86400, abs=1e-8)
        assert (header["FILTER"], header["BAND"], header["TMPFILT"]) == ("r", "r", "g")
        assert (header["DIFFDIR"], header["ALIGNED"]) == ("convolveTemplate", "wcs")
        assert header["KERSUM"] == pytest.approx(1, abs=0.02)  # both images have one scale; 50 stars of S/N 30 to 300
        assert (header["KERORDER"], header["KERSTARS"]) == (0, report["nKernelUsed"])
        assert header["SCIFWHM"] == pytest.approx(3.2, abs=0.1)
        assert header["TMPFWHM"] == pytest.approx(2.8, abs=0.1)
        assert header["PIXSCALE"] == pytest.approx(0.4, rel=1e-4)
        assert re.match(r"alertprod \d", header["CREATOR"])
        history = "\n".join(header["HISTORY"])
        assert "option spatialKernelOrder = 0" in history
        assert "numpy" in history
        assert (image["BUNIT"], hdus["VARIANCE"].header["BUNIT"]) == ("adu", "(adu)**2")
        assert not [c for c in header if len(c) > 8]
        assert str(folder) not in header.tostring()
    assert Exposure.read_fits(folder / "out" / "d.fits").visit_info.midpoint_mjd_tai == header["MJD-AVG"]


def test_the_report_counts_and_sizes(written):
    folder, report, truth = written
    rows = pd.read_parquet(folder / "s.Parquet")
    assert report["nDiaSources"] == len(rows) >= len(truth.x)
    assert report["nBelowReliability"] == (rows.reliability < 0.5).sum()
    assert report["seeing"]["science"] == pytest.approx(1.28, abs=0.04)
    assert report["warnings"] == []
    line = summary(report | {"nDiaSources": 28, "nBelowReliability": 24})
    assert "28 sources, 24 of them below reliability 0.5" in line
    assert "kernel sum 1" in line or "kernel sum 0.9" in line
    assert "seeing 1.2" in line
    assert line.startswith("convolveTemplate: ")


def colours(path):
    return imread(path)[..., :3].reshape(-1, 3)


def has(pixels, colour):
    """How many pixels of a picture have a colour, to the rounding of a byte."""
    return int((np.abs(pixels - np.array(colour[:3])) < 0.01).all(1).sum())


def test_pictures_have_content_and_masked_pixels_their_colours(written):
    folder, report, _ = written
    made = {p.rsplit("/", 1)[1] for p in report["plots"]}
    assert made == {f"{n}.png" for n in ("difference", "noise", "psf", "kernel", "stars", "sources")}
    kinds = {k.name: k.colour for k in KINDS}
    difference, sources = colours(folder / "p" / "difference.png"), colours(folder / "p" / "sources.png")
    # a bad column and its spread through the kernel: of 260 px, drawn more than 700 dots high
    assert has(difference, kinds["bad"]) > 700
    assert has(difference, kinds["no data"]) > 700  # the rim
    assert has(difference, (1.0, 215 / 255, 0.0)) > 50  # circles in gold
    assert has(sources, kinds["saturated"]) > 100  # 18 pixels in the stamp of a source, and in the legend
    assert has(sources, kinds["cosmic ray"]) == 0  # there is none: it is not in the legend
    for name in made:
        pixels = colours(folder / "p" / name)
        assert len(np.unique((pixels * 255).astype(np.int64) @ [65536, 256, 1])) > 50, name
    assert len(np.unique(sources[(np.ptp(sources, axis=1) < 0.01), 0])) > 100  # greys of stamps


def test_packed_files_are_read_again_and_equal_inputs_give_equal_bytes(written, tmp_path):
    folder, _, _ = written
    exposure = Exposure.read_fits(folder / "out" / "d.fits")
    for name in ("d.fits.gz", "d.fits.FZ", "d.fits.bz2", "d.fits.xz"):
        write_exposure(exposure, tmp_path / name, unit="adu")
        again = Exposure.read_fits(tmp_path / name)
        assert np.array_equal(again.image, exposure.image, equal_nan=True)
        assert np.array_equal(again.mask, exposure.mask)
        write_exposure(exposure, tmp_path / f"x{name}", unit="adu")
        assert (tmp_path / name).read_bytes() == (tmp_path / f"x{name}").read_bytes()
    assert (tmp_path / "d.fits.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_the_same_command_writes_the_same_bytes(written, tmp_path):
    folder, _, _ = written
    done = run(folder, "-o", tmp_path / "d.fits", "--sources", tmp_path / "s.parquet", "-c", "spatialKernelOrder=0")
    assert done.exit_code == 0, done.output
    assert "below reliability 0.5" in done.stdout
    assert (tmp_path / "d.fits").read_bytes() == (folder / "out" / "d.fits").read_bytes()
    assert (tmp_path / "s.parquet").read_bytes() == (folder / "s.Parquet").read_bytes()


def test_the_same_image_and_a_missing_wcs_are_said(written, tmp_path):
    folder, _, _ = written
    done = CliRunner().invoke(app, ["diff", *[str(folder / "new.fits")] * 2, "-o", str(tmp_path / "d.fits")])
    assert isinstance(done.exception, SameImage)
    make_pair(tmp_path, with_wcs=False)
    done = run(tmp_path, "-o", tmp_path / "d.fits")
    assert isinstance(done.exception, WcsMissing)
    assert all(word in str(done.exception) for word in ("new.fits", "--register ", "--registered"))
    assert not (tmp_path / "d.fits").exists()


def test_a_given_map_of_bad_pixels_is_used_and_recorded(written, tmp_path):
    """A block of bad pixels: nothing is known there, and no source is found, though a transient lies in it."""
    folder, _, truth = written
    pixels = np.zeros((SIDE, SIDE), np.int16)
    x, y = round(truth.x[0]), round(truth.y[0])
    pixels[y - 15 : y + 16, x - 15 : x + 16] = 1
    given = tmp_path / "map.fits"
    fits.writeto(given, pixels)
    outputs = ("-o", tmp_path / "d.fits", "--sources", tmp_path / "s.parquet")
    done = run(folder, *outputs, "--bad-pixels", given, "-c", "spatialKernelOrder=0")
    assert done.exit_code == 0, done.output
    with fits.open(tmp_path / "d.fits") as hdus:
        header = hdus[0].header
        assert header["BPMFILE"] == "map.fits"
        assert header["BPMSHA"] == hashlib.sha256(given.read_bytes()).hexdigest()
    assert Exposure.read_fits(tmp_path / "d.fits").flagged("BAD")[y - 10 : y + 11, x - 10 : x + 11].all()
    with fits.open(folder / "out" / "d.fits") as hdus:
        assert "BPMFILE" not in hdus[0].header
    seen = [pd.read_parquet(p) for p in (folder / "s.Parquet", tmp_path / "s.parquet")]
    near = [int((np.hypot(t.x - truth.x[0], t.y - truth.y[0]) < 3).sum()) for t in seen]
    assert near == [1, 0]


def test_a_map_that_does_not_fit_is_refused_before_anything_is_written(written, tmp_path):
    folder, _, _ = written
    fits.writeto(tmp_path / "small.fits", np.zeros((10, 20), np.uint8))
    for given, words in (
        (tmp_path / "small.fits", "small.fits is of 20 x 10 px"),
        (tmp_path / "none.fits", "none.fits cannot be read (no such file)"),
    ):
        done = run(folder, "-o", tmp_path / "d.fits", "--bad-pixels", given)
        assert isinstance(done.exception, InstrumentError)
        assert words in str(done.exception)
        assert not (tmp_path / "d.fits").exists()


def test_a_registered_pair_keeps_its_grid(written):
    folder, _, _ = written
    assert Exposure.read_fits(folder / "out" / "d.fits").require_wcs().same_as(wcs(), [10.0, 200.0], [40.0, 220.0])


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({"-o": "new.fits"}, "over the input"), ({"-o": "link.fits"}, "over"), ({"-o": "folder"}, "is a folder"),
        ({"-o": "new.fits/d.fits"}, "cannot be written"), ({"-o": "d.fits.zip"}, "not as .zip"),
        ({"-o": "d.fits", "--score": "d.fits"}, "over the output"), ({"-o": "d.fits", "--sources": "s.dat"}, "ends in none"),
        ({"-o": "d.fits", "--plots": "old.fits"}, "cannot be written"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_are_refused_before_anything_is_read(tmp_path, outputs, told):
    for name in ("new.fits", "old.fits"):
        (tmp_path / name).write_text("no FITS at all: whoever reads it fails")
    (tmp_path / "link.fits").symlink_to(tmp_path / "new.fits")
    (tmp_path / "folder").mkdir()
    done = run(tmp_path, *[word for option, name in outputs.items() for word in (option, tmp_path / name)])
    assert isinstance(done.exception, OutputError), done.exception
    assert told in str(done.exception)
    assert (tmp_path / "new.fits").read_text().startswith("no FITS")


def test_an_input_with_an_extension_is_an_input(tmp_path):
    (tmp_path / "m.fits").write_text("")
    from service.pairs.output_checks import file_of

    assert file_of(tmp_path / "m.fits[2]") == tmp_path / "m.fits"
    with pytest.raises(OutputError, match="over the input"):
        check_outputs([file_of(tmp_path / "m.fits[2]")], [tmp_path / "m.fits"])


def test_a_file_stays_until_the_new_one_is_whole(written, tmp_path):
    folder, _, _ = written
    exposure = Exposure.read_fits(folder / "out" / "d.fits")
    (tmp_path / "d.fits").write_text("before")
    exposure.psf = object()  # nothing that FITS can hold
    with pytest.raises(TypeError):
        write_exposure(exposure, tmp_path / "d.fits")
    assert (tmp_path / "d.fits").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1
