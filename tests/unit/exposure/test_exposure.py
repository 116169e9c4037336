"""exposure/: WCS, PSF models, calibration, mask, FITS round trip, instrument files."""

import multiprocessing
import os
import threading
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from exposure import (
    Exposure,
    ExposureCatalog,
    GaussianPsf,
    GridPsf,
    MoffatPsf,
    PhotoCalib,
    PolynomialPsf,
    PsfUndefined,
    SkyWcs,
    load_instrument,
)
from exposure.errors import BadPixels, BandUnknown, ExposureError, FitsUnreadable, InstrumentError, WcsMissing
from exposure.flagging.fill import fill_pixels
from exposure.instrument import Instrument, visit_from_mjd
from exposure.io.exposure_catalog import ExposureRecord
from exposure.io.native import open_fits, read_header, read_image, read_wcs
from exposure.mask import PLANES, plane_bits, remap
from exposure.photometry import forced_psf_photometry
from exposure.psf import fwhm_of
from exposure.stamps import windowed_centroids
from exposure.threads import in_bands, in_threads
from tests.support.exposures import S, make_exposure, tan


def sip_header():
    h = fits.Header()
    h.update(CTYPE1="RA---TAN-SIP", CTYPE2="DEC--TAN-SIP", CRPIX1=100.0, CRPIX2=90.0, CRVAL1=10.0, CRVAL2=-30.0)
    h.update(CD1_1=-S, CD1_2=0.0, CD2_1=0.0, CD2_2=S, A_ORDER=2, B_ORDER=2, A_2_0=2e-6, B_0_2=-1e-6, B_1_1=3e-6)
    return h


def tpv_header():
    h = fits.Header()
    h.update(CTYPE1="RA---TPV", CTYPE2="DEC--TPV", CRPIX1=100.0, CRPIX2=90.0, CRVAL1=10.0, CRVAL2=-30.0)
    h.update(CD1_1=-S, CD1_2=0.0, CD2_1=0.0, CD2_2=S, PV1_1=1.0, PV2_1=1.0, PV1_4=3e-3, PV2_5=-2e-3)
    return h


@pytest.mark.parametrize("header", [sip_header(), tpv_header(), tan().to_header()], ids=["sip", "tpv", "tan"])
@pytest.mark.parametrize("origin", [(0, 0), (12345, 67890)])
def test_wcs_goes_both_ways_at_any_origin(header, origin):
    wcs = SkyWcs.from_header(header, origin)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 2000, (2, 500)) + np.array(origin)[:, None]
    back = wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y))
    assert np.abs(back[0] - x).max() < 1e-4
    assert np.abs(back[1] - y).max() < 1e-4
    again = SkyWcs.from_header(wcs.to_header((origin[0] + 7, origin[1] + 9)), (origin[0] + 7, origin[1] + 9))
    assert again.same_as(wcs, x, y, 1e-6)


def test_wcs_jacobian_is_the_cd_matrix_and_the_far_side_is_refused():
    wcs = tan()
    j = wcs.jacobian(np.array([100.0]), np.array([80.0]))[0]
    assert np.allclose(j, [[-S, 0.1 * S], [0.1 * S, S]], rtol=1e-7)
    assert np.isnan(wcs.sky_to_pixel([330.0], [-2.0])[0][0])
    assert wcs.pixel_scale_arcsec(100.0, 80.0) == pytest.approx(0.2 * np.sqrt(1.01), rel=1e-6)


def test_wcs_corrections_move_what_they_say():
    wcs = tan()
    x, y = np.array([10.0, 150.0]), np.array([20.0, 90.0])
    moved = wcs.shifted(1.5, -2.0)
    assert np.allclose(moved.sky_to_pixel(*wcs.pixel_to_sky(x, y)), [x + 1.5, y - 2.0], atol=1e-6)
    m, t = np.array([[1.0, 1e-3], [-1e-3, 1.0]]), np.array([0.3, -0.2])
    c = wcs.reference_pixel
    true = (np.stack([x, y], 1) - c) @ m.T + c + t
    fixed = wcs.affine_corrected(m, t)
    assert np.allclose(fixed.pixel_to_sky(x, y), wcs.pixel_to_sky(*true.T), atol=1e-9)


def test_wcs_of_a_header_without_one_is_a_typed_error():
    with pytest.raises(WcsMissing):
        SkyWcs.from_header(fits.Header())
    h = tan().to_header()
    h["PC1_1"] = h["PC1_2"] = 0.0
    with pytest.raises(WcsMissing):
        SkyWcs.from_header(h)


@pytest.mark.parametrize("psf", [GaussianPsf(1.9, 31), MoffatPsf((4.5,), 3.2, 41, (0, 0, 100, 100))])
def test_psf_images_have_sum_one_and_the_right_centroid(psf):
    x, y = np.array([50.0, 50.3, 49.7, 50.49]), np.array([20.0, 19.8, 20.4, 20.0])
    images = psf.image_at(x, y).astype(float)
    assert np.allclose(images.sum((1, 2)), 1, atol=2e-6)
    g = np.arange(psf.size) - psf.size // 2
    cx = (images * g).sum((1, 2))
    assert np.allclose(cx, x - np.floor(x + 0.5), atol=6e-3)  # Moffat wings are cut at the stamp's edge


@pytest.mark.parametrize("sigma", [1.0, 1.23456, 2.1])
def test_adaptive_moments_give_the_width_of_a_gaussian(sigma):
    fwhm = fwhm_of(GaussianPsf(sigma, 25).moments_at(0, 0))[0]
    assert fwhm == pytest.approx(2.3548 * sigma, rel=0.01)


def test_adaptive_moments_of_a_cut_gaussian():
    assert np.sqrt(GaussianPsf(2.0, 7).moments_at(0, 0)[0, 0]) == pytest.approx(1.8562, abs=1e-4)


def test_pixel_psf_shifts_like_the_analytic_one():
    gauss = GaussianPsf(1.5, 31)
    stamp = gauss.kernel_at(0, 0)
    model = PolynomialPsf(stamp, np.array([[0, 0]]), (0, 0, 100, 100), (50.0, 50.0))
    x, y = np.random.default_rng(3).uniform(20, 80, (2, 50))
    assert np.abs(model.image_at(x, y) - gauss.image_at(x, y)).max() < 2e-4


def test_grid_psf_interpolates_and_says_where_it_is_undefined():
    cube = np.concatenate([GaussianPsf(s, 21).kernel_at(0, 0) for s in (1.5, 2.5)])
    grid = GridPsf(cube, 2, 1, (0, 0, 100, 50))
    middle = grid.kernel_at(49.5, 10)[0]
    assert np.allclose(middle, cube.mean(0), atol=1e-6)
    broken = GridPsf(np.where(np.arange(2)[:, None, None] == 1, np.nan, cube), 2, 1, (0, 0, 100, 50))
    assert np.allclose(broken.kernel_at(60, 10)[0], cube[0])
    with pytest.raises(PsfUndefined):
        broken.kernel_at(99, 10)


def test_mask_planes_are_moved_by_name_and_unknown_ones_dropped():
    theirs = np.array([[0b101]])
    named_as_ours = remap(np.array([[1, 2, 64]], np.uint8), {"BAD": 0, "SAT": 1})
    assert named_as_ours.tolist() == [[1, 2, 0]]  # a bit without a name means nothing
    ours = remap(theirs, {"SAT": 0, "WHATEVER": 1, "CR": 2})
    assert ours[0, 0] == plane_bits(["SAT", "CR"])
    assert plane_bits(["NO_SUCH_PLANE"]) == 0
    assert len(set(PLANES.values())) == len(PLANES)


@pytest.mark.parametrize("compress", [False, True])
def test_exposure_round_trip_is_lossless(tmp_path, compress, monkeypatch):
    one = make_exposure()
    one.write_fits(tmp_path / "e.fits", compress=compress)
    two = Exposure.read_fits(tmp_path / "e.fits")
    for name in ("image", "variance", "mask"):
        assert np.array_equal(getattr(one, name), getattr(two, name), equal_nan=name != "mask")
    assert (two.origin, two.visit_info, two.band) == (one.origin, one.visit_info, one.band)
    x, y = np.array([12350.0, 12400.0]), np.array([67900.0, 67930.0])
    assert two.wcs.same_as(one.wcs, x, y, 1e-6)
    assert read_wcs(tmp_path / "e.fits").same_as(one.wcs, x, y, 1e-6)
    assert np.array_equal(two.psf.kernel_at(x, y), one.psf.kernel_at(x, y))
    assert np.array_equal(two.photo_calib.at(x, y), one.photo_calib.at(x, y))
    assert two.photo_calib.source == "refcat"
    assert np.array_equal(two.ap_corr.at("base_PsfFlux_instFlux", x, y), [1.01, 1.01])
    before = (tmp_path / "e.fits").read_bytes()
    monkeypatch.setattr(time, "time", lambda: 1e9)  # gzip headers hold the time
    one.write_fits(tmp_path / "e.fits", compress=compress)
    assert (tmp_path / "e.fits").read_bytes() == before


def test_a_file_that_was_read_is_not_in_memory_twice(tmp_path):
    """Of 16 MB of pixels in a file 16 MB are held after reading, not 32; what was read can be read again."""
    pixels = np.arange(4_000_000, dtype=np.float32).reshape(2000, 2000)
    fits.writeto(tmp_path / "big.fits", pixels)
    with open_fits(tmp_path / "big.fits") as hdus:
        tracemalloc.start()
        try:
            first = read_image(hdus, 0)
            assert tracemalloc.get_traced_memory()[0] < 17_000_000
        finally:
            tracemalloc.stop()
        assert np.array_equal(read_image(hdus, 0), first)
        assert np.array_equal(first, pixels)


def test_a_file_that_is_cut_short_while_it_is_read_is_refused_and_ends_no_process(tmp_path):
    """As somebody does who writes it again in its place, also on another machine."""
    fits.writeto(tmp_path / "a.fits", np.ones((500, 500), np.float32))
    with pytest.raises(FitsUnreadable, match=r"a\.fits was changed"), open_fits(tmp_path / "a.fits") as hdus:
        os.truncate(tmp_path / "a.fits", 2880)
        read_image(hdus, 0)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path):
    fits.writeto(tmp_path / "a.fits", np.ones((50, 50), np.float32))
    with pytest.raises(FitsUnreadable, match="was changed while it was read"), open_fits(tmp_path / "a.fits") as hdus:
        read_image(hdus, 0)
        with open(tmp_path / "a.fits", "r+b") as other:
            other.seek(3000)
            other.write(b"other")


@pytest.mark.parametrize(
    "psf",
    [
        GaussianPsf(2.0, 21, (3.0, 4.0)),
        GridPsf(np.repeat(GaussianPsf(2.0, 21).kernel_at(0, 0), 6, 0), 3, 2, (5, 6, 80, 60)),
        PolynomialPsf(np.random.default_rng(0).normal(size=(3, 21, 21)).astype("f4"), np.array([[0, 0], [1, 0], [0, 1]]),
                      (0, 0, 80, 60), (40.0, 30.0), 0.003),
    ],
)  # fmt: skip
def test_every_psf_model_survives_fits(tmp_path, psf):
    e = make_exposure()
    e.psf = psf
    e.write_fits(tmp_path / "e.fits")
    back = Exposure.read_fits(tmp_path / "e.fits").psf
    x, y = np.array([10.0, 60.2]), np.array([20.0, 41.7])
    assert np.array_equal(back.image_at(x, y), psf.image_at(x, y))
    assert back.average_position() == psf.average_position()
    assert getattr(back, "flux_error", None) == getattr(psf, "flux_error", None)


def test_exposure_catalog_round_trip(tmp_path):
    e = make_exposure()
    catalog = ExposureCatalog(Table({"id": [7, 8], "zeroPoint": [31.0, 31.1]}),
                              {7: ExposureRecord(e.wcs, e.psf, e.photo_calib, e.ap_corr)})  # fmt: skip
    catalog.write_fits(tmp_path / "c.fits")
    back = ExposureCatalog.read_fits(tmp_path / "c.fits")
    x, y = np.array([12350.0]), np.array([67900.0])
    assert np.array_equal(back.find(7).psf.kernel_at(x, y), e.psf.kernel_at(x, y))
    assert np.array_equal(back.find(7).photo_calib.at(x, y), e.photo_calib.at(x, y))
    assert back.find(7).wcs.same_as(e.wcs, x, y)
    assert back.find(8) == ExposureRecord()
    assert back.find(9) is None
    catalog.write_parquet(tmp_path / "c.parquet")
    assert ExposureCatalog.read_parquet(tmp_path / "c.parquet").find(7).photo_calib.mean == 2.5


def test_broken_files_are_typed_errors(tmp_path):
    good = tmp_path / "good.fits"
    make_exposure().write_fits(good)
    data = good.read_bytes()
    cases = {"cut": data[: len(data) // 2], "noise": b"\x00\x01" * 5000, "empty": b""}
    for name, content in cases.items():
        path = tmp_path / f"{name}.fits"
        path.write_bytes(content)
        with pytest.raises(FitsUnreadable, match=f"{name}.fits"):
            Exposure.read_fits(path)
    with pytest.raises(FitsUnreadable):
        Exposure.read_fits(tmp_path / "absent.fits")
    huge = fits.PrimaryHDU().header
    huge["NAXIS"], huge["NAXIS1"], huge["NAXIS2"], huge["BITPIX"] = 2, 10**9, 10**6, -32
    (tmp_path / "huge.fits").write_bytes(huge.tostring().encode())
    with pytest.raises(FitsUnreadable):
        Exposure.read_fits(tmp_path / "huge.fits", "hatp32")


def plain(tmp_path, **cards):
    h = tan().to_header()
    h.update(
        {
            "EXPTIME": 60.0,
            "UT-OBS": "2017-12-20T01:33:43.317-0000",
            "FILTER": "Clear",
            "OBJECT": "x",
            "RA": 1.0,
            "DEC": 2.0,
            "SATURATE": 4095,
        }
    )
    for key, value in cards.items():
        h[key] = value
    data = np.random.default_rng(0).normal(350, 1.2, (64, 64)).astype(np.float32)
    if cards.get("ALLNAN"):
        data[:] = np.nan
    fits.writeto(tmp_path / "p.fits", data, h, overwrite=True)
    return tmp_path / "p.fits"


def test_plain_image_by_the_rules_of_its_instrument(tmp_path):
    e = Exposure.read_fits(plain(tmp_path), "hatp32")
    assert e.visit_info.visit == 17122005690
    assert e.visit_info.midpoint_mjd_tai == pytest.approx(58107.0650847 + 37 / 86400 + 30 / 86400, abs=1e-6)
    assert (e.band, e.physical_filter) == ("r", "Clear")
    assert e.flagged("NO_DATA")[0, 0]
    assert not e.flagged("NO_DATA")[30, 30]


@pytest.mark.parametrize(
    ("cards", "error"),
    [({"FILTER": "Ha"}, BandUnknown), ({"UT-OBS": "yesterday"}, InstrumentError), ({"ALLNAN": True}, BadPixels),
     ({"CTYPE1": "LINEAR"}, WcsMissing)],
)  # fmt: skip
def test_plain_image_that_breaks_the_rules(tmp_path, cards, error):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error):
            Exposure.read_fits(plain(tmp_path, **cards), "hatp32")


def test_instrument_files_are_checked(tmp_path):
    assert load_instrument("decam").packer().n_detectors == 63
    with pytest.raises(InstrumentError, match="no instrument file"):
        load_instrument("nosuchcam")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\npixel_scale: 1\nnonsense: 3\n")
    with pytest.raises(InstrumentError, match="nonsense"):
        load_instrument(str(bad))
    for text, said in {
        "band: {key: FILTER, regex: '(('}": "regular expression",
        "pixel_scale: -1": "pixel_scale",
        "pixel_scale: .nan": "pixel_scale",
        "ids: {n_visits: 0}": "n_visits",
        "characterize: {background_mesh: 0}": "background_mesh",
    }.items():
        bad.write_text(f"name: bad\n{text}\n")
        with pytest.raises(InstrumentError, match=said):
            load_instrument(str(bad))
    bad.write_bytes("name: caf\xe9\n".encode("latin-1"))
    with pytest.raises(InstrumentError, match="UTF-8"):
        load_instrument(str(bad))
    assert isinstance(load_instrument("simcam"), Instrument)
    assert visit_from_mjd(58107.5) == 17122043200


def test_a_file_cut_short_is_refused_whoever_reads_beside(tmp_path):
    """The filters of warnings are those of the process: what another thread begins and ends must not matter."""
    fits.writeto(tmp_path / "whole.fits", np.zeros((100, 100), np.float32))
    whole = (tmp_path / "whole.fits").read_bytes()
    (tmp_path / "short.fits").write_bytes(whole[:-10000])
    before, reading, end = list(warnings.filters), threading.Event(), threading.Event()

    def read():
        with open_fits(tmp_path / "whole.fits"):
            reading.set()
            assert end.wait(30)

    beside = threading.Thread(target=read)
    beside.start()
    assert reading.wait(30)
    with open_fits(tmp_path / "whole.fits"):
        end.set()
        beside.join(30)  # began first, and ends first
        with pytest.raises(FitsUnreadable, match="truncated"), open_fits(tmp_path / "short.fits"):
            pass
    assert list(warnings.filters) == before


def test_header_alone_reads_no_pixels(tmp_path):
    make_exposure().write_fits(tmp_path / "e.fits")
    assert read_header(tmp_path / "e.fits")["BAND"] == "r"


def test_calibration_must_be_positive():
    with pytest.raises(ExposureError):
        PhotoCalib(-1.0)
    assert PhotoCalib.from_zeropoint(31.4).mean == pytest.approx(1.0)


def forced_fixture(n_pix=15):
    psf = GaussianPsf(5 / 2.3548200450309493, n_pix)
    return psf


def test_forced_flux_reference_values():
    """The published check: one pixel of value 10, variance 1, calibration 1e4, objects on a diagonal."""
    image = np.zeros((80, 80), np.float32)
    image[40, 40] = 10
    variance = np.ones_like(image)
    d = np.arange(5.0)
    t = forced_psf_photometry(image, variance, forced_fixture(), 40 + d, 40 + d)
    flux = [199854.48417094944, 160097.40719241602, 82299.17897267535, 27148.604434624354, 5746.988388215507]
    assert np.allclose(t.instFlux * 1e4, flux, rtol=2e-6)
    assert np.allclose(t.instFluxErr * 1e4, 75214.39252, rtol=2e-6)
    assert t.area[0] == pytest.approx(56.5720484218, rel=2e-6)


def test_forced_flux_does_not_depend_on_order_or_neighbours():
    rng = np.random.default_rng(5)
    image, variance = rng.normal(size=(100, 120)).astype("f4"), np.ones((100, 120), "f4")
    x, y = rng.uniform(-30, 150, 5000), rng.uniform(-30, 130, 5000)
    whole = forced_psf_photometry(image, variance, GaussianPsf(2.0, 25), x, y)
    order = rng.permutation(5000)
    part = forced_psf_photometry(image, variance, GaussianPsf(2.0, 25), x[order][:700], y[order][:700])
    assert np.array_equal(part.instFlux, whole.instFlux.to_numpy()[order][:700], equal_nan=True)


def test_forced_flux_edges_and_bad_input():
    image, variance = np.ones((40, 40), np.float32), np.ones((40, 40), np.float32)
    t = forced_psf_photometry(image, variance, GaussianPsf(2.0, 21), [20, 1, 500, np.nan], [20, 20, 20, 20])
    assert list(t.flag) == [False, True, True, True]
    assert list(t.flag_noGoodPixels) == [False, False, True, True]
    assert np.isfinite(t.instFlux[:2]).all()
    assert t.instFlux[2:].isna().all()
    image[20, 20] = np.inf
    bad = ~np.isfinite(image)
    assert np.isnan(forced_psf_photometry(image, variance, GaussianPsf(2.0, 21), [20], [20]).instFlux[0])
    assert np.isfinite(forced_psf_photometry(image, variance, GaussianPsf(2.0, 21), [20], [20], bad=bad).instFlux[0])


def test_forced_pulls_have_unit_width():
    rng = np.random.default_rng(6)
    variance = np.full((512, 512), 4.0, np.float32)
    image = rng.normal(0, 2, (512, 512)).astype(np.float32)
    x, y = rng.uniform(20, 490, (2, 4000))
    t = forced_psf_photometry(image, variance, GaussianPsf(1.8, 25), x, y)
    pull = t.instFlux / t.instFluxErr
    assert abs(pull.mean()) < 0.1
    assert pull.std() == pytest.approx(1.0, abs=0.05)


def test_border_of_one_fill_value_has_no_data_and_coarse_noise_has():
    rng = np.random.default_rng(0)
    fine, coarse = (np.round(rng.normal(1000, s, (120, 150))).astype("f4") for s in (30.0, 0.8))
    for image in (fine, coarse):
        assert fill_pixels(image) is None
    fine[:, :3] = 1000
    fine[40:60, 2] = 1013
    fine[-1] = 0
    empty = fill_pixels(fine)
    assert empty[:-1, :2].all()
    assert empty[-1].all()
    assert not empty[40:60, 2].any()
    assert not empty[1:-1, 3:].any()


def test_windowed_centroids_are_those_of_noisy_stars_to_their_error():
    """A Gaussian of S/N 100 and 2 px sigma has a centroid error of about 2 / 100 px."""
    rng = np.random.default_rng(5)
    n, side, sigma = 400, 31, 2.0
    x, y = rng.uniform(-0.5, 0.5, (2, n))
    g = np.arange(side) - side // 2
    r2 = (g[None, None, :] - x[:, None, None]) ** 2 + (g[None, :, None] - y[:, None, None]) ** 2
    stamps = np.exp(-r2 / (2 * sigma**2)) + rng.normal(0, 2 * np.sqrt(np.pi) * sigma / 200, (n, side, side))
    found = windowed_centroids(stamps.astype(np.float32), np.zeros(n), np.zeros(n), sigma)
    error = found - np.column_stack([x, y])
    assert np.abs(error.mean(0)).max() < 0.005
    assert 0.01 < error.std() < 0.03


def test_windowed_centroids_without_light_or_off_the_stamp_are_undefined():
    dark = np.full((1, 21, 21), -1.0, np.float32)
    slope = np.broadcast_to(np.exp(0.8 * np.arange(21.0)), (1, 21, 21)).astype(np.float32)
    for stamps in (dark, slope):
        assert np.isnan(windowed_centroids(stamps, np.zeros(1), np.zeros(1), 1.5)).all()


def test_bands_cover_all_rows_once_also_within_a_band_and_after_a_fork(monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", "3")
    seen = np.zeros((30, 7), np.int64)

    def inner(row):
        def add(first, last):
            seen[row, first:last] += 1

        in_bands(add, 7, least=1)

    in_bands(lambda first, last: [inner(row) for row in range(first, last)], 30, least=1)
    assert (seen == 1).all()
    assert in_threads(lambda k: k * k, range(5)) == [0, 1, 4, 9, 16]
    child = multiprocessing.get_context("fork").Process(target=in_threads, args=(abs, [-1, 2, -3]))
    child.start()
    child.join(30)
    assert child.exitcode == 0


def test_the_error_of_any_band_is_raised_when_all_have_ended(monkeypatch):
    monkeypatch.setenv("ALERTPROD_THREADS", "2")
    for bad in (0, 1):
        ended = []

        def work(first, last, bad=bad, ended=ended):
            ended.append(first)
            if first == 5 * bad:
                raise ValueError(f"band {bad}")

        with pytest.raises(ValueError, match=f"band {bad}"):
            in_bands(work, 10, least=1)
        assert sorted(ended) == [0, 5]
