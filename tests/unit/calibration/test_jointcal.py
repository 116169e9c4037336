"""The joint fit against simulated mosaics whose every number is known."""

import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from calibration.errors import JointCalibrationError, SingularFit
from calibration.joint.command import parse, run_parsed
from calibration.joint.data import ARCSEC
from calibration.joint.matching.association import friends_of_friends
from calibration.joint.solve.minimize import distributed
from calibration.joint.task import JointcalTask
from calibration.summary.task import UpdateVisitSummaryTask
from exposure import Exposure, SkyWcs
from exposure.camera import Camera
from simulation.focal_plane import MosaicSurvey
from tasks import make_task
from tasks.errors import CallerError
from tasks.sphere import unit_vectors
from tests.support.mosaics import config, summaries, survey, true_pixels_to_sky
from tests.support.quantum import Quantum

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")


def task(s: MosaicSurvey, **values) -> JointcalTask:
    return JointcalTask(config=config(**values), astrometry_refs=s.references, photometry_refs=s.references)


def run(s: MosaicSurvey, **values):
    return task(s, **values).run(s.sources, summaries(s), s.camera)


def sky_errors(s: MosaicSurvey, stars: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Distance (mas) of fitted stars from the true ones, and the index of these."""
    tree = cKDTree(unit_vectors(s.truth.ra.to_numpy(), s.truth.dec.to_numpy()))
    distance, index = tree.query(unit_vectors(stars.ra.to_numpy(), stars.dec.to_numpy()))
    return 1e3 * distance / ARCSEC, index


@pytest.mark.parametrize("model", ["constrained", "simple"])
def test_wcs_and_stars_come_out_true(model):
    s = survey()
    result = run(s, doPhotometry=False, astrometryModel=model)
    m = result.metrics
    assert m["converged"]
    assert 0.9 < m["astrometry_final_chi2"] / m["astrometry_final_ndof"] < 1.1
    # 500 degrees of freedom, 3 sigma; a map of 20 parameters per image and 100 stars has noise of its own
    assert 0.8 < m["astrometry_validation_chi2_per_ndof"] < (1.25 if model == "constrained" else 1.6)
    assert m["relative_rms_mas"] < 4.0  # injected: 3.4 mas and photon noise
    x, y = np.meshgrid(np.linspace(50, 2000, 12), np.linspace(50, 4100, 12))
    worst = []
    for (visit, detector), wcs in result.outputWcs.items():
        got = unit_vectors(*wcs.pixel_to_sky(x.ravel(), y.ravel()))
        want = unit_vectors(*true_pixels_to_sky(s, visit, detector, x.ravel(), y.ravel()))
        worst.append(np.sqrt(((got - want) ** 2).sum(1).mean()) / ARCSEC * 1e3)
    # 100 stars of 3.4 mas and more per image; input errors are 300 mas of pointing and 30 mas per chip
    assert np.median(worst) < (2.0 if model == "constrained" else 5.0)
    distance, index = sky_errors(s, result.stars)
    bright = s.truth.flux.to_numpy()[index] > 10 ** (-0.4 * (20.5 - 31.4))
    assert np.median(distance[bright]) < 2.0


def test_star_errors_are_the_scatter():
    s = survey(2)
    stars = run(s, doPhotometry=False).stars
    distance, index = sky_errors(s, stars)
    dec = 3.6e6 * (stars.dec.to_numpy() - s.truth.dec.to_numpy()[index])
    pull = dec / np.sqrt(stars.dec_var)
    assert 0.85 < 1.4826 * np.median(np.abs(pull)) < 1.2
    assert (distance < 200).mean() > 0.99  # purity of the association


@pytest.mark.parametrize("model", ["simpleFlux", "simpleMagnitude", "constrainedFlux", "constrainedMagnitude"])
def test_zero_points_come_out_true(model):
    s = survey(3, flux_outliers=0.02)
    order = {"photometryVisitOrder": 3} if model.startswith("constrained") else {}
    result = run(s, doAstrometry=False, photometryModel=model, **order)
    m = result.metrics
    assert m["converged"]
    off = []
    for (visit, detector), calib in result.outputPhotoCalib.items():
        d = s.camera[detector]
        true = s.zero_points[visit, detector]
        off.append(-2.5 * np.log10(float(calib.at(*d.centre)) / true) * 1e3)
    if model.startswith("constrained"):  # a constant per image cannot follow the field of the visit
        assert abs(np.median(off)) < 2.0
        assert np.std(off) < 3.0
        assert 0.9 < m["photometry_final_chi2"] / m["photometry_final_ndof"] < 1.1
        assert m["repeatability_mmag"] < 8.0
        flux = result.stars.flux.to_numpy()
        _, index = sky_errors(s, result.stars)
        bright = s.truth.flux.to_numpy()[index] > 10 ** (-0.4 * (20.0 - 31.4))
        assert abs(np.nanmedian(flux[bright] / s.truth.flux.to_numpy()[index][bright]) - 1) < 0.002
    else:
        assert abs(np.median(off)) < 5.0


def test_mean_of_a_varying_calibration_is_its_mean():
    s = survey(3, flux_outliers=0.02)
    result = run(s, doAstrometry=False, photometryVisitOrder=3)
    calib = next(iter(result.outputPhotoCalib.values()))
    _, _, w, h = calib.variation.bbox
    x, y = np.meshgrid(np.linspace(0, w - 1, 401), np.linspace(0, h - 1, 401))
    weight = np.ones((401, 401))
    weight[[0, -1]] *= 0.5
    weight[:, [0, -1]] *= 0.5
    assert calib.mean == pytest.approx(float((calib.at(x, y) * weight).sum() / weight.sum()), rel=1e-5)


def test_same_answer_for_any_order_of_visits():
    s = survey()
    first = run(s, doPhotometry=False)
    rng = np.random.default_rng(5)
    tables = [t.sample(frac=1, random_state=7) for t in s.sources[::-1]]
    again = task(s, doPhotometry=False).run(tables, list(rng.permutation(np.array(summaries(s), object))), s.camera)
    pd.testing.assert_frame_equal(first.stars, again.stars)
    assert first.metrics["astrometry_final_chi2"] == again.metrics["astrometry_final_chi2"]


@pytest.mark.parametrize("centre", [(0.0, -3.0), (200.0, 89.9), (77.0, -89.95)])
def test_right_across_ra_zero_and_at_the_poles(centre):
    s = survey(4, 3, 5, centre=centre)
    result = run(s, doPhotometry=False, astrometryModel="simple")
    m = result.metrics
    assert m["converged"]
    assert 0.85 < m["astrometry_final_chi2"] / m["astrometry_final_ndof"] < 1.15
    distance, _ = sky_errors(s, result.stars)
    assert np.median(distance) < 12.0
    assert len(result.stars) > 350


def test_moving_stars_move_the_right_way():
    s = survey(6, 4, 9, years=4.0, motion_mas=40.0)
    with_motion = run(s, doPhotometry=False, minMeasurements=99)  # stars with reference motions only
    frozen = config(doPhotometry=False, minMeasurements=99)
    frozen.astrometryRefs.applyProperMotion = False
    frozen.astrometryRefs.requireProperMotion = False
    without = JointcalTask(config=frozen, astrometry_refs=s.references).run(s.sources, summaries(s), s.camera)
    assert with_motion.metrics["relative_rms_mas"] < 4.5
    assert without.metrics["relative_rms_mas"] > 30.0
    free = run(s, doPhotometry=False, fitProperMotions=True, properMotionPrior=0.06)
    assert free.metrics["relative_rms_mas"] < 4.5
    assert 0.85 < free.metrics["astrometry_final_chi2"] / free.metrics["astrometry_final_ndof"] < 1.15
    _, index = sky_errors(s, free.stars)
    bright = (s.truth.flux.to_numpy()[index] > 10 ** (-0.4 * (20.5 - 31.4))) & (free.stars.n.to_numpy() == 4)
    off = free.stars.pm_ra.to_numpy()[bright] - s.extra["motion"][index[bright], 0]
    assert 1.4826 * np.median(np.abs(off)) < 1.5  # mas/yr: 3.4 mas positions over 4 years


def test_refraction_term_is_found():
    s = survey(7, 4, 9, dcr_mas=15.0)
    plain = run(s, doPhotometry=False)
    result = run(s, doPhotometry=False, fitDcr=True)
    p = result.astrometry.problem
    assert p.name(p.parameters.size - 1) == "chromatic refraction"
    pushed = p.parameters[-1] * 1e3
    assert pushed == pytest.approx(15.0, abs=1.5)
    assert result.metrics["astrometry_final_chi2"] < plain.metrics["astrometry_final_chi2"]


def test_groups_are_those_of_the_truth_in_a_crowded_field():
    rng = np.random.default_rng(8)
    n, visits = 4000, 6
    side = 400.0  # arcsec: a star every 6 arcsec, radius 3
    place = rng.uniform(0, side, (n, 2))
    star = np.tile(np.arange(n), visits)
    visit = np.repeat(np.arange(visits), n)
    at = place[star] + rng.normal(0, 0.03, (n * visits, 2))
    seen = rng.uniform(size=star.size) < 0.9
    star, visit, at = star[seen], visit[seen], at[seen]
    vectors = unit_vectors(at[:, 0] / 3600, at[:, 1] / 3600)
    group = friends_of_friends(vectors, visit, 3.0)
    table = pd.DataFrame({"group": group, "star": star})[group >= 0]
    pure = table.groupby("group").star.nunique() == 1
    assert pure.mean() > 0.995
    assert len(table) > 0.99 * len(star)
    order = rng.permutation(len(star))
    again = friends_of_friends(vectors[order], visit[order], 3.0)
    pairs = pd.DataFrame({"a": group[order], "b": again}).query("a >= 0")
    assert (pairs.groupby("a").b.nunique() == 1).all()


def test_outliers_go_by_either_rule():
    s = survey(9, outliers=0.03)
    for rule in ("robust", "sigma"):
        m = run(s, doPhotometry=False, outlierRejection=rule).metrics
        assert m["astrometry_n_outliers"] > 30
        assert m["relative_rms_mas"] < 4.5


def test_order_is_lowered_for_an_image_with_few_sources(caplog):
    s = survey(n_chips=5)  # too few chips to tell what is expected of each other
    few = [t.copy() for t in s.sources]
    keep = few[0].detector != 3
    few[0] = pd.concat([few[0][keep], few[0][~keep].nlargest(7, "apFlux_12_0_instFlux")])
    with caplog.at_level("WARNING", "alertprod.jointcal"):
        result = task(s, doPhotometry=False, astrometryModel="simple").run(few, summaries(s), s.camera)
    assert "the order of its map is lowered from 3 to 2" in caplog.text or "from 3 to 1" in caplog.text
    visit = int(few[0].visit.iloc[0])
    key = (visit, 3)
    assert key in result.outputWcs
    problem = result.astrometry.problem
    assert not problem.fitted.all()


def test_nothing_selected_and_other_bad_input():
    s = survey()
    strict = config()
    strict.sourceSelector.signalToNoiseMinimum = 1e10
    with pytest.raises(JointCalibrationError, match="No data to process"):
        JointcalTask(config=strict, astrometry_refs=s.references, photometry_refs=s.references).run(
            s.sources, summaries(s), s.camera
        )
    bare = s.references.drop(columns=["coord_raErr", "coord_decErr"])
    with pytest.raises(JointCalibrationError, match="does not contain coordinate errors"):
        JointcalTask(config=config(doPhotometry=False), astrometry_refs=bare).run(s.sources, summaries(s), s.camera)
    with pytest.raises(JointCalibrationError, match="pm_ra, pm_dec"):
        JointcalTask(config=config(doPhotometry=False), astrometry_refs=s.references.drop(columns=["pm_ra"])).run(
            s.sources, summaries(s), s.camera
        )
    far = s.references.assign(coord_ra=s.references.coord_ra + 1.0)
    with pytest.raises(JointCalibrationError, match="no astrometry reference star"):
        JointcalTask(config=config(doPhotometry=False), astrometry_refs=far).run(s.sources, summaries(s), s.camera)
    with pytest.raises(JointCalibrationError, match="no flux for the filter"):
        JointcalTask(config=config(doAstrometry=False), photometry_refs=s.references.drop(columns=["z_flux"])).run(
            s.sources, summaries(s), s.camera
        )
    twice = summaries(s)
    with pytest.raises(JointCalibrationError, match="more than once"):
        task(s).run(s.sources, [*twice, twice[0]], s.camera)
    with pytest.raises(JointCalibrationError, match="lacks the columns"):
        task(s).run([t.drop(columns="xErr") for t in s.sources], summaries(s), s.camera)
    loose = config(doAstrometry=False)
    loose.sourceSelector.doSignalToNoise = False
    negative = [t.assign(apFlux_12_0_instFlux=-t.apFlux_12_0_instFlux) for t in s.sources]
    with pytest.raises(JointCalibrationError, match="not positive and finite") as caught:
        JointcalTask(config=loose, photometry_refs=s.references).run(negative, summaries(s), s.camera)
    assert caught.value.visit is not None
    nan = [t.assign(x=np.nan) for t in s.sources]
    with pytest.raises(JointCalibrationError, match="No data to process"):
        task(s).run(nan, summaries(s), s.camera)


def test_a_singular_fit_names_its_parameters():
    s = survey()
    blind = config(doPhotometry=False, validationFraction=0.0, chipPositionPrior=0.0)
    few = [
        pd.concat([t[t.detector != 5], t[t.detector == 5].nlargest(n, "apFlux_12_0_instFlux")])
        for t, n in zip(s.sources, (2, 0, 0, 0), strict=True)
    ]
    with pytest.raises(SingularFit, match="map of detector 5"):
        JointcalTask(config=blind, astrometry_refs=s.references).run(few, summaries(s), s.camera)
    # with what the camera file says of the chip, the fit stands
    assert task(s, doPhotometry=False).run(few, summaries(s), s.camera).converged


def test_published_interface_and_store():
    s = survey()
    visits = [int(t.visit.iloc[0]) for t in s.sources]
    store = dict(zip(visits, zip(s.sources, summaries(s), strict=True), strict=True)) | {"camera": s.camera}
    made = JointcalTask(config=config(doPhotometry=False), astrometry_refs=s.references, store=store)
    assert made.getFullName() == "jointcal"
    assert made.canMultiprocess is True
    old, filters = made.loadData(visits)
    assert filters == {"HSC-Z": 36}
    assert len(old) == 36
    result = made.runDataRef(visits)
    assert result.dataRefs == visits
    assert len(result.oldWcsList) == 36
    assert result.metrics["converged"]
    assert "jointcal" in made.getFullMetadata().names()


def _files(s: MosaicSurvey, folder: Path) -> list[str]:
    from astropy.io import fits

    folder.mkdir(parents=True)
    for t in s.sources:
        t.to_parquet(folder / f"{t.visit.iloc[0]}.parquet")
    for (v, d), h in s.headers.items():
        hdu = fits.PrimaryHDU()
        hdu.header.update(h)
        hdu.writeto(folder / f"{v}_{d}.hdr")
    s.references.to_parquet(folder / "refs.parquet")
    s.camera.write(folder / "camera.yaml")
    return [
        "--sources", *map(str, sorted(folder.glob("1*.parquet"))), "--headers", *map(str, sorted(folder.glob("*.hdr"))),
        "--camera", str(folder / "camera.yaml"), "--astrometry-refs", str(folder / "refs.parquet"),
        "--photometry-refs", str(folder / "refs.parquet"),
    ]  # fmt: skip


def _selected(table) -> int:
    return int((table.apFlux_12_0_instFlux > 10 * table.apFlux_12_0_instFluxErr).sum())


def test_command_reads_and_writes_plain_files(tmp_path):
    s = survey()
    out = tmp_path / "out"
    args = [
        *_files(s, tmp_path / "in"),
        "--out",
        str(out),
        "-c",
        "photometryVisitOrder=3",
        "--no-versions",
        "--pictures",
    ]
    _, parsed = parse(args)
    (status,) = run_parsed(parsed)
    assert status.exitStatus == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["converged"] is True
    assert metrics["sip_delta_sky_mas"] < 0.1
    assert [(v["images"], v["sources"]) for v in metrics["visits"]] == [
        (9, _selected(t)) for t in sorted(s.sources, key=lambda t: int(t.visit.iloc[0]))
    ]
    for visit in metrics["visits"]:
        assert 0.97 < visit["astrometry_kept_share"] < 1.0  # 1 % of the positions are outliers
        assert 0.8 < visit["astrometry_chi2_per_dof"] < 1.2
        assert visit["photometry_lost"] == 0
    stars = pd.read_parquet(out / "stars.parquet")
    assert list(stars.columns[:7]) == ["ra", "dec", "flux", "ra_var", "dec_var", "ra_dec_cov", "flux_var"]
    assert stars.ra.between(0, 360).all()
    assert len(list((out / "wcs").iterdir())) == 36
    drawn = {"residuals.png", "chi2.png", "repeatability.png", "astrometry_images.png", "photometry_images.png"}
    assert {p.name for p in (out / "pictures").iterdir()} == drawn
    # the headers are inputs again, and agree with the full maps
    from calibration.joint.io.files import read_headers
    from exposure.wcs.mapped import ComposedWcs

    again = read_headers((out / "wcs").glob("*.hdr"))
    record = again[0].records[4]
    maps = json.loads((out / "maps" / f"{again[0].table['visit'][0]}.json").read_text())
    full = ComposedWcs.from_dict(maps["4"])
    x, y = np.array([10.0, 2000.0]), np.array([4000.0, 30.0])
    assert np.allclose(record.wcs.pixel_to_sky(x, y), full.pixel_to_sky(x, y), atol=1e-4 / 3.6e6 * 1e3, rtol=0)
    from astropy.io import fits

    one = sorted((out / "wcs").glob("*.hdr"))[0]
    slow, fast = SkyWcs.from_header(fits.getheader(one)), read_headers([one])[0]
    assert np.allclose(
        slow.pixel_to_sky(x, y), next(iter(fast.records.values())).wcs.pixel_to_sky(x, y), rtol=0, atol=1e-12
    )


def test_command_refuses_before_it_reads(tmp_path):
    base = ["--sources", "a", "--headers", "b", "--camera", "c", "--out", str(tmp_path / "o")]
    refs = ["--astrometry-refs", "r", "--photometry-refs", "r"]
    for extra, said in (
        (["-c", "nonsense=1"], "no field 'nonsense'"),
        (["-c", "matchCut=three"], "matchCut"),
        (["-c", "doAstrometry=False", "doPhotometry=False"], "nothing to do"),
        (["--id", "visit=x"], "--id"),
        (["--summaries", "s"], "either"),
        (["-c", "applyColorTerms=True"], "colour terms"),
        (["--what"], "unrecognized"),
    ):
        with pytest.raises(CallerError, match=said):
            parse([*base, *refs, *extra])
    with pytest.raises(CallerError, match="astrometry-refs"):
        parse(base)
    assert not (tmp_path / "o").exists()


def test_camera_file_round_trip(tmp_path):
    camera = survey().camera
    camera.write(tmp_path / "c.yaml")
    assert Camera.read(tmp_path / "c.yaml") == camera


@pytest.fixture(params=["processes", "dask"])
def mapper(request):
    if request.param == "dask":
        yield lambda function, parts: dask.compute(*[dask.delayed(function)(p) for p in parts], scheduler="threads")
        return
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, parts: list(pool.map(function, parts))


def test_blocks_summed_elsewhere_give_the_same_answer(mapper, monkeypatch):
    monkeypatch.setattr("calibration.joint.solve.minimize.BLOCK_BYTES", 2**17)  # many blocks
    s = survey(1, 2, 3)
    options = {"doPhotometry": False, "maxAstrometrySteps": 1}
    here = run(s, **options)
    with distributed(mapper, 3):
        there = run(s, **options)
    for key, wcs in here.outputWcs.items():
        x, y = np.array([5.0, 2000.0]), np.array([4000.0, 7.0])
        off = np.subtract(wcs.pixel_to_sky(x, y), there.outputWcs[key].pixel_to_sky(x, y))
        assert np.abs(off).max() < 1e-9 / 3600
    assert there.metrics["astrometry_final_chi2"] == pytest.approx(here.metrics["astrometry_final_chi2"], rel=1e-9)


def test_debug_files_are_written_when_asked_for(tmp_path):
    s = survey(1, 2, 3)
    result = run(
        s,
        writeInitMatrix=True,
        writeChi2FilesInitialFinal=True,
        writeChi2FilesOuterLoop=True,
        writeInitialModel=True,
        debugOutputPath=str(tmp_path),
        photometryVisitOrder=2,
    )
    names = {p.name for p in tmp_path.iterdir()}
    for half, stages in (
        ("astrometry", ("DistortionsVisit", "Distortions", "Positions", "DistortionsPositions")),
        ("photometry", ("ModelVisit", "Model", "Fluxes", "ModelFluxes")),
    ):
        for when in ("preinit", "postinit"):
            assert {f"{half}_{when}-0_HSC-Z-mat.txt", f"{half}_{when}-0_HSC-Z-grad.txt"} <= names
        assert f"{half}_initial_model-0_HSC-Z.json" in names
        for stage in stages:
            assert f"{half}_init-{stage}_chi2-0_HSC-Z-meas.csv" in names
        assert f"{half}_final_chi2-0_HSC-Z-ref.csv" in names
    matrix = np.loadtxt(tmp_path / "photometry_postinit-0_HSC-Z-mat.txt")
    assert np.allclose(matrix, matrix.T)
    table = pd.read_csv(tmp_path / "astrometry_final_chi2-0_HSC-Z-meas.csv", sep="\t", comment="#", header=None)
    refs = pd.read_csv(tmp_path / "astrometry_final_chi2-0_HSC-Z-ref.csv", sep="\t", comment="#", header=None)
    chi2 = table[6].sum() + refs[2].sum()
    assert chi2 == pytest.approx(result.metrics["astrometry_final_chi2"], rel=1e-6)


def test_the_sparse_reduced_system_gives_the_same_answer(monkeypatch):
    s = survey(1, 2, 5)
    options = {"doPhotometry": False, "maxAstrometrySteps": 2}
    dense = run(s, **options)
    monkeypatch.setattr("calibration.joint.solve.minimize.DENSE_LIMIT", 10)
    sparse = run(s, **options)
    assert sparse.metrics["astrometry_final_chi2"] == pytest.approx(dense.metrics["astrometry_final_chi2"], rel=1e-7)
    assert np.allclose(dense.stars.dec, sparse.stars.dec, rtol=0, atol=1e-6 / 3600)


def test_elimination_is_that_of_the_full_normal_matrix():
    from calibration.joint.model.rows import Rows
    from calibration.joint.solve.elimination import Reduced, add_block, pulls, star_steps

    rng = np.random.default_rng(3)
    m, per, d, q, k, size = 6, 4, 2, 2, 5, 12
    n = m * per
    w = rng.normal(size=(n, d, d))
    starts = np.stack([rng.integers(0, 4, n), 7 + rng.integers(0, 3, n)], 1)
    prior = np.broadcast_to(np.eye(q) * 0.5, (m, q, q)).copy()
    rows = Rows(
        rng.normal(size=(n, d)),
        w @ w.transpose(0, 2, 1) + np.eye(d),
        rng.normal(size=(n, d, k)),
        rng.normal(size=(n, d, q)),
        starts,
        np.arange(n),
        np.array([3, 2]),
        np.arange(0, n + 1, per),
        prior,
        rng.normal(size=(m, q)),
    )
    step, inverse = np.zeros((m, q)), np.zeros((m, q, q))
    star_steps(rows, step, inverse)
    made = Reduced(np.zeros((n, k, k)), np.full((n, k), -1), np.zeros((size, size)), np.zeros(size))
    pull = np.empty((n, d))
    pulls(rows, step, pull)
    add_block(rows, inverse, pull, made)
    full, right = np.zeros((size + m * q, size + m * q)), np.zeros(size + m * q)
    for i in range(n):
        jacobian = np.zeros((d, size + m * q))
        jacobian[:, starts[i, 0] : starts[i, 0] + 3] += rows.model[i, :, :3]
        jacobian[:, starts[i, 1] : starts[i, 1] + 2] += rows.model[i, :, 3:]
        s = i // per
        jacobian[:, size + s * q : size + s * q + q] += rows.star[i]
        full += jacobian.T @ rows.weight[i] @ jacobian
        right += jacobian.T @ rows.weight[i] @ rows.residual[i]
    for s in range(m):
        at = slice(size + s * q, size + s * q + q)
        full[at, at] += prior[s]
        right[at] += rows.pull[s]
    a, b, c = full[:size, :size], full[:size, size:], full[size:, size:]
    assert np.allclose(made.matrix(), a - b @ np.linalg.solve(c, b.T), atol=1e-10)
    assert np.allclose(made.gradient, right[:size] - b @ np.linalg.solve(c, right[size:]), atol=1e-10)


class _Ref:
    """Stands in for a reference to a dataset of a butler."""

    def __init__(self, **data_id: int) -> None:
        self.dataId = data_id


def test_a_quantum_writes_a_catalogue_per_visit_and_the_summary_takes_it():
    s = survey()
    made = summaries(s)
    visits = [int(c.table["visit"][0]) for c in made]
    context = Quantum(
        9813,
        inputSourceTableVisit=s.sources,
        inputVisitSummary=made,
        inputCamera=s.camera,
    )
    refs = {name: [_Ref(visit=v) for v in visits] for name in ("outputWcs", "outputPhotoCalib")}
    direct = run(s)
    task(s).runQuantum(context, None, SimpleNamespace(**refs))
    assert len(context.kept) == 2 * len(visits)
    for ref in refs["outputWcs"]:
        catalog = context.kept[ref]
        assert len(catalog.records) == 9
        for detector, record in catalog.records.items():
            got, want = record.wcs, direct.outputWcs[ref.dataId["visit"], detector]
            assert np.allclose(got.pixel_to_sky(1000.0, 2000.0), want.pixel_to_sky(1000.0, 2000.0), atol=1e-12)
    # the visit summary of one of them takes the fitted WCS and calibration over
    first = visits[0]
    fitted = {name: next(context.kept[r] for r in refs[name] if r.dataId["visit"] == first) for name in refs}
    handle = SimpleNamespace(dataId={"tract": 9813}, get=lambda: fitted["outputWcs"])
    calibs = SimpleNamespace(dataId={"tract": 9813}, get=lambda: fitted["outputPhotoCalib"])
    update = make_task(
        UpdateVisitSummaryTask,
        {"wcs_provider": "tract", "photo_calib_provider": "tract", "do_refit_pointing": False,
         "do_fit_sip_approximations": False},
    )  # fmt: skip
    blank = Exposure(np.zeros((64, 64), "f4"), np.ones((64, 64), "f4"), np.zeros((64, 64), np.int32))
    images = [SimpleNamespace(dataId={"detector": d}, get=lambda **_: blank) for d in made[0].records]
    summary = Quantum(
        9813,
        input_summary_catalog=made[0],
        input_exposures=images,
        wcs_overrides_tract=[handle],
        photo_calib_overrides_tract=[calibs],
    )
    output = _Ref(visit=first)
    update.runQuantum(summary, None, SimpleNamespace(output_summary_catalog=output))
    updated = summary.kept[output]
    assert len(updated.table) == 9
    for detector, record in updated.records.items():
        want = direct.outputWcs[first, detector].pixel_to_sky(1000.0, 2000.0)
        assert np.allclose(record.wcs.pixel_to_sky(1000.0, 2000.0), want, atol=1e-12)
        assert record.photo_calib.mean == pytest.approx(direct.outputPhotoCalib[first, detector].mean)


def test_pictures_are_drawn_beside_the_writing_and_here_where_that_fails(monkeypatch, tmp_path):
    from calibration.joint import command
    from calibration.joint.io import pictures

    own = os.getpid()

    def draw(result, folder):
        if result == "dies" and os.getpid() != own:
            os._exit(3)
        if result == "hangs" and os.getpid() != own:
            time.sleep(60)
        (folder / result).write_text(str(os.getpid()))

    monkeypatch.setattr(pictures, "draw", draw)
    monkeypatch.setattr(command, "_DRAWING_TIMEOUT_S", 0.5)
    for result, beside in (("lives", True), ("dies", False), ("hangs", False)):
        with command._drawing(result, tmp_path):
            pass
        assert (int((tmp_path / result).read_text()) != own) is beside
    with pytest.raises(OSError, match="disk"), command._drawing("hangs", tmp_path / "no"):
        raise OSError("the disk is full")
    assert not (tmp_path / "no").exists()
