"""``alertprod diff --all-images``: every image of a mosaic with its own partner, judged by the transients that are in it."""

import json

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from exposure import Exposure
from service.commands.main import app
from service.errors import OutputError
from tests.support import any_image as made

FAST = ("-c", "kernelSize=15", "-c", "spatialKernelOrder=0")


@pytest.fixture(scope="module")
def scenes():
    """Two fields with other stars, and transients at the same places."""
    return made.scene(seed=3), made.scene(seed=8)


def hdu(image, name=None, **cards):
    return fits.ImageHDU(image, made.tan() | cards, name=name)


def write(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


@pytest.fixture(scope="module")
def mosaic(tmp_path_factory, scenes):
    """CCD1 and CCD2 with partners in another order, CCD3 without a good pixel, CCD4 alone."""
    folder = tmp_path_factory.mktemp("mosaic")
    one, two = scenes
    nothing = np.full_like(one.new, np.nan)
    write(folder / "new.fits", hdu(one.new, "CCD1"), hdu(two.new, "ccd2"), hdu(nothing, "CCD3"), hdu(two.new, "CCD4"))
    write(folder / "old.fits", hdu(two.old, "CCD2"), hdu(one.old, "CCD3"), hdu(one.old, "CCD1"))
    return folder


@pytest.fixture
def talkative(monkeypatch):
    """A library says a word for each pair."""
    from astropy import log

    from service.pairs import difference as diff

    usual = diff.prepare_pair

    def prepare(*given):
        log.info("a word of astropy")
        return usual(*given)

    monkeypatch.setattr(diff, "prepare_pair", prepare)


def run(folder, *words, new="new.fits", old="old.fits"):
    return CliRunner().invoke(app, ["diff", str(folder / new), str(folder / old), *FAST, *map(str, words)])


def found_all(table):
    """Whether a table holds every transient, its flux to 3 %, and no other source that can be trusted."""
    distance = np.hypot(*(table[c].to_numpy()[:, None] - made.TRANSIENTS[:, k] for k, c in enumerate("xy")))
    flux = table.psfInstFlux.to_numpy()[distance.argmin(0)]
    return (
        (distance.min(0) < 1).all()
        and np.abs(flux / made.TRANSIENTS[:, 2] - 1).max() < 0.03
        and (table.reliability > 0.5).sum() == len(made.TRANSIENTS)
    )


def test_each_image_has_its_partner_and_what_fails_is_said(mosaic, tmp_path, talkative):
    """In an answer without the words of libraries."""
    done = run(
        mosaic,
        "--all-images",
        "-o",
        tmp_path / "d.fits.gz",
        "--sources",
        tmp_path / "s.csv",
        "--score",
        tmp_path / "score.fits",
        "--plots",
        tmp_path / "p",
        "--json",
    )
    assert done.exit_code == 1, done.output
    assert "a word of astropy" in done.stderr
    images = json.loads(done.stdout)["images"]
    assert [(i["image"], i["template"]) for i in images] == [
        ("CCD1", "CCD1"),
        ("CCD2", "CCD2"),
        ("CCD3", "CCD3"),
        ("CCD4", None),
    ]
    for image in images[:2]:
        name = image["image"]
        assert image["output"] == str(tmp_path / f"d_{name}.fits.gz")
        difference = Exposure.read_fits(image["output"])
        with fits.open(image["output"]) as hdus:
            assert hdus[0].header["SCIFILE"] == f"new.fits[{name}]"
            assert hdus[0].header["TMPFILE"] == f"old.fits[{name}]"
            assert len(hdus[0].header["SCISHA"]) == 64
        assert difference.image.shape == (made.SIDE, made.SIDE)
        assert found_all(pd.read_csv(image["sources"]))
        assert Exposure.read_fits(image["score"]).image[48, 40] > 20  # the first transient
        assert all(p.startswith(str(tmp_path / "p" / name)) for p in image["plots"])
        assert (tmp_path / "p" / name / "difference.png").is_file()
        assert image["seconds"]["difference"] > 0
    errors = [image["error"]["code"] for image in images[2:]]
    assert errors == ["no_good_pixels", "no_partner"]
    assert "CCD2, CCD3, CCD1" in images[3]["error"]["message"]
    assert "2 of 4 images failed" in done.stderr
    assert "CCD4: no_partner" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "d_CCD1.fits.gz",
        "d_CCD2.fits.gz",
        "p",
        "s_CCD1.csv",
        "s_CCD2.csv",
        "score_CCD1.fits",
        "score_CCD2.fits",
    ]


def test_one_image_is_the_same_with_the_option_as_without(tmp_path, scenes, talkative):
    """Words of libraries are no part of either answer."""
    field = scenes[0]
    (tmp_path / "new.fits").write_bytes(made.content(made.float32(field.new, made.tan())))
    write(tmp_path / "old.fits", hdu(field.old, "SCI"))
    plain = run(tmp_path, "-o", tmp_path / "plain.fits", "--json")
    done = run(tmp_path, "-o", tmp_path / "all.fits", "--all-images")
    assert (plain.exit_code, done.exit_code) == (0, 0), done.output
    assert json.loads(plain.stdout)["nKernelUsed"] > 0
    assert all("a word of astropy" in answer.stderr for answer in (plain, done))
    same = [Exposure.read_fits(tmp_path / name).image for name in ("plain.fits", "all.fits")]
    assert np.array_equal(*same, equal_nan=True)
    assert done.stdout.splitlines()[-1].startswith("0: convolve")


def test_images_of_one_name_are_told_apart_by_their_version_with_all_their_planes(tmp_path, scenes):
    """SCI and ERR of two versions; the errors of the second are ten times too large, and only it says so."""
    cam = tmp_path / "cam.yaml"
    cam.write_text("name: cam\npixel_scale: 0.4\nplanes: {image: SCI, sigma: ERR}\n")
    for name, kind in (("new.fits", "new"), ("old.fits", "old")):
        hdus = []
        for version, field in enumerate(scenes, 1):
            image = getattr(field, kind)
            hdus.append(fits.ImageHDU(image, made.tan(), name="SCI", ver=version))
            spread = np.sqrt(made._variance(image)) * (1 if version == 1 else 1.2)
            hdus.append(fits.ImageHDU(spread.astype("f4"), name="ERR", ver=version))
        write(tmp_path / name, *(hdus if kind == "new" else hdus[2:] + hdus[:2]))
    done = run(
        tmp_path,
        "--all-images",
        "--instrument",
        cam,
        "-o",
        tmp_path / "d.fits",
        "--sources",
        tmp_path / "s.csv",
        "--json",
    )
    assert done.exit_code == 0, done.output
    images = json.loads(done.stdout)["images"]
    assert [(i["image"], i["template"]) for i in images] == [("SCI,1", "SCI,1"), ("SCI,2", "SCI,2")]
    assert all(found_all(pd.read_csv(tmp_path / f"s_SCI_{k}.csv")) for k in (1, 2))
    # the noise that the sky has is 1 / 1.44 of what the errors of the second say: they are scaled to it
    factors = [i["scaleScienceVarianceFactor"] for i in images]
    assert factors[0] / factors[1] == pytest.approx(1.44, rel=0.05)
    alone = run(
        tmp_path,
        "--instrument",
        cam,
        "-o",
        tmp_path / "one.fits",
        "--json",
        new="new.fits[SCI,2]",
        old="old.fits['SCI', 2]",
    )
    assert alone.exit_code == 0, alone.output
    assert json.loads(alone.stdout)["scaleScienceVarianceFactor"] == factors[1]


def test_a_path_that_names_an_image_and_outputs_that_cannot_be_are_refused_before_anything_is_done(mosaic, tmp_path):
    done = run(mosaic, "--all-images", "-o", tmp_path / "d.fits", new="new.fits[CCD1]")
    assert done.exception is not None
    assert "names one image" in str(done.exception)
    (tmp_path / "d_CCD2.fits").mkdir()
    done = run(mosaic, "--all-images", "-o", tmp_path / "d.fits")
    assert isinstance(done.exception, OutputError)
    assert "d_CCD2.fits is a folder" in str(done.exception)
    assert [p.name for p in tmp_path.iterdir()] == ["d_CCD2.fits"]
