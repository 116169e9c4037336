"""The checklist of forced photometry: the kernel against injected truth, and the task line by line."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from astropy.table import Table
from astropy.wcs import WCS
from lsst.pipe.base import NoWorkFound
from scipy.ndimage import gaussian_filter

from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.apcorr import PSF_FLUX, ApCorrMap
from exposure.errors import PsfUndefined
from exposure.field import ChebyshevField
from exposure.io.exposure_catalog import ExposureCatalog, ExposureRecord
from exposure.mask import plane_bits
from exposure.noise import sky_autocorrelation
from exposure.photometry import forced_psf_photometry
from exposure.psf import GaussianPsf
from forced import ForcedPhotCcdFromDataFrameTask
from forced.calibrated import FLAG_BITS, measure_pair
from forced.errors import ForcedPhotometryError
from forced.plugins import local_background, local_wcs, psf_moments
from tasks import IdGenerator, IdPacker
from tests.support.quantum import Quantum

SIGMA = 2.0
PSF = GaussianPsf(SIGMA, 25)


def wcs(shift_px: float = 0.0, centre: tuple[float, float] = (45.0, -10.0)) -> SkyWcs:
    w = WCS(naxis=2)
    w.wcs.ctype, w.wcs.crval, w.wcs.crpix = ["RA---TAN", "DEC--TAN"], list(centre), [51.0 + shift_px, 51.0]
    w.wcs.cd = np.array([[-0.2, 0.01], [0.01, 0.2]]) / 3600
    return SkyWcs(w)


def add(
    image: np.ndarray, x: float, y: float, flux: float, origin: tuple[int, int] = (0, 0), psf: GaussianPsf = PSF
) -> None:
    stamp = psf.image_at([x], [y])[0] * flux
    cx, cy, half = int(np.floor(x + 0.5)) - origin[0], int(np.floor(y + 0.5)) - origin[1], psf.size // 2
    height, width = image.shape
    for j in range(psf.size):
        for i in range(psf.size):
            if 0 <= cy + j - half < height and 0 <= cx + i - half < width:
                image[cy + j - half, cx + i - half] += stamp[j, i]


def exposure(size: int = 101, noise: float = 10.0, seed: int = 1, origin: tuple[int, int] = (0, 0)) -> Exposure:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, noise, (size, size)).astype(np.float32)
    return Exposure(
        image,
        np.full((size, size), noise**2, np.float32),
        np.zeros((size, size), np.int32),
        origin,
        wcs(),
        PSF,
        PhotoCalib(2.0, 0.03),
        VisitInfo(1, 2, 61000.0, 30.0, "fixture"),
        "r",
    )


def task(**config: object) -> ForcedPhotCcdFromDataFrameTask:
    c = ForcedPhotCcdFromDataFrameTask.ConfigClass()
    c.update(**config)
    c.validate()
    return ForcedPhotCcdFromDataFrameTask(config=c)


def frame(e: Exposure, x: list[float], y: list[float], first: int = 2**53 + 1) -> pd.DataFrame:
    ra, dec = e.require_wcs().pixel_to_sky(np.array(x), np.array(y))
    return pd.DataFrame({"diaObjectId": first + np.arange(len(x)), "ra": ra, "dec": dec})


def measure(t: ForcedPhotCcdFromDataFrameTask, e: Exposure, *tables: object) -> pd.DataFrame:
    reference = t.mergeAndFilterReferences(e, list(tables))
    cat, number = t.generateMeasCat(None, e, reference)
    return t.run(t.attachFootprints(cat, reference, e), e, reference, exposureId=number).measCat


def test_two_sources_with_a_perturbed_wcs() -> None:
    e = exposure()
    for x, y, flux in ((30.0, 40.0, 1000.0), (70.3, 60.7, 10000.0)):
        add(e.image, x, y, flux)
    table = frame(e, [30.0, 70.3], [40.0, 60.7])
    right = measure(task(), e, table)
    moved = measure(task(), replace(e, wcs=wcs(0.7)), table)
    assert np.isfinite(moved[["psfFlux", "psfFluxErr"]].to_numpy()).all()
    assert np.allclose(moved.base_TransformedCentroidFromCoord_x, [30.7, 71.0], rtol=1e-7)
    assert right.psfFlux[1] / 2 == pytest.approx(10000, abs=3 * right.psfFluxErr[1] / 2)
    assert moved.psfFlux[1] < right.psfFlux[1]
    assert list(right.diaObjectId) == [2**53 + 1, 2**53 + 2]  # not rounded to a double
    assert (right.base_LocalPhotoCalib == 2.0).all() and (right.base_LocalPhotoCalibErr == 0.03).all()


def test_every_kind_of_table_gives_the_same_rows_and_types() -> None:
    e, t = exposure(), task()
    table = frame(e, [30.0, 70.0, 500.0], [40.0, 60.0, 50.0])
    catalogue = {"id": table.diaObjectId, "coord_ra": np.radians(table.ra), "coord_dec": np.radians(table.dec)}
    expected = measure(t, e, table)
    assert len(expected) == 2
    kinds = (
        pa.Table.from_pandas(table), Table(catalogue), pd.DataFrame(catalogue).to_records(index=False),
        table.set_index("diaObjectId"), table.rename(columns={"dec": "decl"}),
    )  # fmt: skip
    for other in kinds:
        pd.testing.assert_frame_equal(measure(t, e, other), expected, rtol=1e-12, check_exact=False)
    pd.testing.assert_frame_equal(measure(t, e, table.iloc[:1], table.iloc[1:]), expected)
    pd.testing.assert_series_equal(
        t.getSchemaCatalogs()["forced_src"].dtypes,
        measure(
            t, replace(e, ap_corr=ApCorrMap({PSF_FLUX: ChebyshevField.constant(1.0, (0, 0, 101, 101))})), table
        ).dtypes,
    )


def test_bad_configuration_and_bad_references_are_refused() -> None:
    e, t = exposure(), task()
    with pytest.raises(ValueError, match="transformed"):
        task(footprintSource="transformed")
    with pytest.raises(ValueError, match="refCatIdColumn"):
        task(copyColumns={"id": "objectId"})
    with pytest.raises(NoWorkFound, match="no WCS"):
        measure(t, replace(e, wcs=None), frame(e, [30.0], [40.0]))
    with pytest.raises(ForcedPhotometryError, match="no PSF"):
        measure(t, replace(e, psf=None), frame(e, [30.0], [40.0]))
    with pytest.raises(ForcedPhotometryError, match="no reference"):
        measure(t, e)
    table = frame(e, [30.0, 70.0], [40.0, 60.0])
    with pytest.raises(ForcedPhotometryError, match="no column"):
        t.df2SourceCat(table.drop(columns="diaObjectId"))
    with pytest.raises(ForcedPhotometryError, match="int64"):
        t.df2SourceCat(table.astype({"diaObjectId": float}))
    with pytest.raises(ForcedPhotometryError, match="twice"):
        t.df2SourceCat(table.assign(diaObjectId=5))


def test_nothing_to_measure_is_no_error() -> None:
    e, t = exposure(), task()
    table = frame(e, [30.0, -200.0, np.nan], [40.0, 60.0, 50.0])
    assert len(measure(t, e, table.iloc[:0])) == 0 and len(measure(t, e, table.iloc[1:])) == 0
    assert list(measure(t, e, table.iloc[:0]).columns) == list(measure(t, e, table).columns)
    assert list(measure(t, e, table).diaObjectId) == [table.diaObjectId[0]]


@pytest.mark.parametrize("centre", [(0.0, 0.0), (359.999, 20.0), (10.0, 89.995), (200.0, -89.995)])
def test_positions_at_the_wrap_and_the_poles(centre: tuple[float, float]) -> None:
    e = replace(exposure(noise=1.0), wcs=wcs(0.0, centre))
    for x in (20.0, 50.0, 80.0):
        add(e.image, x, x, 5000.0)
    found = measure(task(), e, frame(e, [20.0, 50.0, 80.0], [20.0, 50.0, 80.0]))
    assert np.allclose(found.psfFlux, 10000, atol=4 * found.psfFluxErr.max())


def test_noise_free_flux_is_exact_and_has_no_error() -> None:
    image = np.zeros((60, 60), np.float32)
    add(image, 30.3, 29.8, 1234.0)
    t = forced_psf_photometry(image, np.zeros_like(image), PSF, [30.3], [29.8])
    assert t.instFlux[0] == pytest.approx(1234, rel=1e-3)
    assert t.instFluxErr[0] == 0 and np.isinf(t.chi2[0])


@pytest.mark.parametrize("relative", [0.001, 0.01, 0.1])
def test_error_is_the_scatter_of_a_thousand_realisations(relative: float) -> None:
    rng, flux = np.random.default_rng(3), 1000.0
    stamp = PSF.image_at([12.2], [11.9])[0].astype(np.float64)
    noise = relative * flux
    images = (stamp * flux + rng.normal(0, noise, (1000, 25, 25))).astype(np.float32)
    variance = np.full((25, 25), noise**2, np.float32)
    tables = [forced_psf_photometry(i, variance, PSF, [12.2], [11.9]).iloc[0] for i in images]
    t = pd.DataFrame(tables)
    assert t.instFluxErr.mean() == pytest.approx(t.instFlux.std(), rel=0.10)
    assert abs(t.instFlux.mean() - flux) < 2 * t.instFluxErr.mean() / np.sqrt(1000)
    direct = [
        (((i - f * stamp.astype(np.float32)) ** 2) / variance).sum(dtype=np.float64)
        for i, f in zip(images[:50], t.instFlux[:50], strict=True)
    ]
    assert np.allclose(t.chi2[:50], direct, rtol=2e-6)
    assert t.npixels.nunique() == 1 and t.npixels.iloc[0] == 625


def test_a_pixel_that_is_no_number_fails_unless_its_plane_is_left_out() -> None:
    e = exposure(noise=1.0)
    add(e.image, 50.0, 50.0, 4000.0)
    e.image[51, 50], e.mask[51, 50] = np.inf, plane_bits(["BAD"])
    table = frame(e, [50.0], [50.0])
    failed = measure(task(), e, table)
    assert failed.base_PsfFlux_flag[0] and np.isnan(failed.psfFlux[0])
    good = measure(task(badMaskPlanes=["BAD"]), e, table)
    assert not good.base_PsfFlux_flag[0] and good.base_PsfFlux_npixels[0] == 624
    assert good.base_PsfFlux_instFlux[0] == pytest.approx(4000, abs=3 * good.base_PsfFlux_instFluxErr[0])
    e.mask[:] = plane_bits(["BAD"])
    none = measure(task(badMaskPlanes=["BAD"]), e, table)
    assert none.base_PsfFlux_flag_noGoodPixels[0] and none.base_PsfFlux_flag[0] and np.isnan(none.psfFlux[0])


def test_clipped_stamp_keeps_its_flux() -> None:
    whole = np.random.default_rng(8).normal(0, 1, (80, 80)).astype(np.float32)
    add(whole, 40.0, 40.0, 2000.0)
    part = np.ascontiguousarray(whole[29:52, 29:52])  # one pixel smaller than the stamp on each side
    variance = np.ones_like(part)
    t = forced_psf_photometry(part, variance, PSF, [40.0], [40.0], origin=(29, 29))
    assert t.flag_edge[0] and t.flag[0] and t.npixels[0] == 23 * 23
    assert t.instFlux[0] == pytest.approx(2000, abs=3 * t.instFluxErr[0])
    model = PSF.image_at([40.0], [40.0])[0][1:-1, 1:-1].astype(np.float64)
    assert t.chi2[0] == pytest.approx(((part - t.instFlux[0] * model) ** 2).sum(), rel=1e-7)


class _HalfDefined(GaussianPsf):
    """A model without a value in the right half."""

    def image_at(self, x: object, y: object) -> np.ndarray:
        if (np.asarray(x) > 50).any():
            raise PsfUndefined("right half")
        return super().image_at(x, y)  # type: ignore[arg-type]


def test_psf_without_value_at_a_place_fails_that_row_only() -> None:
    e = replace(exposure(), psf=_HalfDefined(SIGMA, 25))
    found = measure(task(), e, frame(e, [30.0, 70.0, 40.0], [40.0, 60.0, 20.0]))
    assert list(found.base_InvalidPsf_flag) == [False, True, False]
    assert list(found.base_PsfFlux_flag) == [False, True, False] and np.isnan(found.psfFlux[1])


def test_aperture_correction() -> None:
    e = exposure(noise=1.0)
    add(e.image, 50.0, 50.0, 4000.0)
    table = frame(e, [50.0], [50.0])
    plain = measure(task(), e, table)
    for factor in (1.0, 0.5, 2.0):
        corrected = measure(task(), _with_correction(e, factor), table)
        for name in ("psfFlux", "psfFluxErr"):
            assert corrected[name][0] == pytest.approx(factor * plain[name][0])
        assert not corrected.base_PsfFlux_flag_apCorr[0]
    for factor in (-1.0, np.nan):
        failed = measure(task(), _with_correction(e, factor), table)
        assert failed.base_PsfFlux_flag_apCorr[0] and failed.base_PsfFlux_flag[0]
        assert failed.psfFlux[0] == plain.psfFlux[0]
        assert not measure(task(doFlagApCorrFailures=False), _with_correction(e, factor), table).base_PsfFlux_flag[0]
    other = replace(e, ap_corr=ApCorrMap({"base_GaussianFlux_instFlux": ChebyshevField.constant(2.0, e.bbox)}))
    missing = measure(task(), other, table)
    assert missing.base_PsfFlux_flag_apCorr[0] and missing.psfFlux[0] == plain.psfFlux[0]


def _with_correction(e: Exposure, factor: float) -> Exposure:
    return replace(e, ap_corr=ApCorrMap({PSF_FLUX: ChebyshevField.constant(factor, e.bbox)}))


def test_pixel_flags_of_ellipse_and_centre() -> None:
    e = exposure(origin=(12345, 67890))
    w = WCS(naxis=2)
    w.wcs.ctype, w.wcs.crval, w.wcs.crpix = ["RA---TAN", "DEC--TAN"], [45.0, -10.0], [12396.0, 67941.0]
    w.wcs.cd = np.array([[-0.2, 0.0], [0.0, 0.2]]) / 3600
    e = replace(e, wcs=SkyWcs(w))
    sat, cr, bad = (plane_bits([p]) for p in ("SAT", "CR", "BAD"))
    e.mask[40, 35] |= sat  # 5 px beside the first: in the ellipse of 6 px
    e.mask[40, 37] |= bad  # 7 px: beyond
    e.mask[40, 31] |= cr  # in the 3x3
    e.mask[59:62, 69:72] |= bad
    x, y = [12375.0, 12415.0], [67930.0, 67950.0]
    found = measure(task(), e, frame(e, x, y))

    def names(k: int) -> set[str]:
        flags = {n.removeprefix("base_PixelFlags_flag_"): n for n in found if n.startswith("base_PixelFlags_flag_")}
        return {short for short, column in flags.items() if found[column][k]}

    assert names(0) == {"saturated", "cr", "crCenter"}
    assert names(1) == {"bad", "badCenter", "badCenterAll"}


def test_pixel_flags_off_the_image_and_without_position() -> None:
    from forced.plugins import pixel_flags

    e = exposure()
    e.mask[:] = plane_bits(["CR"])
    x, y = np.array([-5.0, np.nan, 50.0]), np.array([50.0, 50.0, 50.0])
    found = pixel_flags(e, x, y, psf_moments(e, x, y))
    assert list(found["base_PixelFlags_flag_offimage"]) == [True, True, False]
    for name in ("edge", "edgeCenter", "edgeCenterAll"):
        assert list(found[f"base_PixelFlags_flag_{name}"]) == [True, True, False]
    assert list(found["base_PixelFlags_flag"]) == [False, True, False]
    assert not found["base_PixelFlags_flag_crCenter"][1] and found["base_PixelFlags_flag_crCenterAll"][2]


def test_local_background_gives_the_flux_without_it() -> None:
    rng = np.random.default_rng(4)
    level, noise = 1234.56789, 12.3456789
    image = np.zeros((161, 161), np.float32)
    add(image, 80.0, 80.0, 3000.0)
    variance, mask = np.full_like(image, noise**2), np.zeros(image.shape, np.int32)
    flat = Exposure(image + np.float32(level), variance, mask, psf=PSF)
    x = np.array([80.0])
    found = local_background(flat, x, x, psf_moments(flat, x, x))
    t = forced_psf_photometry(flat.image, flat.variance, PSF, x, x)
    clean = forced_psf_photometry(image, variance, PSF, x, x).instFlux[0]
    assert t.instFlux[0] - t.area[0] * found["base_LocalBackground_instFlux"][0] == pytest.approx(clean, rel=3e-4)
    noisy = Exposure(rng.normal(level, noise, image.shape).astype("f4"), variance, mask, psf=PSF)
    noisy.image[80, 80 + 20] = 1e6  # a star in the ring is clipped away
    found = local_background(noisy, x, x, psf_moments(noisy, x, x))
    pixels = np.pi * (15**2 - 7**2) * SIGMA**2
    assert abs(found["base_LocalBackground_instFlux"][0] - level) < 3 * noise / np.sqrt(pixels)
    assert found["base_LocalBackground_instFluxErr"][0] == pytest.approx(noise, rel=0.1)
    noisy.mask[:] = plane_bits(["BAD"])
    assert local_background(noisy, x, x, psf_moments(noisy, x, x))["base_LocalBackground_flag_noGoodPixels"][0]


def test_local_wcs_is_the_matrix_of_the_header() -> None:
    found = local_wcs(exposure(), np.array([50.0]), np.array([50.0]))
    matrix = np.array([[found[f"base_LocalWcs_CDMatrix_{j}_{i}"][0] for i in (1, 2)] for j in (1, 2)])
    assert np.allclose(matrix, np.radians(np.array([[-0.2, 0.01], [0.01, 0.2]]) / 3600), atol=1e-14, rtol=1e-6)
    assert local_wcs(replace(exposure(), wcs=None), np.array([50.0]), np.array([50.0]))["base_LocalWcs_flag"][0]


def test_pulls_of_empty_sky_and_flux_of_injected_stars() -> None:
    e = exposure(size=1024, noise=2.0, seed=9)
    rng = np.random.default_rng(10)
    x, y = rng.uniform(20, 1000, (2, 4000))
    t = forced_psf_photometry(e.image, e.variance, PSF, x, y)
    pull = t.instFlux / t.instFluxErr
    assert abs(pull.mean()) < 0.1 and pull.std() == pytest.approx(1.0, abs=0.05)
    stars = np.stack(np.meshgrid(np.arange(40, 1000, 60), np.arange(40, 1000, 60)), -1).reshape(-1, 2) + rng.uniform(
        -0.5, 0.5, (256, 2)
    )
    flux = 100 * t.instFluxErr.mean()
    for sx, sy in stars:
        add(e.image, sx, sy, flux)
    t = forced_psf_photometry(e.image, e.variance, PSF, *stars.T)
    assert t.instFlux.mean() / flux == pytest.approx(1, abs=0.01)


def test_inverse_variance_weights_are_unbiased_and_more_precise() -> None:
    rng = np.random.default_rng(12)
    variance = np.where(np.arange(101) % 5 == 0, 100.0, 1.0) * np.ones((101, 1))
    both = []
    for _ in range(300):
        image = rng.normal(0, np.sqrt(variance)).astype("f4")
        add(image, 50.2, 49.7, 500.0)
        both.append(
            [
                forced_psf_photometry(image, variance.astype("f4"), PSF, [50.2], [49.7], weighting=w).iloc[0]
                for w in ("uniform", "inverse_variance")
            ]
        )
    plain, weighted = (pd.DataFrame([b[k] for b in both]) for k in (0, 1))
    for t in (plain, weighted):
        assert ((t.instFlux - 500) / t.instFluxErr).std() == pytest.approx(1, abs=0.1)
        assert abs(t.instFlux.mean() - 500) < 3 * t.instFluxErr.mean() / np.sqrt(300)
    assert weighted.instFluxErr.mean() < 0.5 * plain.instFluxErr.mean()


def test_correlated_noise_errors_have_pulls_of_unit_width() -> None:
    rng = np.random.default_rng(14)
    noise = gaussian_filter(rng.normal(size=(1200, 1200)), 0.8)
    e = exposure(size=1200)
    e = replace(e, image=(noise / noise.std()).astype("f4"), variance=np.ones((1200, 1200), "f4"))
    x, y = rng.uniform(20, 1180, (2, 6000))
    found = sky_autocorrelation(e.image, e.variance, np.ones(e.image.shape, bool))
    assert found is not None and found[5, 5] == pytest.approx(1, abs=0.03)
    assert found[5, 6] == pytest.approx(np.exp(-1 / (4 * 0.8**2)), abs=0.03)
    for correlation, width in ((None, None), (found, 1.0)):
        t = forced_psf_photometry(e.image, e.variance, PSF, x, y, correlation=correlation)
        pulls = (t.instFlux / t.instFluxErr).std()
        assert pulls > 2 if width is None else pulls == pytest.approx(width, abs=0.05)
    w = wcs()
    ra, dec = w.pixel_to_sky(x[:50], y[:50])
    table = pd.DataFrame({"diaObjectId": np.arange(50), "ra": ra, "dec": dec})
    ratio = measure(task(doCorrelatedNoise=True), e, table).psfFluxErr / measure(task(), e, table).psfFluxErr
    assert (ratio > 2).all()


def test_close_neighbours_are_counted_and_flagged() -> None:
    e = exposure()
    fwhm = 2.3548 * SIGMA
    x = [30.0, 30.0 + 1.9 * fwhm, 80.0, 30.0 - 2.1 * fwhm]
    assert list(measure(task(), e, frame(e, x, [40.0] * 4)).nNeighbours) == [1, 1, 0, 0]
    flags = measure_pair(e, e, np.array(x), np.full(4, 40.0))["flags"].to_numpy()
    assert list((flags >> FLAG_BITS["neighbour"]) & 1) == [1, 1, 0, 0]
    assert list((flags >> (16 + FLAG_BITS["neighbour"])) & 1) == [1, 1, 0, 0]


def test_calibrations_are_replaced_in_order() -> None:
    e, t = exposure(), task(doApplySkyCorr=True)
    summary, other = (catalogue([replace(e, photo_calib=PhotoCalib(c))]) for c in (3.0, 5.0))
    assert t.prepareCalibratedExposure(replace(e), visitSummary=summary).photo_calib.mean == 3.0
    both = t.prepareCalibratedExposure(replace(e), visitSummary=summary, externalPhotoCalibCatalog=other)
    assert both.photo_calib.mean == 5.0
    elsewhere = replace(e, visit_info=VisitInfo(1, 3, 61000.0, 30.0, "fixture"))
    with pytest.raises(ForcedPhotometryError, match="no row for detector 3"):
        t.prepareCalibratedExposure(elsewhere, visitSummary=summary)
    kept = task(missingSummaryRowIsError=False).prepareCalibratedExposure(elsewhere, visitSummary=summary)
    assert kept.photo_calib.mean == 2.0
    before = e.image.copy()
    assert np.allclose(before - t.prepareCalibratedExposure(e, skyCorr=np.full((101, 101), 7.0)).image, 7, atol=1e-5)


def catalogue(exposures: list[Exposure]) -> ExposureCatalog:
    table = pd.DataFrame({"id": [e.key[1] for e in exposures]})
    return ExposureCatalog(table, {e.key[1]: ExposureRecord(photo_calib=e.photo_calib) for e in exposures})


def test_quantum_is_prepare_filter_measure_store() -> None:
    e = exposure()
    table = frame(e, [30.0, 70.0, 900.0], [40.0, 60.0, 50.0])
    summary = catalogue([replace(e, photo_calib=PhotoCalib(4.0))])
    context = Quantum(exposure=replace(e), refCat=[table], visitSummary=summary)
    task().runQuantum(context, None, None)
    expected = measure(task(), e, table)
    assert np.allclose(context.kept[None].measCat.psfFlux, 2 * expected.psfFlux)
    with pytest.raises(NoWorkFound):
        task().runQuantum(Quantum(exposure=replace(e, wcs=None), refCat=[table]), None, None)


def test_ids_unpack_and_count_in_reference_order() -> None:
    packer = IdPacker(10, 5)
    e, t = exposure(), task()
    reference = t.mergeAndFilterReferences(e, [frame(e, [30.0, 70.0], [40.0, 60.0])])
    cat, _ = t.generateMeasCat(IdGenerator(packer, 1, 2, 0), e, reference)
    assert int(cat.forcedSourceId[0]) == 15762598695796737 and list(np.diff(cat.forcedSourceId)) == [1]
