"""A Butler's repository of our cameras: everything may be entered twice."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lsst.daf.butler import Timespan
from lsst.sphgeom import LonLat, UnitVector3d

from diffim import TemplateStore
from diffim.templates.skymap import SkyMap
from diffim.templates.store import build_template
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.camera import Camera, CameraDetector
from exposure.psf import GaussianPsf
from middleware.errors import RepositoryError
from middleware.repository import Repository

SHAPE = (60, 80)


def frame(visit: int, detector: int, ra: float = 10.0) -> Exposure:
    rng = np.random.default_rng(visit + detector)
    wcs = SkyWcs.tan((40.0, 30.0), (ra + detector * 0.006, -20.0), [[-2.0 / 3600, 0], [0, 2.0 / 3600]])
    return Exposure(
        rng.normal(0, 3, SHAPE).astype(np.float32), np.full(SHAPE, 9, np.float32), np.zeros(SHAPE, np.int32), (0, 0), wcs,
        GaussianPsf(1.8, 21), PhotoCalib(1.0),
        VisitInfo(visit, detector, 58107.25 + 0.125 * (visit % 10), 30.0, "simcam", ra, -20.0, airmass=1.2), "r", "r_sim",
        sources=pd.DataFrame({"x": [20.0, 50.0], "y": [20.0, 30.0], "ra": [10.0, 10.001], "dec": [-20.0, -20.001],
                              "psfFlux": [9e3, 8e3], "snr": [90.0, 80.0], "isolated": True, "flagged": False}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[tuple[int, int], Path]:
    folder = tmp_path_factory.mktemp("frames")
    out = {}
    for visit, detector in ((900001, 0), (900001, 1), (900002, 0)):
        out[visit, detector] = folder / f"f{visit}_{detector}.fits"
        frame(visit, detector).write_fits(out[visit, detector])
    return out


@pytest.fixture
def repository(tmp_path) -> Repository:
    Repository.create(tmp_path / "repo", "simcam")
    return Repository.create(tmp_path / "repo", "simcam", "decam")  # again


def test_frames_are_entered_once_and_stay_where_they_lie(repository, files):
    first = repository.ingest_frames("simcam", [files[900001, 0], files[900002, 0]])
    assert (first.collection, first.new, first.present) == ("simcam/raw/all", 2, 0)
    again = repository.ingest_frames("simcam", list(files.values()))  # a detector of a known visit comes later
    assert (again.new, again.present) == (1, 2)
    butler, registry = repository.butler, repository.registry
    data_id = {"instrument": "simcam", "exposure": 900001, "detector": 1}
    assert butler.getURI("post_isr_image", data_id, collections="simcam/raw/all").ospath == str(files[900001, 1])
    image = butler.get("post_isr_image", data_id, collections="simcam/raw/all")
    assert image.key == (900001, 1)
    assert butler.get("post_isr_image.bbox", data_id, collections="simcam/raw/all") == image.bbox
    (visit,) = registry.queryDimensionRecords("visit", instrument="simcam", visit=900001)
    assert visit.physical_filter == "r_sim" and visit.exposure_time == 30.0
    assert (visit.timespan.begin.tai.mjd + visit.timespan.end.tai.mjd) / 2 == image.visit_info.midpoint_mjd_tai
    for detector in (0, 1):
        ra, dec = (float(v[0]) for v in frame(900001, detector).wcs.pixel_to_sky([40.0], [30.0]))
        middle = UnitVector3d(LonLat.fromDegrees(ra, dec))
        (own,) = registry.queryDimensionRecords(
            "visit_detector_region", instrument="simcam", visit=900001, detector=detector
        )
        assert own.region.contains(middle) and visit.region.contains(middle)


def test_a_bad_frame_is_told_and_nothing_of_the_others_is_lost(repository, files, tmp_path):
    (tmp_path / "no.fits").write_text("no FITS")
    bad: list[Path] = []
    done = repository.ingest_frames(
        "simcam", [tmp_path / "no.fits", files[900002, 0]], lambda path, error: bad.append(path)
    )
    assert bad == [tmp_path / "no.fits"] and done.new == 1
    frame(900002, 0).write_fits(tmp_path / "copy.fits")
    with pytest.raises(RepositoryError, match=r"copy\.fits is of the same visit and detector"):
        repository.ingest_frames("simcam", [files[900002, 0], tmp_path / "copy.fits"])


def test_a_frame_that_is_not_what_is_known_of_it_is_told_and_may_replace_it(repository, files, tmp_path):
    raw = {"instrument": "simcam", "exposure": 900001, "detector": 1}
    where = {"instrument": "simcam", "visit": 900001, "detector": 1}
    repository.ingest_frames("simcam", [files[900001, 0], files[900001, 1]])
    moved = frame(900001, 1)
    moved.visit_info = replace(moved.visit_info, exposure_time=31.0, boresight_ra=10.0001)
    moved.wcs = frame(900001, 1, ra=10.5).wcs
    moved.write_fits(tmp_path / "moved.fits")
    told: list[str] = []
    with pytest.raises(RepositoryError, match=r"visit 900001, detector 1: .*moved\.fits is known as .*f900001_1\.fits"):
        repository.ingest_frames("simcam", [tmp_path / "moved.fits"])
    done = repository.ingest_frames("simcam", [tmp_path / "moved.fits"], lambda path, error: told.append(path.name))
    assert told == ["moved.fits"] and (done.new, done.present) == (0, 0)
    done = repository.ingest_frames("simcam", [tmp_path / "moved.fits"], replace=True)
    assert (done.new, done.present) == (1, 0)
    butler, registry = repository.butler, repository.registry
    assert butler.get("post_isr_image.visitInfo", raw, collections=done.collection).exposure_time == 31.0
    (own,) = registry.queryDimensionRecords("visit_detector_region", dataId=where)
    middle = UnitVector3d(LonLat.fromDegrees(*(float(v[0]) for v in moved.wcs.pixel_to_sky([40.0], [30.0]))))
    (visit,) = registry.queryDimensionRecords("visit", instrument="simcam", visit=900001)
    assert own.region.contains(middle) and visit.region.contains(middle) and visit.exposure_time == 31.0
    with (tmp_path / "moved.fits").open("ab") as file:
        file.write(bytes(2880))
    with pytest.raises(RepositoryError, match="has changed since it was entered: give --replace"):
        repository.ingest_frames("simcam", [tmp_path / "moved.fits"])


def test_a_detector_that_comes_later_is_of_the_same_exposure_or_refused(repository, files, tmp_path):
    repository.ingest_frames("simcam", [files[900001, 0]])
    later, other, foreign = frame(900001, 1), frame(900001, 2), frame(900002, 1)
    later.visit_info = replace(later.visit_info, midpoint_mjd_tai=later.visit_info.midpoint_mjd_tai + 1e-7, airmass=1.3)
    other.visit_info = replace(other.visit_info, midpoint_mjd_tai=other.visit_info.midpoint_mjd_tai + 0.01)
    foreign.visit_info = replace(foreign.visit_info, instrument="decam")
    for name, image in (("later", later), ("other", other), ("foreign", foreign)):
        image.write_fits(tmp_path / f"{name}.fits")
    assert repository.ingest_frames("simcam", [tmp_path / "later.fits"]).new == 1  # its clock differs by 9 ms
    with pytest.raises(RepositoryError, match=r"detector 2: other\.fits .* is not of the exposure that has its number"):
        repository.ingest_frames("simcam", [tmp_path / "other.fits"])
    with pytest.raises(RepositoryError, match=r"foreign\.fits is of the camera 'decam', not of 'simcam'"):
        repository.ingest_frames("simcam", [tmp_path / "foreign.fits"])


def test_an_instrument_file_that_changed_is_told(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("ALERTPROD_INSTRUMENTS", str(tmp_path))
    for detectors, allowed in ((8, True), (16, False)):
        (tmp_path / "westcam.yaml").write_text(f"name: westcam\nids: {{n_visits: 100000, n_detectors: {detectors}}}\n")
        with (
            nullcontext()
            if allowed
            else pytest.raises(RepositoryError, match=r"westcam has changed .* 'alertprod butler create'")
        ):
            repository.ingest_frames("westcam", [])


def test_a_template_set_is_tracts_patches_and_stars(repository, tmp_path):
    build_template(tmp_path / "t", "deep", [frame(900001, 0), frame(900001, 1)], pixel_scale=2.0, tile=64)
    chosen = TemplateStore(tmp_path / "t").get("deep")
    first = repository.ingest_templates(chosen)
    assert first.new >= len(chosen.manifest["tiles"]) + 1 and first.present == 0
    again = repository.ingest_templates(chosen)
    assert (again.new, again.present) == (0, first.new)
    refs = repository.butler.query_datasets("template_coadd", collections="templates/deep", with_dimension_records=True)
    assert len(refs) == len(chosen.manifest["tiles"]) and {r.dataId["skymap"] for r in refs} == {
        SkyMap(chosen.tiling).name
    }
    for ref in refs:
        wcs, (x0, y0, width, height) = (repository.butler.get(ref.makeComponentRef(c)) for c in ("wcs", "bbox"))
        ra, dec = (float(v[0]) for v in wcs.pixel_to_sky([x0 + width / 2], [y0 + height / 2]))
        assert ref.dataId.region.contains(UnitVector3d(LonLat.fromDegrees(ra, dec)))
    shards = repository.butler.query_datasets("template_stars", collections="templates/deep")
    stars = pd.concat([repository.butler.get(r) for r in shards])
    assert len(stars) == len(chosen.stars()) and set(stars.flux) == set(chosen.stars().flux)
    build_template(tmp_path / "t", "deep", [frame(900002, 0)], pixel_scale=2.0, tile=64)
    newer = repository.ingest_templates(TemplateStore(tmp_path / "t").get("deep"))
    assert list(repository.registry.getCollectionChain("templates/deep")) == [newer.collection, first.collection]


def test_a_camera_is_a_calibration_and_may_be_changed(repository):
    camera = Camera(
        "simcam", {3: CameraDetector(3, "S03", (0, 0, 80, 60), (0.01, 0.01), (1.0, 2.0), gain=1.5, read_noise=5.0)}
    )
    assert repository.put_camera("simcam", camera).new == 1
    assert repository.put_camera("simcam", camera).present == 1
    moved = replace(camera, detectors={3: replace(camera.detectors[3], offset_mm=(1.5, 2.0))})
    assert repository.put_camera("simcam", moved).new == 1
    found = repository.butler.find_dataset(
        "camera", {"instrument": "simcam"}, collections="simcam/calib", timespan=Timespan(None, None)
    )
    assert repository.butler.get(found).detectors[3].offset_mm == (1.5, 2.0)
    (record,) = repository.registry.queryDimensionRecords("detector", instrument="simcam")
    assert record.full_name == "S03"


def test_reference_stars_are_entered_in_shards(repository):
    rng = np.random.default_rng(3)
    table = pd.DataFrame(
        {"id": np.arange(50), "coord_ra": rng.uniform(0.1, 0.14, 50), "coord_dec": rng.uniform(0.2, 0.24, 50)}
    )
    done = repository.ingest_references(table, "gaia")
    assert done.collection == "refcats/gaia" and done.new > 1
    assert repository.ingest_references(table, "gaia").present == done.new
    refs = repository.butler.query_datasets("reference_stars", collections="refcats")
    assert sorted(pd.concat([repository.butler.get(r) for r in refs]).id) == list(range(50))
    with pytest.raises(RepositoryError, match="refcats/gaia holds other stars there"):
        repository.ingest_references(table.assign(coord_ra=table.coord_ra + 1e-9), "gaia")
    with pytest.raises(RepositoryError, match="lacks coord_ra"):
        repository.ingest_references(table[["id"]], "gaia")


def test_what_is_no_repository_is_refused(tmp_path):
    for name, text in (("broken", "a: ["), ("half", "registry: {db: 'sqlite:///<butlerRoot>/none/gen3.sqlite3'}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "butler.yaml").write_text(text)
        with pytest.raises(RepositoryError, match=f"{name} is no repository that this user can write to"):
            Repository.open(tmp_path / name)
    with pytest.raises(RepositoryError, match="no folder of this machine"):
        Repository.create("s3://bucket/repo", "simcam")
    with pytest.raises(RepositoryError, match="no empty folder"):
        Repository.create(tmp_path, "simcam")
    with pytest.raises(RepositoryError, match="alertprod butler create"):
        Repository.open(tmp_path)
