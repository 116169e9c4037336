"""alertprod: what comes out of files, arrays and CCDData is the truth, and the same; inputs stay; errors are typed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance, StdDevUncertainty, UnknownUncertainty, VarianceUncertainty
from astropy.table import QTable, Table
from astropy.wcs import WCS

import alertprod
from exposure import Exposure, GaussianPsf, WcsMissing
from exposure.mask import plane_bits
from tasks.errors import AlertProdError, CallerError
from tests.support.plain_pair import GAIN, PlainPair, plain_pair, render, write_pair

FWHM_SIGMA = 3.2 / 2.3548200450309493


@pytest.fixture(scope="module")
def pair() -> PlainPair:
    return plain_pair()


@pytest.fixture(scope="module")
def files(pair: PlainPair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(pair, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def difference(files: tuple[Path, Path]) -> alertprod.Difference:
    return alertprod.subtract(*files)


def sky_of(pair: PlainPair, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ra, dec = pair.wcs.all_pix2world(points[:, 0], points[:, 1], 0)
    return ra, dec


def ccd(image: np.ndarray, variance: np.ndarray, pair: PlainPair, **more: object) -> CCDData:
    return CCDData(
        image,
        unit="adu",
        uncertainty=VarianceUncertainty(variance),
        wcs=pair.wcs,
        mask=np.zeros(image.shape, bool),
        **more,
    )


def same_pixels(a: Exposure, b: Exposure) -> bool:
    return all(
        np.array_equal(getattr(a, p), getattr(b, p), equal_nan=p != "mask") for p in ("image", "variance", "mask")
    )


def test_every_injected_transient_is_found_with_its_flux(pair, difference):
    table = difference.sources
    assert (table.reliability > 0.5).sum() == 6
    found = alertprod.match(sky_of(pair, pair.transients), table, radius=0.4)
    assert found.a.tolist() == [0, 1, 2, 3, 4, 5]
    rows = table.iloc[found.b]
    flux, error, true = rows.flux.to_numpy(), rows.fluxErr.to_numpy(), pair.transients[:, 2]
    pulls = (flux - true) / error
    assert np.abs(pulls).max() < 4  # six draws: beyond 4 sigma once in 2600 seeds
    assert np.abs(flux / true - 1).max() < np.maximum(0.03, 3 * error / true).max()
    assert abs(pulls.mean()) < 3 / np.sqrt(6)


def test_files_arrays_ccddata_and_exposures_give_the_same_bytes(pair, files, difference):
    pair = replace(pair, wcs=WCS(fits.getheader(files[0], "IMAGE")))  # whose cards have fewer digits than the first one
    arrays = [
        alertprod.read(image, variance=variance, wcs=pair.wcs)
        for image, variance in ((pair.new, pair.new_variance), (pair.old, pair.old_variance))
    ]
    ccds = [ccd(pair.new, pair.new_variance, pair), ccd(pair.old, pair.old_variance, pair)]
    wide = [CCDData(c.data.astype(">f8"), unit="adu", uncertainty=c.uncertainty, wcs=c.wcs) for c in ccds]
    for new, old in (arrays, ccds, wide):
        made = alertprod.subtract(new, old)
        assert same_pixels(made.exposure, difference.exposure)
        pd.testing.assert_frame_equal(made.sources, difference.sources)


@pytest.mark.parametrize("kind", ["std", "variance", "inverse"])
def test_each_uncertainty_becomes_the_same_variance(pair, kind):
    variance = np.full(pair.new.shape, 4.0)
    made = {
        "std": StdDevUncertainty(np.sqrt(variance)),
        "variance": VarianceUncertainty(variance),
        "inverse": InverseVariance(1 / variance),
    }[kind]
    read = alertprod.read(CCDData(pair.new, unit="adu", uncertainty=made, wcs=pair.wcs))
    assert np.array_equal(read.variance, variance.astype(np.float32))


def test_pixels_in_a_unit_of_flux_density_are_calibrated(pair):
    made = alertprod.read(CCDData(pair.new.astype(float), unit=u.uJy, wcs=pair.wcs))
    assert made.photo_calib is not None
    assert made.photo_calib.mean == pytest.approx(1000.0)  # nJy in one microjansky
    assert alertprod.read(CCDData(pair.new, unit="adu")).photo_calib is None


def test_quantities_single_hdus_differences_and_named_images_are_read(pair, files, difference, tmp_path):
    quantity = alertprod.read(pair.new * u.nJy, variance=pair.new_variance * u.uJy**2, wcs=pair.wcs)
    assert quantity.photo_calib is not None
    assert quantity.photo_calib.mean == pytest.approx(1.0)
    assert quantity.variance == pytest.approx(pair.new_variance * 1e6, rel=1e-6)
    with fits.open(files[0]) as hdus:
        assert np.array_equal(alertprod.read(hdus["IMAGE"]).image, pair.new)
        several = fits.HDUList([fits.PrimaryHDU(), hdus["IMAGE"].copy(), fits.ImageHDU(pair.old, name="CCD2")])
        several[1].name = "CCD1"
        with pytest.raises(AlertProdError, match="2 images"):
            alertprod.read(several)
        assert np.array_equal(alertprod.read(several, hdu="CCD2").image, pair.old)
        several.writeto(tmp_path / "several.fits")
    assert np.array_equal(alertprod.read(tmp_path / "several.fits", hdu=2).image, pair.old)
    again = alertprod.read(difference)
    assert same_pixels(again, difference.exposure)
    assert again.image is not difference.image
    assert alertprod.read(pair.new, gain=1.5).metadata["gain"] == 1.5
    assert alertprod.read(CCDData(pair.new, unit="electron")).metadata["gain"] == 1.0


def test_masks_become_pixels_without_data(pair):
    bad = np.zeros(pair.new.shape, bool)
    bad[10:20, 30:40] = True
    for made in (
        alertprod.read(pair.new, mask=bad),
        alertprod.read(pair.new, mask=bad.astype(np.int16)),
        alertprod.read(np.ma.array(pair.new, mask=bad)),
        alertprod.read(CCDData(pair.new, unit="adu", mask=bad)),
    ):
        assert np.array_equal(made.flagged("NO_DATA"), bad)


def test_inputs_are_not_changed(pair, files):
    with fits.open(files[0]) as hdus:
        before = [(h.header.tostring(), None if h.data is None else h.data.copy()) for h in hdus]
        own = alertprod.read(hdus)
        own.image[:] = 0
        for hdu, (header, data) in zip(hdus, before, strict=True):
            assert hdu.header.tostring() == header
            assert data is None or np.array_equal(hdu.data, data)
    new, old = alertprod.read(files[0]), alertprod.read(files[1])
    arrays, kept = (pair.new.copy(), pair.new_variance.copy()), (new.copy(), old.copy())
    alertprod.subtract(new, old)
    alertprod.photometry(new, pair.transients[:, :2], pixel=True)
    alertprod.read(*arrays[:1], variance=arrays[1]).image[:] = 0
    for image, copy in zip((new, old), kept, strict=True):
        assert same_pixels(image, copy)
        assert image.psf is None
        assert image.metadata == copy.metadata
    assert np.array_equal(arrays[0], pair.new)
    assert np.array_equal(arrays[1], pair.new_variance)


def field_of_stars(
    side: int = 480, flux: float = 6000.0, sky: float = 200.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid of equal, isolated stars at sub-pixel places with Poisson-like noise of known variance."""
    rng = np.random.default_rng(5)
    at = np.arange(20, side - 20, 22.0)
    points = np.array([[x, y, flux] for y in at for x in at])
    points[:, :2] += rng.uniform(-0.5, 0.5, (len(points), 2))
    light = render(points, side, 3.2)
    variance = (light + sky) / GAIN + 9.0
    return (light + sky + rng.normal(0, np.sqrt(variance))).astype(np.float32), variance.astype(np.float32), points


def test_photometry_of_injected_stars_is_unbiased_with_unit_pulls():
    image, variance, points = field_of_stars()
    exposure = alertprod.read(image, variance=variance, psf=GaussianPsf(FWHM_SIGMA, 31))
    table = alertprod.photometry(exposure, points[:, :2], pixel=True)
    n = len(table)
    assert not table.flag.any()
    for flux, error in (("flux", "fluxErr"), ("apFlux", "apFluxErr")):
        pull = ((table[flux] - points[:, 2]) / table[error]).to_numpy()
        assert abs(pull.mean()) < 4 / np.sqrt(n)  # the error of a mean of n unit pulls, four times
        assert pull.std() == pytest.approx(1, abs=4 / np.sqrt(2 * n))  # that of their scatter
    empty = alertprod.photometry(exposure, points[:200, :2] + 11.0, pixel=True)  # between the stars: nothing is there
    assert abs((empty.flux / empty.fluxErr).mean()) < 4 / np.sqrt(len(empty))


def test_photometry_with_a_psf_of_the_images_own_stars_is_within_one_per_cent():
    image, variance, points = field_of_stars(flux=3e4)
    table = alertprod.photometry(alertprod.read(image, variance=variance), points[:, :2], pixel=True)
    ratio = table.flux.to_numpy() / points[:, 2]
    # the model is made of these stars: of 400 of S/N 130 a common error of 1 % is far beyond noise
    assert np.median(ratio) == pytest.approx(1, abs=0.01)
    assert ratio.std() < 2 * np.median(table.fluxErr / table.flux)


@pytest.fixture(scope="module")
def star() -> Exposure:
    light = render(np.array([[40.3, 40.6, 1e5], [90.0, 40.0, 1e5], [60.0, 90.0, 1e5]]), 128, 3.2)
    from tests.support.plain_pair import tan

    made = alertprod.read(light, variance=np.full(light.shape, 25.0), wcs=tan(128), psf=GaussianPsf(FWHM_SIGMA, 31))
    made.photo_calib = alertprod.PhotoCalib(2.0)
    return made


def test_positions_may_be_in_whatever_people_have_them_in(star, tmp_path):
    x, y = np.array([40.3, 90.0]), np.array([40.6, 40.0])
    ra, dec = star.require_wcs().pixel_to_sky(x, y)
    expected = alertprod.photometry(star, (ra, dec), subtract_sky=False)
    assert expected.flux.to_numpy() == pytest.approx([2e5, 2e5], rel=1e-3)  # nJy: two a count; a sampled Gaussian
    assert expected.mag.to_numpy() == pytest.approx(31.4 - 2.5 * np.log10(2e5), abs=1e-3)
    assert expected.attrs["unit"] == "nJy"
    sky = SkyCoord(ra, dec, unit="deg")
    for given in (
        sky,
        sky.galactic,
        [sky[0], sky[1]],
        list(zip(ra, dec, strict=True)),
        np.c_[ra, dec],
        (ra * u.deg, dec * u.deg),
        (np.radians(ra) * u.rad, np.radians(dec) * u.rad),
        {"RA": ra, "Dec": dec},
        pd.DataFrame({"ra": ra, "dec": dec}),
        Table({"ra": ra, "dec": dec}),
        QTable({"ra": ra * u.deg, "dec": dec * u.deg}),
        pd.DataFrame({"coord_ra": np.radians(ra), "coord_dec": np.radians(dec)}),
        pd.DataFrame({"x": x, "y": y}),
        np.array(list(zip(ra, dec, strict=True)), [("ra", float), ("dec", float)]),
    ):
        table = alertprod.photometry(star, given, subtract_sky=False)
        assert table.flux.to_numpy() == pytest.approx(expected.flux.to_numpy(), rel=1e-6), type(given)
    text = SkyCoord(ra, dec, unit="deg").to_string("hmsdms", precision=5)
    for words in ([t.split() for t in text], tuple(zip(*(t.split() for t in text), strict=True))):
        table = alertprod.photometry(star, words, subtract_sky=False)
        assert table.flux.to_numpy() == pytest.approx(expected.flux.to_numpy(), rel=1e-5)
    Table({"name": ["a", "b"], "RAJ2000": ra, "DEJ2000": dec}).write(tmp_path / "places.csv")
    table = alertprod.photometry(star, tmp_path / "places.csv", subtract_sky=False)
    assert table.flux.to_numpy() == pytest.approx(expected.flux.to_numpy(), rel=1e-6)
    one = alertprod.photometry(star, (ra[0], dec[0]), subtract_sky=False)
    assert one.x.to_numpy() == pytest.approx([40.3], abs=1e-6)
    assert len(alertprod.photometry(star, [], subtract_sky=False)) == 0


def test_places_without_pixels_have_no_flux_and_a_flag(star):
    image = star.copy()
    image.set_plane("NO_DATA", np.hypot(*(np.indices(image.image.shape) - np.array([90, 60])[:, None, None])) < 4)
    image.image[image.flagged("NO_DATA")] = 1e6
    at = [(60.0, 90.0), (-500.0, 3.0), (np.nan, 4.0), (1e12, 4.0), (90.0, 40.0)]
    table = alertprod.photometry(image, at, pixel=True, subtract_sky=False)
    assert table.flux.isna().tolist() == [True, True, True, True, False]
    assert table.flag.tolist() == [True, True, True, True, False]
    assert table.apFlux.isna().tolist() == [True, True, True, True, False]
    image.mask[:] = 0
    image.image[:] = star.image
    image.mask[92, 61] |= plane_bits(["NO_DATA"])  # one pixel of the wing: the rest says how bright the star is
    image.image[92, 61] = np.nan
    beside = alertprod.photometry(image, at[:1], pixel=True, subtract_sky=False)
    assert beside.flux.iloc[0] == pytest.approx(2e5, rel=1e-3)


def test_match_is_one_to_one_nearest_and_symmetric():
    ra, dec = np.array([10.0, 10.0 + 0.6 / 3600, 359.9999, 20.0]), np.array([0.0, 0.0, 0.0, 89.9999])
    other = (np.array([10.0 + 0.5 / 3600, 0.0001, 200.0, 10.0 - 0.4 / 3600]), np.array([0.0, 0.0, 89.9999, 0.0]))
    pairs = alertprod.match((ra, dec), other, radius=1.0)
    # the second has the first of the others; the first then has the last, the third lies over RA 0, the fourth near the pole
    assert list(zip(pairs.a, pairs.b, strict=True)) == [(0, 3), (1, 0), (2, 1), (3, 2)]
    assert (pairs.separation <= 1.0).all()
    back = alertprod.match(other, (ra, dec), radius=1.0 * u.arcsec)
    assert set(zip(back.b, back.a, strict=True)) == set(zip(pairs.a, pairs.b, strict=True))
    assert alertprod.match((ra, dec), ([], [])).empty
    assert alertprod.match((ra, dec), ([np.nan], [np.nan])).empty


def test_difference_writes_draws_and_says_what_it_is(difference, tmp_path):
    difference.write(tmp_path / "difference.fits", sources=tmp_path / "sources.parquet")
    again = alertprod.read(tmp_path / "difference.fits")
    assert same_pixels(again, difference.exposure)
    assert len(pd.read_parquet(tmp_path / "sources.parquet")) == len(difference.sources)
    drawn = difference.plot(tmp_path / "pictures")
    assert {p.name for p in drawn} >= {"difference.png", "noise.png", "psf.png", "kernel.png"}
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in drawn)


def test_texts_are_short(pair, difference):
    exposure = difference.exposure
    for made in (
        exposure,
        exposure.psf,
        exposure.wcs,
        difference,
        difference.pair,
        difference.pair.subject,
        alertprod.load_instrument("decam"),
        difference.pair.subject.fit,
        alertprod.read(pair.new),
    ):
        assert len(repr(made)) < 300
        assert repr(made).count("\n") <= 1
    assert "256 x 256" in repr(exposure)
    assert "150.00" in repr(exposure)
    assert '0.4"/px' in repr(exposure)


def test_import_is_fast_and_complete():
    code = (
        "import sys, time; t = time.perf_counter(); import alertprod; seconds = time.perf_counter() - t;"
        "heavy = {'numpy', 'pandas', 'astropy', 'numba', 'lsst', 'cv2', 'service'} & set(sys.modules);"
        "missing = [n for n in alertprod.__all__ if n not in dir(alertprod)];"
        "print(seconds < 0.3, sorted(heavy), missing, [n for n in alertprod.__all__ if getattr(alertprod, n, None) is None])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True [] [] []"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        alertprod.nonsense  # noqa: B018
    assert (Path(alertprod.__file__).parent / "py.typed").exists()


def test_modules_with_the_names_of_rooms_in_the_working_directory_do_no_harm(tmp_path):
    (tmp_path / "tasks.py").write_text("raise SystemExit(7)")
    for folder in ("alerts", "service", "exposure"):
        (tmp_path / folder).mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise SystemExit(8)")

    def python(code):
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    done = python(
        "import alertprod; alertprod.read; alertprod.Alert; import service.pairs.difference; print(service.__file__)"
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == Path(alertprod.__file__).parent.parent / "service"
    done = python("import alerts, alertprod")
    assert done.returncode == 1
    assert "ImportError: alertprod has a package 'alerts'" in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "path"), (3, "path"), ([[1.0, 2.0]], "list"), (np.zeros(5), "two axes"), (np.zeros((3, 4, 5)), "two axes"),
        (np.zeros((4, 4), complex), "real numbers"), (np.zeros((0, 4)), "two axes"), (np.full((4, 4), "a"), "real numbers"),
        ({"image": 1}, "path"), (pd.DataFrame({"a": ["x"]}), "real numbers"),
        (CCDData(np.ones((4, 4)), unit="adu", uncertainty=UnknownUncertainty(np.ones((4, 4)))), "StdDevUncertainty"),
    ],
)  # fmt: skip
def test_images_of_other_kinds_are_refused_with_what_was_expected(given, message):
    with pytest.raises(alertprod.InputType, match=message) as caught:
        alertprod.read(given)
    assert isinstance(caught.value, CallerError | TypeError)
    assert caught.value.code == "input_type"


def test_other_faults_are_typed_and_say_what_to_do(pair, files, tmp_path, star):
    for call, message in (
        (lambda: alertprod.read(tmp_path / "none.fits"), "none.fits"),
        (lambda: alertprod.read(pair.new, variance=np.ones((3, 3))), r"shape \(3, 3\)"),
        (lambda: alertprod.read(files[0], mask=np.zeros((3, 3))), "go with an array"),
        (lambda: alertprod.read(pair.new, wcs="RA"), "WCS"),
        (lambda: alertprod.read(pair.new, psf=np.ones((4, 4))), "odd"),
        (lambda: alertprod.read(pair.new, instrument="no such"), "no such"),
        (lambda: alertprod.read(pair.new, instrument=3), "instrument"),
        (lambda: alertprod.read(np.full((8, 8), np.nan)), "finite"),
        (lambda: alertprod.read(pair.new, gain=0), "gain"),
        (lambda: alertprod.read(pair.new, hdu=1), "hdu"),
        (lambda: alertprod.read(files[0], hdu="NONE"), "NONE"),
        (lambda: alertprod.photometry(star, "no_such.csv"), "does not exist"),
        (lambda: alertprod.photometry(star, 5), "SkyCoord"),
        (lambda: alertprod.photometry(star, np.ones((2, 3))), r"\(2, 3\)"),
        (lambda: alertprod.photometry(star, ([1.0, 2.0], [1.0])), "length"),
        (lambda: alertprod.photometry(star, [(150.0, 2.0), (150.0, 91.0)]), r"row 2 .*91.*outside"),
        (lambda: alertprod.photometry(star, Table({"a": [1.0]})), "x and y"),
        (lambda: alertprod.photometry(star, Table({"ra": ["10:00"], "dec": ["two"]})), "two.*no angle"),
        (lambda: alertprod.photometry(star, (1 * u.m, 2 * u.m)), "no unit"),
        (lambda: alertprod.match(Table({"x": [1.0], "y": [1.0]}), ([1.0], [2.0])), "ra and dec"),
        (lambda: alertprod.photometry(star, (150.0, 2.0), aperture=-1), "aperture"),
        (lambda: alertprod.match(([1.0], [2.0]), ([1.0], [2.0]), radius=-1), "radius"),
        (lambda: alertprod.match(([1.0], [2.0]), ([1.0], [2.0]), radius="1"), "radius"),
        (lambda: alertprod.match(([1.0], [2.0]), ([1.0], [2.0]), radius=1 * u.m), "radius"),
        (lambda: alertprod.open_apdb("mysql://host/db"), "mysql"),
        (lambda: alertprod.open_apdb(7), "APDB"),
        (lambda: alertprod.Alert(7), "packet"),
    ):
        with pytest.raises(AlertProdError, match=message):
            call()


def test_images_without_a_wcs_name_both_ways_out(pair):
    new, old = (
        alertprod.read(i, variance=v) for i, v in ((pair.new, pair.new_variance), (pair.old, pair.old_variance))
    )
    with pytest.raises(WcsMissing, match=r"new and the old.*registered=True.*register=True"):
        alertprod.subtract(new, old)
    with pytest.raises(WcsMissing):
        alertprod.photometry(new, (150.0, 2.0))
    made = alertprod.subtract(new, old, registered=True)
    assert (made.sources.reliability > 0.5).sum() == 6
