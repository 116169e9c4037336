"""Visit summaries: published numbers, the rule of the overrides, what is reset, choosing among inputs."""

import dataclasses
import weakref

import numpy as np
import pytest
from astropy.table import Table

from calibration.errors import SummaryError
from calibration.summary import depth
from calibration.summary import statistics as st
from calibration.summary.backgrounds import BackgroundLayer
from calibration.summary.columns import empty_summary
from calibration.summary.config import UpdateVisitSummaryConfig, UpdateVisitSummaryConnections
from calibration.summary.providers import GlobalInput, HealpixInput, TractInput
from calibration.summary.task import UpdateVisitSummaryTask
from exposure import (
    ApCorrMap,
    ChebyshevField,
    Exposure,
    ExposureCatalog,
    GaussianPsf,
    PhotoCalib,
    SkyWcs,
    VisitInfo,
)
from exposure.camera import Camera, CameraDetector
from exposure.io.exposure_catalog import ExposureRecord

SCALE = 0.2
BOX = (0, 0, 100, 100)
INFO = VisitInfo(7, 0, 59234.7083333334, 10.0, longitude=-70.7366, latitude=-30.2407, elevation=2650.0)
CAMERA = Camera(
    "test", {d: CameraDetector(d, str(d), BOX, (0.01, 0.01), (2.0 * d, 0.0), 0.0, 1.0, 5.0) for d in range(4)}
)


def wcs(ra: float = 300.0, dec: float = 0.0, x: float = 49.5) -> SkyWcs:
    return SkyWcs.tan((x, 49.5), (ra, dec), np.array([[-SCALE, 0.0], [0.0, SCALE]]) / 3600)


def exposure(seed: int = 0) -> Exposure:
    rng = np.random.default_rng(seed)
    image = rng.normal(100.0, 10.0, (100, 100)).astype(np.float32)
    made = Exposure(image, np.full((100, 100), 100.0, np.float32), np.zeros((100, 100), np.int32), band="i")
    made.metadata |= {"gain": 1.0, "readNoise": 5.0}
    return made


def catalogue(n: int = 2, **extra) -> ExposureCatalog:
    names = dict.fromkeys(name for g in st.GROUPS.values() for name in g)
    rows = {name: np.full((n, 4) if name.endswith("Corners") else n, 1.5) for name in names}
    rows["nPsfStar"] = np.full(n, 9, np.int32)
    table = Table(
        {
            "id": np.arange(n),
            "visit": np.full(n, 7),
            "band": ["i"] * n,
            "bbox_min_x": [0] * n,
            "bbox_min_y": [0] * n,
            "bbox_max_x": [99] * n,
            "bbox_max_y": [99] * n,
            "expTime": [10.0] * n,
            "astromOffsetMean": [0.01] * n,
        }
        | rows
        | extra
    )
    table.meta["comments"] = ["Catalog id is detector id, sorted."]
    record = ExposureRecord(wcs(), GaussianPsf(2.0, 25), PhotoCalib(0.3), ap_corr(), INFO)
    return ExposureCatalog(table, dict.fromkeys(range(n), record))


def ap_corr(slope: float = 0.0) -> ApCorrMap:
    return ApCorrMap({"base_PsfFlux_instFlux": ChebyshevField(np.array([[1.0, slope]]), BOX)})


def task(camera: Camera | None = CAMERA, **values) -> UpdateVisitSummaryTask:
    config = UpdateVisitSummaryConfig()
    for name, value in {"do_refit_pointing": False, "do_fit_sip_approximations": False, **values}.items():
        setattr(config, name, value)
    config.validate()
    return UpdateVisitSummaryTask(config=config, camera=camera)


def exposures(n: int = 2) -> dict[int, Exposure]:
    return {d: exposure(d) for d in range(n)}


def stars(detector: int = 0, n: int = 40, seed: int = 1) -> Table:
    rng = np.random.default_rng(seed)
    return Table({
        "detector": np.full(n, detector), "calib_psf_used": np.ones(n, bool), "slot_Centroid_x": rng.uniform(0, 99, n),
        "slot_Centroid_y": rng.uniform(0, 99, n), "slot_Shape_xx": 4.2 + rng.normal(0, 0.02, n),
        "slot_Shape_yy": 3.8 + rng.normal(0, 0.02, n), "slot_Shape_xy": 0.1 + rng.normal(0, 0.02, n),
        "slot_PsfShape_xx": np.full(n, 4.0), "slot_PsfShape_yy": np.full(n, 4.0), "slot_PsfShape_xy": np.zeros(n),
        "slot_PsfFlux_instFlux": np.full(n, 1e4), "slot_PsfFlux_instFluxErr": np.full(n, 50.0),
        "slot_Shape_flag": np.zeros(n, bool), "slot_PsfFlux_flag": np.zeros(n, bool),
    })  # fmt: skip


def test_published_numbers():
    e = exposure()
    psf = GaussianPsf(2.0, 5)
    out = st.psf_statistics(psf, BOX, None, e.mask)
    assert out["psfArea"] == pytest.approx(23.088975164455444, rel=1e-6)
    wide = st.psf_statistics(GaussianPsf(2.0, 25), BOX, ap_corr(), e.mask)
    assert wide["psfSigma"] == pytest.approx(2.0, abs=1e-3)
    assert wide["psfIxx"] == pytest.approx(4.0, abs=5e-3)
    assert wide["psfIxy"] == pytest.approx(0.0, abs=1e-6)
    assert wide["psfTraceRadiusDelta"] == pytest.approx(0.0, abs=1e-6)
    assert wide["psfApFluxDelta"] == pytest.approx(0.0, abs=1e-6)
    assert wide["psfApCorrSigmaScaledDelta"] == 0.0
    w = st.wcs_statistics(wcs(), BOX, INFO)
    assert (w["ra"], w["dec"]) == (pytest.approx(300.0, abs=1e-10), pytest.approx(0.0, abs=1e-10))
    half = 50 * SCALE / 3600
    assert np.allclose(w["raCorners"], 300 + half * np.array([1, -1, -1, 1]), atol=1e-9)
    assert np.allclose(w["decCorners"], half * np.array([-1, -1, 1, 1]), atol=1e-9)
    assert w["pixelScale"] == pytest.approx(SCALE, abs=1e-7)
    legacy = st.wcs_statistics(wcs(), BOX, INFO, tai_as_utc=True)["zenithDistance"]
    assert legacy == pytest.approx(30.571119, abs=1e-5)
    assert w["zenithDistance"] != legacy
    zero = st.photometry_statistics(PhotoCalib(0.3))["zeroPoint"]
    assert zero == pytest.approx(32.7072, abs=1e-4)
    assert st.photometry_statistics(PhotoCalib(0.5432242058849329))["zeroPoint"] == pytest.approx(32.062552, abs=1e-6)
    level = np.full((2, 2), 100.0, np.float32)
    b = st.background_statistics(e.image, e.variance, e.mask, [level], [])
    assert b["skyBg"] == 100.0
    assert b["meanVar"] == 100.0
    assert b["skyNoise"] == pytest.approx(10.0, rel=0.03)
    limit = depth.mag_limit(out["psfArea"], 100.0, zero, 5.0, 1.0)
    assert limit == pytest.approx(26.584, rel=1e-3)
    assert limit == pytest.approx(26.58387, abs=2e-4)


def test_depth_is_the_same_in_electrons_and_counts():
    area, zero = 23.0, 32.0
    one = depth.mag_limit(area, 100.0, zero, 5.0, 1.0)
    for gain in (0.5, 2.0, 4.0):  # the same electrons in other counts
        other = depth.mag_limit(area, 100.0 / gain, zero - 2.5 * np.log10(gain), 5.0 / gain, gain)
        assert other == pytest.approx(one, abs=1e-6)
    f = depth.Fiducials(*({"i": v} for v in (1.0, 1.0, 25.0, 30.0, one, 9.0)))
    full = depth.effective_time("i", 30.0, 1.0, 30.0, 25.0 + 2.5 * np.log10(30), one, f)
    less = depth.effective_time("i", 30.0, 1.0, 30.0, 25.0 + 2.5 * np.log10(30), one - 0.375, f)
    assert full["effTime"] == pytest.approx(30.0)
    assert less["effTime"] == pytest.approx(15.0, rel=1e-2)
    assert full["effTimePsfSigmaScale"] == full["effTimeSkyBgScale"] == pytest.approx(1.0)
    assert full["effTimeZeroPointScale"] == pytest.approx(1.0)
    assert np.isnan(depth.mag_limit(np.nan, 100.0, zero, 5.0, 1.0))
    assert all(np.isnan(v) for v in depth.effective_time("", 30.0, 1.0, 30.0, 25.0, one, f).values())
    assert all(np.isnan(v) for v in depth.effective_time("q", 30.0, 1.0, 30.0, 25.0, one, f).values())


@pytest.mark.parametrize(
    ("band", "zero", "sigma", "sky", "expected"),
    [
        ("u", 26.52, 1.72, 1.51, 23.70), ("g", 28.51, 1.63, 15.45, 24.97), ("r", 28.36, 1.56, 32.95, 24.52),
        ("i", 28.17, 1.51, 52.94, 24.13), ("z", 27.78, 1.47, 79.40, 23.56), ("y", 26.82, 1.44, 90.57, 22.55),
    ],
)  # fmt: skip
def test_fiducial_depths(band, zero, sigma, sky, expected):
    f = depth.Fiducials({band: sky}, {band: sigma}, {band: zero}, {band: 30.0}, {}, {band: 9.0})
    assert depth.fiducial_mag_limit(band, f, 0.2) == pytest.approx(expected, abs=0.01)
    assert np.isnan(depth.fiducial_mag_limit("q", f, 0.2))


def test_star_statistics_against_the_simulated_shapes():
    e = exposure()
    table = stars(n=400)
    out = st.star_statistics(table, e.mask, BOX)
    e1 = (table["slot_Shape_xx"] - table["slot_Shape_yy"]) / (table["slot_Shape_xx"] + table["slot_Shape_yy"])
    assert out["nPsfStar"] == 400
    assert out["psfStarDeltaE1Median"] == pytest.approx(float(np.median(e1)))
    assert out["psfStarDeltaE1Median"] == pytest.approx(0.05, abs=0.002)
    assert out["psfStarDeltaE2Median"] == pytest.approx(0.025, abs=0.002)
    assert out["psfStarDeltaE1Scatter"] == pytest.approx(0.02 * np.sqrt(2) / 8, rel=0.15)
    assert out["starUnNormalizedEMedian"] == pytest.approx(np.hypot(0.4, 0.2), rel=0.03)
    assert out["psfStarScaledDeltaSizeScatter"] == pytest.approx(out["psfStarDeltaSizeScatter"] / 2.0, rel=0.01)
    assert 0 < out["maxDistToNearestPsf"] < 30
    assert np.isnan(out["starComa1Median"])
    table["slot_PsfFlux_instFlux"] = 1e6  # S/N 20 000: saturated stars and the like
    none = st.star_statistics(table, e.mask, BOX)
    assert none["nPsfStar"] == 400
    assert np.isnan(none["psfStarDeltaE1Median"])


def same(a, b) -> bool:
    return bool(np.array_equal(np.asarray(a, np.float64), np.asarray(b, np.float64), equal_nan=True))


def test_not_passed_means_untouched_but_for_depth():
    before = catalogue()
    out = task().run(before, exposures()).output_summary_catalog
    assert out.table.colnames == before.table.colnames
    assert out.table.meta == before.table.meta
    for name in before.table.colnames:
        if name not in st.GROUPS["always"] and name != "band":
            assert same(out.table[name], before.table[name]), name
    assert out.records == before.records
    assert np.isfinite(out.table["magLim"]).all()
    assert same(before.table["magLim"], [1.5, 1.5])


def test_override_that_has_one_of_two_detectors():
    psfs = ExposureCatalog(Table({"id": [0]}), {0: ExposureRecord(psf=GaussianPsf(3.0, 31))})
    calibs = GlobalInput(ExposureCatalog(Table({"id": [0]}), {0: ExposureRecord(photo_calib=PhotoCalib(0.6))}))
    moved = GlobalInput(ExposureCatalog(Table({"id": [0]}), {0: ExposureRecord(wcs=wcs(300.0 + 1 / 3600))}))
    aps = ExposureCatalog(Table({"id": [0]}), {0: ExposureRecord(ap_corr=ap_corr(0.1))})
    level = BackgroundLayer(np.full((4, 4), 100.0, np.float32))
    images = exposures()
    kept = images[0].image.copy()
    out = (
        task(wcs_provider="global", photo_calib_provider="global", background_provider="replacement")
        .run(catalogue(), images, psfs, stars(0), aps, calibs, moved, {0: [], 1: []}, {0: [level]})
        .output_summary_catalog
    )
    row, lost = out.table[0], out.table[1]
    assert row["psfSigma"] == pytest.approx(3.0, abs=0.01)
    assert row["nPsfStar"] == 40
    assert row["zeroPoint"] == pytest.approx(31.4 - 2.5 * np.log10(0.6))
    assert row["wcs_corner_max_offset"] == pytest.approx(1.0, abs=1e-3)
    assert row["skyBg"] == 100.0
    assert row["skyNoise"] == pytest.approx(10.0, rel=0.03)
    # half of the corrections' range over psfSigma: 0.2 over the box, of which the 96 px grid sees both ends
    assert row["psfApCorrSigmaScaledDelta"] == pytest.approx(0.1 * 2 * 96 / 99 / 3.0, rel=0.01)
    assert np.array_equal(images[0].image, kept)  # inputs are never changed
    for group in ("wcs", "psf", "stars", "photoCalib", "background", "always"):
        for name in st.GROUPS[group]:
            assert lost[name] == 0 if name == "nPsfStar" else np.isnan(lost[name]).all(), name
    record = out.records[1]
    assert record.wcs is record.psf is record.photo_calib is record.ap_corr is None
    assert lost["expTime"] == 10.0
    assert lost["astromOffsetMean"] == 0.01
    assert lost["astromStatsStale"]


def test_losing_the_wcs_loses_a_calibration_per_tract():
    calib = ExposureCatalog(Table({"id": [0]}), {0: ExposureRecord(photo_calib=PhotoCalib(0.6))})
    center = {9: np.array([np.cos(np.radians(300)), np.sin(np.radians(300)), 0.0])}
    per_tract = TractInput({9: calib}, center)
    t = task(wcs_provider="global", photo_calib_provider="tract")
    empty = GlobalInput(ExposureCatalog(Table({"id": np.zeros(0, int)}), {}))
    out = t.run(catalogue(1), exposures(1), photo_calib_overrides=per_tract, wcs_overrides=empty).output_summary_catalog
    assert out.records[0].photo_calib is None
    assert out.table["photoCalibTractId"][0] == -1
    kept = t.run(catalogue(1), exposures(1), photo_calib_overrides=per_tract).output_summary_catalog
    assert kept.records[0].photo_calib.mean == 0.6
    assert kept.table["photoCalibTractId"][0] == 9


def test_nearest_tract_and_holding_pixel_win():
    def one(scale: float) -> ExposureCatalog:
        return ExposureCatalog(Table({"id": [0]}), {0: ExposureRecord(photo_calib=PhotoCalib(scale), wcs=wcs())})

    def unit(ra: float, dec: float) -> np.ndarray:
        r, d = np.radians(ra), np.radians(dec)
        return np.array([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)])

    tracts = TractInput(
        {1: one(1.0), 2: one(2.0), 3: one(3.0)}, {1: unit(302, 0), 2: unit(300.5, 0), 3: unit(300.5, 0)}
    )
    assert tracts.best_for_detector(0, unit(300, 0), BOX)[0] == 2  # the first of equals
    assert tracts.best_for_detector(0, None, BOX)[0] == 2
    assert tracts.best_for_detector(5, unit(300, 0), BOX) == (-1, None)
    from lsst.sphgeom import HealpixPixelization, UnitVector3d

    grid = HealpixPixelization(5)
    inside = grid.index(UnitVector3d(*unit(300, 0)))
    other = grid.index(UnitVector3d(*unit(304, 2)))
    pixels = HealpixInput({other: one(1.0), inside: one(2.0)}, 5)
    assert pixels.best_for_detector(0, unit(300, 0), BOX)[0] == inside
    assert HealpixInput({other: one(1.0)}, 5).best_for_detector(0, unit(300, 0), BOX)[0] == other
    assert HealpixInput({}, 5).best_for_detector(0, unit(300, 0), BOX) == (-1, None)


def test_consistency_threshold_drops_a_wcs_that_moved():
    far = GlobalInput(
        ExposureCatalog(
            Table({"id": [0, 1]}),
            {
                0: ExposureRecord(wcs=wcs(300.0 + 0.05 / 3600)),
                1: ExposureRecord(wcs=wcs(300.0 + 5 / 3600)),
            },
        )
    )
    out = (
        task(wcs_provider="global", wcs_consistency_threshold=1.0)
        .run(catalogue(), exposures(), wcs_overrides=far)
        .output_summary_catalog
    )
    assert out.records[0].wcs is not None
    assert out.records[1].wcs is None  # never the old one
    assert np.isnan(out.table["ra"][1])
    assert out.table["wcs_corner_max_offset"][1] == pytest.approx(5.0, abs=1e-3)
    blank = catalogue()
    blank.records[0] = dataclasses.replace(blank.records[0], wcs=None)
    without = task(wcs_provider="global").run(blank, exposures(), wcs_overrides=far).output_summary_catalog
    assert without.records[0].wcs is not None
    assert np.isnan(without.table["wcs_corner_max_offset"][0])


def test_inputs_appear_with_their_provider():
    def names(**values) -> set[str]:
        config = UpdateVisitSummaryConfig()
        for name, value in values.items():
            setattr(config, name, value)
        return set(UpdateVisitSummaryConnections(config=config).inputs)

    plain = names()
    assert not {n for n in plain if "wcs_over" in n or "photo_calib_over" in n or "background" in n}
    assert "wcs_overrides_tract" in names(wcs_provider="tract")
    assert "wcs_overrides_global" in names(wcs_provider="global")
    assert "wcs_overrides_healpix" in names(wcs_provider="healpix3")
    assert "photo_calib_overrides_tract" in names(photo_calib_provider="tract")
    assert {"background_originals", "background_overrides"} <= names(background_provider="replacement")
    with pytest.raises(ValueError, match="wcs_provider"):
        names(wcs_provider="nearest")
    config = UpdateVisitSummaryConfig()
    config.wcs_consistency_threshold = 1.0
    with pytest.raises(ValueError, match="no new WCS"):
        config.validate()
    config = UpdateVisitSummaryConfig()
    config.do_write_visit_geometry, config.do_refit_pointing = True, False
    with pytest.raises(ValueError, match="do_refit_pointing"):
        config.validate()


def test_schema_has_only_the_columns_asked_for():
    schema = {"input_summary_schema": catalogue().table}

    def added(**values) -> set[str]:
        config = UpdateVisitSummaryConfig()
        for name, value in {"do_refit_pointing": False, "do_fit_sip_approximations": False, **values}.items():
            setattr(config, name, value)
        made = UpdateVisitSummaryTask(initInputs=schema, config=config)
        return set(made.getSchemaCatalogs()["visit_summary"].columns) - set(catalogue().table.colnames)

    assert added() == set()
    assert added(wcs_provider="tract") == {"wcsTractId", "wcs_corner_max_offset", "astromStatsStale"}
    assert added(wcs_provider="global") == {"wcs_corner_max_offset", "astromStatsStale"}
    assert added(wcs_provider="healpix3") == {"wcsSkypixId", "wcs_corner_max_offset", "astromStatsStale"}
    assert added(photo_calib_provider="tract") == {"photoCalibTractId"}
    assert added(do_fit_sip_approximations=True) == {"wcs_sip_delta_sky", "wcs_sip_delta_pixel"}
    with pytest.raises(SummaryError, match="input_summary_schema"):
        UpdateVisitSummaryTask(initInputs={})
    config = UpdateVisitSummaryConfig()
    config.do_read_schema = False  # then the framework has nothing to hand over
    announced = UpdateVisitSummaryTask(initInputs={}, config=config).getSchemaCatalogs()["visit_summary"]
    assert set(announced) > set(empty_summary().colnames)  # that of our own summaries, and the errors of SIP terms


def test_bad_input_is_named():
    t = task()
    with pytest.raises(SummaryError, match=r"no exposure for 1 detectors.*\[1\]") as caught:
        t.run(catalogue(), {0: exposure()})
    assert (caught.value.visit, caught.value.detector) == (7, 1)
    twice = catalogue()
    twice.table["id"] = [0, 0]
    with pytest.raises(SummaryError, match="more than once"):
        t.run(twice, exposures())
    with pytest.raises(SummaryError, match="psf_star_catalog"):
        t.run(catalogue(), exposures(), psf_overrides=ExposureCatalog(Table({"id": [0]}), {}))
    layer = [BackgroundLayer(np.ones((2, 2), np.float32))]
    with pytest.raises(SummaryError, match="lacks"):
        t.run(catalogue(), exposures(), background_originals={0: layer}, background_overrides={0: layer, 1: layer})
    lonely = catalogue()
    lonely.records = {d: dataclasses.replace(r, wcs=None) for d, r in lonely.records.items()}
    with pytest.raises(SummaryError, match="pointing") as failed:
        task(do_refit_pointing=True).run(lonely, exposures())
    assert failed.value.partial.table.meta["partial"] is True


def test_pointing_and_geometry_are_found_again():
    from simulation.focal_plane import MosaicSettings, simulate_mosaic

    s = simulate_mosaic(MosaicSettings(2, 2, 9, pointing_arcsec=0.0))
    visit = s.extra["visits"][0]
    rows = {
        "id": list(range(9)), "visit": [visit.number] * 9, "band": ["z"] * 9, "bbox_min_x": [0] * 9, "bbox_min_y": [0] * 9,
        "bbox_max_x": [2047] * 9, "bbox_max_y": [4175] * 9, "expTime": [1.0] * 9,
        "raCorners": np.full((9, 4), np.nan), "decCorners": np.full((9, 4), np.nan),
    }  # fmt: skip
    made = ExposureCatalog(
        Table(rows),
        {d: ExposureRecord(wcs=SkyWcs.from_header(s.headers[visit.number, d]), visit_info=INFO) for d in range(9)},
    )
    for d in range(9):
        w = st.wcs_statistics(made.records[d].wcs, (0, 0, 2048, 4176), None)
        made.table["raCorners"][d], made.table["decCorners"][d] = w["raCorners"], w["decCorners"]
    t = task(s.camera, do_refit_pointing=True, do_write_visit_geometry=True)
    result = t.run(made, {d: exposure() for d in range(9)})
    info = result.output_summary_catalog.records[4].visit_info
    assert 3600 * abs(info.boresight_dec - visit.dec) < 0.3
    assert 3600 * abs(info.boresight_ra - visit.ra) < 0.3
    # focal = R(turn) sky: +Y of the focal plane is (sin turn, cos turn) on the sky, east and north
    assert abs((info.rotation - np.degrees(visit.turn) + 180) % 360 - 180) < 0.02
    geometry = result.visit_geometry
    assert set(geometry["detectors"]) == set(range(9))
    assert all(geometry["visit"].contains(g.getCentroid()) for g in geometry["detectors"].values())
    assert INFO.boresight_ra != INFO.boresight_ra  # NaN: the input was not changed


def test_lazy_handles_are_fetched_one_at_a_time():
    alive: set[int] = set()
    most = [0]

    class Handle:
        def __init__(self, detector: int) -> None:
            self.detector = detector

        def get(self) -> Exposure:
            made = exposure(self.detector)
            alive.add(self.detector)
            weakref.finalize(made, alive.discard, self.detector)
            most[0] = max(most[0], len(alive))
            return made

    made = task().run(catalogue(4), {d: Handle(d) for d in range(4)})
    assert most[0] == 1
    assert len(made.output_summary_catalog.table) == 4
