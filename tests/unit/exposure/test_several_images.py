"""Images of one file by number, name, and name with version; their planes; their partners in another file."""

import numpy as np
import pytest
from astropy.io import fits

import alertprod
from exposure import FitsUnreadable, Instrument
from exposure.errors import ImageAmbiguous
from exposure.io.native import read_header, read_planes
from exposure.io.several import images_in, partner_of
from service.errors import ForbiddenLocation
from service.intake.message import local_path
from service.pairs.diff_outputs import DiffOutputs

RULES = Instrument.model_validate(
    {"name": "any", "pixel_scale": 1.0, "planes": {"image": "SCI", "sigma": "ERR", "mask": "DQ"}}
)
ANY = Instrument.model_validate({"name": "any", "pixel_scale": 1.0})
LEVELS = {1: 100.0, 2: 200.0, 3: 300.0}


def noisy(level, seed=1, shape=(40, 50)):
    return np.random.default_rng(seed).normal(level, 5, shape).astype(np.float32)


def hdu(level, name=None, version=None, **cards):
    header = fits.Header(cards)
    made = fits.ImageHDU(noisy(level), header, name=name)
    if version is not None:
        made.header["EXTVER"] = version
    return made


def write(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


@pytest.fixture
def hubble(tmp_path):
    """SCI, ERR and DQ in three versions, planes not in the order of the images; only the DQ of the second has a bad pixel."""
    hdus = [hdu(level, "SCI", version) for version, level in LEVELS.items()]
    for version in (3, 1, 2):
        hdus.append(fits.ImageHDU(np.full((40, 50), version, np.float32), name="ERR", ver=version))
        bad = np.zeros((40, 50), np.int16)
        bad[7, 9] = version == 2
        hdus.append(fits.ImageHDU(bad, name="DQ", ver=version))
    return write(tmp_path / "flt.fits", *hdus)


def test_a_name_with_a_version_means_that_image_and_its_own_planes(hubble):
    for version, level in LEVELS.items():
        for path in (
            f"{hubble}[SCI,{version}]",
            f"{hubble}[sci, {version}]",
            f"{hubble}['SCI',{version}]",
            f"{hubble}[{version}]",
        ):
            read = read_planes(path, RULES)
            assert np.median(read.image) == pytest.approx(level, abs=1)  # the noise of a median of 2000: 0.14
            assert np.median(read.variance) == version**2
            assert bool(read.flagged("BAD")[7, 9]) == (version == 2)
        assert read_header(f"{hubble}[SCI,{version}]")["EXTVER"] == version
        assert np.median(alertprod.read(hubble, hdu=("SCI", version)).image) == pytest.approx(level, abs=1)
    with pytest.raises(FitsUnreadable, match="no image in extension 'SCI,4'"):
        read_planes(f"{hubble}[SCI,4]", RULES)
    with pytest.raises(ImageAmbiguous, match=r"1 SCI,1 50x40, 2 SCI,2 50x40.*flt.fits\[SCI,3\]"):
        read_planes(hubble, RULES)


def test_planes_of_one_name_that_nothing_assigns_are_refused(tmp_path):
    masks = [fits.ImageHDU(np.zeros((40, 50), np.int16), name="DQ", ver=v) for v in (1, 2)]
    path = write(tmp_path / "m.fits", hdu(100, "CCD1"), hdu(200, "CCD2"), *masks)
    rules = Instrument.model_validate({"name": "any", "pixel_scale": 1.0, "planes": {"mask": "DQ"}})
    with pytest.raises(ImageAmbiguous, match=r"3 DQ,1 50x40, 4 DQ,2 50x40 belongs to the image 2 CCD2"):
        read_planes(f"{path}[CCD2]", rules)
    named = Instrument.model_validate({"name": "any", "pixel_scale": 1.0, "planes": {"mask": "DQ,2"}})
    assert read_planes(f"{path}[CCD2]", named).image.shape == (40, 50)


def test_names_lead_back_to_their_images(hubble, tmp_path):
    odd = write(
        tmp_path / "odd.fits",
        hdu(1, "2"),
        hdu(2, "A"),
        hdu(3, "B/C"),
        hdu(4),
        hdu(5, "D", 1),
        hdu(6, "D", 2),
        hdu(7, "E"),
        hdu(8, "E"),
        hdu(9, "F,1"),
        hdu(10, "WEIGHT"),
    )
    assert [i.label for i in images_in(odd, ANY)] == ["2,1", "A", "3", "4", "D,1", "D,2", "7", "8", "F,1"]
    for image in images_in(odd, ANY):
        assert np.median(read_planes(image.of(odd), ANY).image) == pytest.approx(image.number, abs=1)
    assert [i.label for i in images_in(hubble, RULES)] == ["SCI,1", "SCI,2", "SCI,3"]
    assert alertprod.images(hubble, RULES) == ["SCI,1", "SCI,2", "SCI,3"]
    with fits.open(odd) as hdus:
        assert alertprod.images(hdus)[:2] == ["2,1", "A"]
    with pytest.raises(FitsUnreadable, match="names one image"):
        alertprod.images(f"{odd}[A]")
    with pytest.raises(alertprod.InputType, match="list of HDUs"):
        alertprod.images(np.zeros((4, 4)))


@pytest.mark.parametrize(
    ("new", "old", "pairs"),
    [
        ([("A", None), ("B", None)], [("B", None), ("A", None)], {1: 2, 2: 1}),
        ([("SCI", 1), ("SCI", 2)], [("SCI", 2), ("SCI", 1)], {1: 2, 2: 1}),
        ([("SCI", 1), ("SCI", 2)], [("SCI", None)], {1: 1, 2: None}),
        ([("A", 1), ("B", 2)], [("A", 5), ("B", 6)], {1: 1, 2: 2}),
        ([(None, None), (None, None)], [(None, None), (None, None)], {1: 1, 2: 2}),
        ([(None, 2), (None, 1)], [(None, 1), (None, 2)], {1: 2, 2: 1}),
        ([("A", None)], [(None, None)], {1: 1}),
        ([("A", None), ("B", None)], [(None, None), (None, None)], {1: None, 2: None}),
        ([("A", None), ("A", None)], [("A", None), ("B", None)], {1: None, 2: None}),
    ],
)
def test_partners_are_found_by_name_version_and_number(tmp_path, new, old, pairs):
    files = [
        write(tmp_path / name, *(hdu(100, *which) for which in given))
        for name, given in (("new.fits", new), ("old.fits", old))
    ]
    own, others = (images_in(f, ANY) for f in files)
    found = {i.number: partner_of(i, own, others) for i in own}
    assert {k: None if p is None else p.number for k, p in found.items()} == pairs


def test_outputs_have_the_name_of_the_image(tmp_path):
    given = DiffOutputs(tmp_path / "d.v2.fits.fz", tmp_path / "s.csv", tmp_path / "noending", tmp_path / "p")
    named = given.named("SCI,2")
    assert [p.name for p in named.files] == ["d.v2_SCI_2.fits.fz", "noending_SCI_2", "s_SCI_2.csv"]
    assert named.plots == tmp_path / "p" / "SCI_2"
    assert given.named("../../etc/x y").output == tmp_path / "d.v2_etc_x_y.fits.fz"


def test_a_link_with_an_image_behind_its_name_does_not_lead_out_of_the_allowed_directories(tmp_path):
    (tmp_path / "data").mkdir()
    for folder in (tmp_path, tmp_path / "data"):
        write(folder / "m.fits", hdu(100, "A"), hdu(200, "B"))
    (tmp_path / "data" / "link.fits").symlink_to(tmp_path / "m.fits")
    roots = [tmp_path / "data"]
    assert local_path(str(tmp_path / "data" / "m.fits[B]"), roots) == tmp_path / "data" / "m.fits[B]"
    assert local_path((tmp_path / "data" / "m.fits").as_uri() + "%5BA,1%5D", roots) == tmp_path / "data" / "m.fits[A,1]"
    for uri in ("link.fits[B]", "../m.fits[B]", "link.fits"):
        with pytest.raises(ForbiddenLocation):
            local_path(str(tmp_path / "data" / uri), roots)
