"""Any FITS image: encodings x headers x planes x compression, each from its file to a table of sources, judged by truth.

Every combination is either right (all transients within 1 px, fluxes within 3 %, no other reliable source, what is missing
marked) or a typed error. The images are the same noise in other clothes: fluxes scatter by 1.1 % at most by themselves.
"""

from collections import Counter
from copy import deepcopy
from itertools import groupby

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from threadpoolctl import threadpool_limits

from calibration.gain import estimate_gain
from calibration.noise import subtract_background
from exposure import Exposure, FitsUnreadable, load_instrument
from exposure.errors import ImageAmbiguous
from exposure.flagging.fill import fill_pixels, saturation_level
from exposure.io.native import read_planes
from exposure.io.unpack import unpacked
from service.pairs.difference import PairOptions, difference_pair
from service.pairs.prepare import kernel_candidates, subtract_sky
from tasks.errors import AlertProdError
from tests.support import any_image as made
from tests.support.same_pixels import SamePixels

RULES = load_instrument("generic")
RULES = RULES.model_copy(
    update={"characterize": RULES.characterize.model_copy(update={"psf_order": 0})}
)  # as the scene is
FLUX_ERROR = 0.03
EDGE = 6  # px that resampling and the kernel (its half width) may lose
FAST = {"kernelSize": 13, "spatialKernelOrder": 0, "doMaskStreaks": False, "doFindGlints": False}


@pytest.fixture(scope="module")
def field():
    return made.scene()


@pytest.fixture(scope="module")
def template(field, tmp_path_factory):
    """The old image, read once, with its variance and PSF: only the new ones differ."""
    path = tmp_path_factory.mktemp("template") / "old.fits"
    path.write_bytes(made.content(made.float32(field.old, made.tan())))
    old = read_planes(path, RULES)
    old.band = "r"
    subtract_sky(old, RULES)
    kernel_candidates(old, RULES)
    return old


def combinations():
    """Every header with two thirds of the encodings; planes and compressions go round beside them."""
    for h, header in enumerate(made.HEADERS):
        for e, encoding in enumerate(made.ENCODINGS):
            if (h + e) % 3 == 0:
                continue
            yield header, encoding, made.PLANES[(5 * h + e) % len(made.PLANES)], made.WAYS[(h + 2 * e) % len(made.WAYS)]


def write(folder, field, header, encoding, planes, way):
    image = (field.bent if header in made.BENT else field.new).copy()
    value, where = getattr(planes, "pixels", (0.0, None))
    if where is not None:
        image[where] = value
    hdus = encoding(image, header())
    planes(hdus, image)
    path = folder / f"new{way[0]}"
    path.write_bytes(way[1](made.content(hdus)))
    return path


def judge(path, template, header, planes):
    """Return "right", the code of a typed error, or what is wrong."""
    try:
        new = read_planes(path, RULES)
        new.band = "r"
        registered = header is made.no_sky
        result = difference_pair(
            new, deepcopy(template), RULES, PairOptions(registered=registered, sources=True, options=FAST)
        )
    except AlertProdError as error:
        return f"{error.code}: {error}" if error.code == "internal" else error.code
    truth = made.bent_positions(made.TRANSIENTS) if header in made.BENT else made.TRANSIENTS
    found = result.sources
    distance = np.hypot(*(found[c].to_numpy()[:, None] - truth[:, k] for k, c in enumerate("xy")))
    if not len(found) or (distance.min(0) > 1).any():
        return "wrong: a transient is missing"
    flux = found.psfInstFlux.to_numpy()[distance.argmin(0)]
    if (np.abs(flux / truth[:, 2] - 1) > FLUX_ERROR).any():
        return f"wrong: fluxes {flux / truth[:, 2]}"
    if (found.reliability > 0.5).sum() > len(truth):
        return "wrong: a false source"
    return _judge_missing(result.exposure, planes)


def _judge_missing(difference, planes):
    where = np.zeros(difference.image.shape, bool)
    if planes not in (made.nothing, made.variance):
        where[getattr(planes, "pixels", (0, made.BLOCK))[1]] = True
    empty = difference.flagged("NO_DATA")
    if not empty[where].all() or np.isfinite(difference.image[empty]).any():
        return "wrong: missing pixels have values"
    empty &= ~binary_dilation(where, np.ones((3, 3), bool), iterations=EDGE)  # what the filters reach
    return "right" if empty[EDGE:-EDGE, EDGE:-EDGE].mean() < 0.01 else "wrong: pixels with data are lost"


def _kind(combination):
    """Images whose planes are not of one kind are not alike."""
    return combination[2].__name__.partition("_")[0]


def test_every_combination_is_right_or_a_typed_error(field, template, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", "1")  # images this small are done before other threads have begun
    outcomes, wrong, same = Counter(), [], SamePixels(monkeypatch)
    with threadpool_limits(1):
        for _, alike in groupby(sorted(combinations(), key=_kind), _kind):
            same.forget()
            for header, encoding, planes, way in alike:
                path = write(tmp_path, field, header, encoding, planes, way)
                outcome = judge(path, template, header, planes)
                path.unlink()
                outcomes[outcome.partition(":")[0]] += 1
                if outcome != "right":
                    wrong.append((header.__name__, encoding.__name__, planes.__name__, way[0], outcome))
    with capsys.disabled():
        print(f"\n{sum(outcomes.values())} combinations, {same.subtracted} of them unlike: {dict(outcomes)}")
    assert not [w for w in wrong if w[-1].startswith(("wrong", "internal"))]
    assert sum(outcomes.values()) >= 300
    assert outcomes["right"] >= 0.7 * sum(outcomes.values())


def _plain(field, header=made.tan, **cards):
    hdus = made.float32(field.new, header())
    hdus[0].header.update(cards)
    return hdus


def _several(field):
    parts = [made.fits.ImageHDU(field.new[k : k + 80], made.tan(), name=f"CCD{k}") for k in (0, 80)]
    return made.fits.HDUList([made.fits.PrimaryHDU(), *parts])


def _table():
    columns = [made.fits.Column("x", "D", array=np.arange(5.0))]
    return made.fits.HDUList([made.fits.PrimaryHDU(), made.fits.BinTableHDU.from_columns(columns)])


def _with_variance(field, plane):
    return made.fits.HDUList([*made.float32(field.new, made.tan()), made.fits.ImageHDU(plane, name="VARIANCE")])


def _far():
    return made.tan() | {"CRVAL1": 200.0, "CRVAL2": -30.0}


HALF = {
    ".fits": bytes, ".fits.gz": made.gzip.compress, ".fits.bz2": made.bz2.compress, ".fits.xz": made.lzma.compress,
    ".fits.Z": made.lzw,
}  # fmt: skip

WRONG = {
    "several images": (_several, "which_image"),
    "no image": (lambda f: _table(), "fits_unreadable"),
    "an empty primary": (lambda f: made.fits.HDUList([made.fits.PrimaryHDU()]), "fits_unreadable"),
    "three colours": (lambda f: made.float32(np.stack([f.new] * 3), made.tan()), "fits_unreadable"),
    "no finite pixel": (lambda f: made.float32(np.full_like(f.new, np.nan), made.tan()), "no_good_pixels"),
    "one value": (lambda f: made.float32(np.full_like(f.new, 7), made.tan()), "no_good_pixels"),
    "a variance of zeros": (lambda f: _with_variance(f, np.zeros_like(f.new)), "no_good_pixels"),
    "a variance of another shape": (lambda f: _with_variance(f, np.ones((9, 9), "f4")), "no_good_pixels"),
    "weights as a variance": (lambda f: _with_variance(f, 1 / made._variance(f.new)), "differencing"),
    "deviations as a variance": (lambda f: _with_variance(f, np.sqrt(made._variance(f.new))), "differencing"),
    "a sky that was cut off": (lambda f: made.float32(np.maximum(f.new - made.SKY - 5, 0), made.tan()), "sky_clipped"),
    "no number in BSCALE": (lambda f: _stored_with(f, BSCALE="2,0"), "fits_unreadable"),
    "nothing left by BSCALE": (lambda f: _stored_with(f, BSCALE=0.0), "fits_unreadable"),
    "no common sky": (lambda f: _plain(f, _far), "no_template"),
    "no WCS": (lambda f: _plain(f, made.no_sky), "wcs_missing"),
}


def _stored_with(field, **cards):
    return made._stored(field.new.astype("i2"), made.tan(), **cards)


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_subtracted_is_a_typed_error(field, template, tmp_path, what):
    build, code = WRONG[what]
    (tmp_path / "new.fits").write_bytes(made.content(build(field)))
    with pytest.raises(AlertProdError) as caught:
        new = read_planes(tmp_path / "new.fits", RULES)
        new.band = "r"
        difference_pair(new, deepcopy(template), RULES, PairOptions(sources=True, options=FAST))
    assert caught.value.code == code or (code == "no_template" and caught.value.code != "internal")


@pytest.mark.parametrize("ending", HALF)
@pytest.mark.parametrize("encoding", [made.float32, made.uint16, made.rice])
def test_a_file_cut_short_is_refused(field, tmp_path, ending, encoding):
    small = encoding(field.new[:64, :64], made.tan())
    whole = HALF[ending](made.content(small))
    path = tmp_path / f"new{ending}"
    path.write_bytes(whole)
    assert read_planes(path, RULES).image.shape == (64, 64)
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(FitsUnreadable, match=path.name):
        read_planes(path, RULES)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html><html>" * 300,
        b"\x1f\x9d\x90rubbish",
        b"\x1f\x8brubbish",
        b"PK\x03\x04rubbish",
        bytes(5760),
    ],
)
def test_rubbish_is_no_fits_file(tmp_path, data):
    (tmp_path / "new.fits").write_bytes(data)
    with pytest.raises(FitsUnreadable, match=r"new\.fits"):
        read_planes(tmp_path / "new.fits", RULES)


def test_what_unpacks_without_end_is_refused(tmp_path):
    header = made.content(made.fits.HDUList([made.fits.PrimaryHDU()]))
    with pytest.raises(FitsUnreadable, match="more than 100000 bytes"):
        unpacked(made.io.BytesIO(made.gzip.compress(header + bytes(200_000))), "new.fits", 100_000)


def test_values_survive_every_encoding_to_half_a_digit(field, tmp_path):
    """Digits are 1 count, but for those that say otherwise; quantised tiles have steps of a 16th of the noise (12)."""
    steps = {made.scaled8: 12.0, made.signed8: 12.0, made.scaled16: 0.5, made.rice: 1.5}
    exact = (made.float32, made.float64, made.cube, made.hypercube, made.extension, made.science, made.gzip_tiles)
    for encoding in made.ENCODINGS:
        step = 1e-4 if encoding in (*exact, made.float_scaled) else steps.get(encoding, 1.0)
        (tmp_path / "new.fits").write_bytes(made.content(encoding(field.new, made.tan())))
        read = read_planes(tmp_path / "new.fits", RULES)
        usual = field.new < 1900  # 8 bit end there
        assert np.abs(read.image - field.new)[usual].max() <= 0.51 * step, encoding.__name__


def test_one_of_several_images_is_named_with_the_path_or_in_the_instrument_file(field, tmp_path):
    (tmp_path / "new.fits").write_bytes(made.content(_several(field)))
    with pytest.raises(ImageAmbiguous, match=r"1 CCD0 160x80, 2 CCD80 160x80.*new.fits\[2\]"):
        read_planes(tmp_path / "new.fits", RULES)
    planes = RULES.planes.model_copy(update={"image": "CCD80"})
    by_rule = RULES.model_copy(update={"planes": type(planes)(image="CCD80")})
    for path, rules in (
        (tmp_path / "new.fits[CCD80]", RULES),
        (tmp_path / "new.fits[2]", RULES),
        (tmp_path / "new.fits", by_rule),
    ):
        assert np.array_equal(read_planes(path, rules).image, field.new[80:])
    with pytest.raises(FitsUnreadable, match="no image in extension 'CCD9'"):
        read_planes(tmp_path / "new.fits[CCD9]", RULES)


def test_fill_is_found_and_real_pixels_are_not(field):
    grid = np.arange(made.SIDE) - 80
    for turn in (1, 5, 10, 30):
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        inside = (np.abs(c * grid + s * grid[:, None]) < 79) & (np.abs(c * grid[:, None] - s * grid) < 79)
        image = np.where(inside, field.old, 0).astype("f4")
        assert np.array_equal(fill_pixels(image), ~inside)
    rng = np.random.default_rng(1)
    for sigma, level in ((0.4, 0), (1.0, 0), (3.0, 2), (30.0, 1000)):  # whole numbers, some cut off at zero
        assert fill_pixels(np.maximum(np.round(rng.normal(level, sigma, (300, 300))), 0).astype("f4")) is None
    assert fill_pixels(np.repeat(np.repeat(np.round(rng.normal(100, 10, (150, 150))), 2, 0), 2, 1).astype("f4")) is None


def test_saturation_is_seen_where_stars_are_cut_off_and_nowhere_else(field):
    assert saturation_level(field.new) is None
    assert saturation_level(np.round(field.new / 40).astype("f4")) is None
    assert saturation_level(np.minimum(field.new, 2000)) == 2000
    assert saturation_level(np.minimum(np.round(field.new / 40), 50).astype("f4")) == 50


@pytest.mark.parametrize(("pedestal", "unit"), [(0.0, 1.0), (1000.0, 1.0), (0.0, 1 / 65535), (-made.SKY, 1e-12)])
def test_the_gain_of_an_image_is_told_by_its_sky_or_its_stars(pedestal, unit):
    """Stars alone (a pedestal, a sky that was taken off) tell it to a factor of two; the sky to the share of read noise."""
    rng = np.random.default_rng(5)
    points = np.column_stack([rng.uniform(8, 392, (150, 2)), 10 ** rng.uniform(3, 5, 150)])
    grid = np.arange(400)
    across, up = (np.exp(-0.5 * ((grid[:, None] - points[:, k]) / 1.3) ** 2) for k in (0, 1))
    light = (up * points[:, 2]) @ across.T / (2 * np.pi * 1.3**2)
    image = ((made._noisy(light, rng) + pedestal) * unit).astype("f4")
    exposure = Exposure(image, np.full_like(image, np.nan), np.zeros(image.shape, np.int32))
    gain = estimate_gain(exposure, subtract_background(exposure, 256)) * unit
    assert gain == pytest.approx(made.GAIN, rel=0.1) if pedestal == 0 else made.GAIN / 2 < gain < 2 * made.GAIN
