"""A survey anew under ``pipetask``: what the joint fit finds is what the second difference, and forced photometry, use.

Two visits; `make middleware-test` takes ten, in two processes.
"""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from lsst.daf.butler import Butler

from association.export_task import ExportDiaObjectsTask
from calibration import JointcalTask, UpdateVisitSummaryTask
from calibration.recalibrate_task import RecalibrateTask
from exposure.camera import Camera, CameraDetector
from forced import ForcedPhotCcdFromDataFrameTask
from middleware.repository import Repository
from tests.support.databases import copied_database
from tests.support.pipetask import PIPELINES, WHOLE, assert_announced, make_repository, pipetask, program
from tests.support.survey import CONFIG, make_survey

VISITS = 10 if WHOLE else 2
GAP = CONFIG.size + 30  # px between the middles of detectors, as the survey is planned
MM = 0.01


def camera() -> Camera:
    box = (0, 0, CONFIG.size, CONFIG.size)
    middle = 0.5 * (CONFIG.detectors - 1)
    return Camera(
        "simcam",
        {d: CameraDetector(d, f"S{d}", box, (MM, MM), ((d - middle) * GAP * MM, 0.0)) for d in range(CONFIG.detectors)},
    )


def references(survey) -> pd.DataFrame:
    """Return the constant stars of the sky as a reference catalogue: errors of 1 mas and 1 %."""
    stars = pd.read_parquet(survey / "refcat.parquet")
    mas = np.radians(1e-3 / 3600)
    return pd.DataFrame(
        {
            "id": stars.starId, "coord_ra": np.radians(stars.ra), "coord_dec": np.radians(stars.dec),
            "coord_raErr": mas, "coord_decErr": mas, "r_flux": stars.flux, "r_fluxErr": 0.01 * stars.flux,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def images(survey, tmp_path_factory):
    """The folder of the frames."""
    return make_survey(tmp_path_factory.mktemp("frames"), VISITS) if WHOLE else survey


@pytest.fixture(scope="module")
def done(images, template_database, tmp_path_factory):
    """A repository after the whole pipeline."""
    folder = tmp_path_factory.mktemp("drp")
    visits = make_repository(images, folder / "repo", VISITS)
    repository = Repository.open(folder / "repo")
    repository.put_camera("simcam", camera())
    repository.ingest_references(references(images), "true")
    with copied_database(template_database) as uri:
        (folder / "apdb.uri").write_text(uri)
        run = [
            "run", "-b", folder / "repo", "-p", PIPELINES / "DRP.yaml", "--instrument", "middleware.instrument.simcam",
            "-i", "simcam/raw/all,templates/default,simcam/calib,refcats", "-o", "u/drp", "--register-dataset-types",
            "--graph-fixup", "middleware.ordering.by_visit", "-d", "instrument='simcam'",
            "-c", f"parameters:apdb_config={folder / 'apdb.uri'}",
            "-c", "jointcal:astrometryRefs.requireProperMotion=False", "--save-qgraph", folder / "drp.qg",
        ]  # fmt: skip
        if WHOLE:
            program("pipetask", *run, "-j", 2, "--start-method", "forkserver", folder=folder)
        else:
            pipetask(*run)
    butler = Butler.from_config(str(folder / "repo"), collections=["u/drp"])
    return SimpleNamespace(butler=butler, visits=visits, folder=folder / "repo", graph=folder / "drp.qg")


def test_the_joint_fit_is_in_the_summary_and_in_the_images_of_the_second_pass(images, done):
    stars = pd.read_parquet(images / "refcat.parquet")
    tracts = {r.dataId["tract"] for r in done.butler.query_datasets("jointcalSkyWcsCatalog")}
    assert len(tracts) == 1  # blocks of the sky, not rings: a visit falls into one
    medians = []
    for visit in done.visits:
        summary = done.butler.get("visit_summary", instrument="simcam", visit=visit)
        fitted = done.butler.get(
            "jointcalSkyWcsCatalog", instrument="simcam", visit=visit, tract=min(tracts), skymap="tiles_0.2_512_64"
        )
        assert set(summary.table["wcsTractId"]) == tracts == set(summary.table["photoCalibTractId"])
        assert (summary.table["wcs_corner_max_offset"] < 0.1).all()  # arcsec: the WCS of the simulation were right
        for detector in (0, 1):
            image = done.butler.get("visit_image", instrument="simcam", visit=visit, detector=detector)
            x, y = np.array([20.0, 400.0]), np.array([30.0, 410.0])
            for one, two in zip(
                image.wcs.pixel_to_sky(x, y), fitted.records[detector].wcs.pixel_to_sky(x, y), strict=True
            ):
                assert np.abs(one - two).max() * 3600 < 2e-3  # the image's is a TAN-SIP of the fitted one
            table = done.butler.get("recalibrated_star_detector", instrument="simcam", visit=visit, detector=detector)
            bright = table[table.star & table.isolated & ~table.flagged & (table.snr > 100)]
            flux = bright.psfFlux.to_numpy() * image.photo_calib.at(bright.x.to_numpy(), bright.y.to_numpy())
            ratio = flux / nearest(stars, bright)
            ratio = ratio[np.isfinite(ratio)]
            medians.append(np.median(ratio))
            # a median has 1.25 times the error of a mean; of a star that is 1 % of its flux, and as much of the model's
            assert len(ratio) >= 4 and abs(medians[-1] - 1) < 4 * 1.25 * np.hypot(0.01, 0.01) / np.sqrt(len(ratio))
    assert abs(np.mean(medians) - 1) < 0.01


def nearest(stars: pd.DataFrame, measured: pd.DataFrame) -> np.ndarray:
    """Return the true fluxes of the measured stars, NaN where none is within 0.3 arcsec."""
    scale = np.cos(np.radians(stars.dec.to_numpy()))
    out = np.full(len(measured), np.nan)
    for k, (ra, dec) in enumerate(zip(measured.ra, measured.dec, strict=True)):
        distance = np.hypot((stars.ra - ra) * scale, stars.dec - dec).to_numpy() * 3600
        if distance.min() < 0.3:
            out[k] = stars.flux.to_numpy()[distance.argmin()]
    return out


def test_every_visit_is_measured_at_every_object(done):
    patches = done.butler.query_datasets("dia_object_patch")
    objects = pd.concat([done.butler.get(r) for r in patches]).drop_duplicates("diaObjectId").set_index("diaObjectId")
    assert len(objects) >= 8
    refs = done.butler.query_datasets("dia_object_forced_source_unstandardized")
    assert {(r.dataId["visit"], r.dataId["detector"]) for r in refs} == {(v, d) for v in done.visits for d in (0, 1)}
    for ref in refs:
        rows = done.butler.get(ref)
        image = done.butler.get(
            "visit_image", instrument="simcam", visit=ref.dataId["visit"], detector=ref.dataId["detector"]
        )
        x, y = image.wcs.sky_to_pixel(objects.ra.to_numpy(), objects.dec.to_numpy())
        assert set(rows.diaObjectId) == set(objects.index[image.contains(x, y)])


def test_tables_have_the_columns_that_the_tasks_announce(done):
    (tract,) = {r.dataId["tract"] for r in done.butler.query_datasets("jointcalSkyWcsCatalog")}
    visit, place = {"visit": done.visits[1]}, {"tract": tract, "skymap": "tiles_0.2_512_64"}
    detector = visit | {"detector": 1}
    fitted = {name: name for name in ("jointcalSkyWcsCatalog", "jointcalPhotoCalibCatalog")}
    assert_announced(done.butler, JointcalTask, fitted, **visit, **place)
    by_tract = {"wcs_provider": "tract", "photo_calib_provider": "tract"}
    assert_announced(done.butler, UpdateVisitSummaryTask, {"visit_summary": "visit_summary"}, by_tract, **visit)
    stars = {"recalibrated_star_detector": "recalibrated_star_detector"}
    assert_announced(done.butler, RecalibrateTask, stars, **detector)
    forced = {"forced_src": "dia_object_forced_source_unstandardized"}
    assert_announced(done.butler, ForcedPhotCcdFromDataFrameTask, forced, **detector, **place)
    patch = next(iter(done.butler.query_datasets("dia_object_patch"))).dataId["patch"]
    objects = {"dia_object_patch": "dia_object_patch"}
    assert_announced(done.butler, ExportDiaObjectsTask, objects, patch=patch, **place)


def test_the_report_counts_every_quantum_and_files_can_be_taken_out(done, tmp_path):
    pipetask("report", done.folder, done.graph, "--force-v2", "--full-output-filename", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())["tasks"]
    assert len(report) == 12
    for label, task in report.items():
        assert task["n_successful"] == task["n_expected"] > 0, label
    found = done.butler.query_datasets("difference_image", limit=1)
    taken = done.butler.retrieveArtifacts(found, str(tmp_path), transfer="copy")
    assert len(list(taken)) == 1 and any(tmp_path.rglob("*.fits"))
