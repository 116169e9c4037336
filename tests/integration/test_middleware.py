"""Alert production under ``pipetask``: the rows are the service's, and a run that is killed anywhere goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from lsst.daf.butler import Butler

from association import DiaPipelineTask
from association.standardize_task import StandardizeTask
from calibration.characterize_task import CharacterizeTask
from calibration.summary.consolidate import ConsolidateVisitSummaryTask
from diffim import ImageDifferenceTask
from exposure import Exposure, load_instrument
from service.settings import Settings
from tests.support.both_ways import assert_same_alerts, assert_same_rows, run_service, tables
from tests.support.databases import copied_database
from tests.support.pipetask import assert_announced, make_repository, pipetask, run_ap
from tests.support.survey import messages, science

DIFFERENCE = "calibrateImage,consolidateVisitSummary,buildTemplate,subtractImages,standardizeDiaSource"


@pytest.fixture(scope="module")
def repo(survey, tmp_path_factory):
    """A repository of two visits of two detectors, with all that comes before the APDB."""
    folder = tmp_path_factory.mktemp("butler") / "repo"
    visits = make_repository(survey, folder, 2)
    pipetask(*run_ap(folder, DIFFERENCE, "u/difference"))
    return SimpleNamespace(folder=folder, visits=visits, inputs="u/difference,simcam/raw/all,templates/default")


def associate(repo, output: str, uri: Path, *more):
    return run_ap(
        repo.folder, "associateApdb", output, "-c", f"parameters:apdb_config={uri}", *more, inputs=repo.inputs
    )


def file_of(uri: str, folder: Path) -> Path:
    path = folder / "apdb.uri"
    path.write_text(uri)
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Where the alerts of the undisturbed run are."""
    return tmp_path_factory.mktemp("archive")


@pytest.fixture(scope="module")
def unbroken(repo, archive, template_database, tmp_path_factory):
    """The rows of a run that nobody disturbed."""
    with copied_database(template_database) as uri:
        uri_file = file_of(uri, tmp_path_factory.mktemp("uri"))
        pipetask(*associate(repo, "u/unbroken", uri_file, "-c", f"parameters:alert_archive={archive}"))
        return tables(uri)


def test_rows_and_alerts_are_those_of_the_service(survey, repo, unbroken, archive, database, tmp_path):
    settings = Settings(
        database_uri=database._uri, data_roots=[survey], template_dir=survey / "templates",
        archive_dir=str(tmp_path / "alerts"), upload_dir=tmp_path / "u",
    )  # fmt: skip
    rows = science(survey)
    run_service(settings, messages(rows[rows.visit.isin(repo.visits)]))
    assert len(unbroken["sources"]) >= 10 and len(unbroken["forced"]) >= 2
    assert_same_rows(unbroken, tables(database._uri), rtol=1e-6)
    assert assert_same_alerts(archive, tmp_path / "alerts") >= 10


def test_datasets_have_parts_and_the_tables_are_what_is_stored(repo, unbroken):
    butler = Butler.from_config(str(repo.folder), collections=["u/unbroken", "u/difference"])
    visit, detector = repo.visits[1], 1
    data_id = {"instrument": "simcam", "visit": visit, "detector": detector}
    image = butler.get("difference_image", data_id)
    assert isinstance(image, Exposure) and image.key == (visit, detector)
    assert repr(butler.get("difference_image.visitInfo", data_id)) == repr(image.visit_info)
    assert butler.get("difference_image.bbox", data_id) == image.bbox
    stored = unbroken["sources"].query("visit == @visit and detector == @detector")
    assert set(butler.get("dia_source_apdb", data_id).diaSourceId) == set(stored.diaSourceId)
    assert type(butler.get("apdb_marker", data_id)).__name__ == "ApdbMarker"
    summary = butler.get("preliminary_visit_summary", {"instrument": "simcam", "visit": visit})
    assert (
        list(summary.table["id"]) == [0, 1]
        and np.isfinite(summary.table["zeroPoint"] * summary.table["psfSigma"]).all()
    )
    stars = butler.get("single_visit_star", {"instrument": "simcam", "visit": visit})
    assert stars.sourceId.is_unique and set(stars.detector) == {0, 1}
    config = "".join(p.read_text() for p in repo.folder.rglob("associateApdb_config*.py"))
    assert "apdb.uri" in config and "postgresql://" not in config


def test_tables_have_the_columns_that_the_tasks_announce(repo, unbroken):
    butler = Butler.from_config(str(repo.folder), collections=["u/unbroken", "u/difference"])
    visit, detector = {"visit": repo.visits[1]}, {"visit": repo.visits[1], "detector": 1}

    def same(*names: str) -> dict[str, str]:
        return {name: name for name in names}

    assert_announced(butler, CharacterizeTask, same("single_visit_star_unstandardized"), **detector)
    assert_announced(
        butler, ConsolidateVisitSummaryTask, same("preliminary_visit_summary", "single_visit_star"), **visit
    )
    assert_announced(butler, ImageDifferenceTask, {"diaSrc": "dia_source_unfiltered"}, **detector)
    split = same("dia_source_detector", "rejected_dia_source", "long_trailed_source_detector")
    assert_announced(butler, StandardizeTask, split, **detector)
    stored = {
        "diaSource": "dia_source_apdb",
        "diaForcedSource": "dia_forced_source_apdb",
        "diaObject": "dia_object_apdb",
    }
    assert_announced(butler, DiaPipelineTask, stored, **detector)


def test_objects_of_a_quantum_are_those_that_are_stored(repo, unbroken):
    butler = Butler.from_config(str(repo.folder), collections=["u/unbroken"])
    made = butler.get("dia_object_apdb", instrument="simcam", visit=repo.visits[-1], detector=1)
    stored = unbroken["objects"].set_index("diaObjectId").loc[made.diaObjectId].reset_index()
    assert len(made) > 0
    pd.testing.assert_frame_equal(made[stored.columns], stored, check_dtype=False, rtol=1e-6)  # REAL has 24 bits


def test_a_repetition_replaces_what_is_stored_with_ids_of_its_release(repo, template_database, tmp_path):
    one = ("-d", "instrument='simcam' AND detector=1")
    with copied_database(template_database) as uri:
        pipetask(*associate(repo, "u/before", file_of(uri, tmp_path), *one))
        before = tables(uri)
        pipetask(
            *run_ap(
                repo.folder, "subtractImages,standardizeDiaSource,associateApdb", "u/release", "-c", "parameters:release_id=3",
                "-c", "parameters:on_stored=replace", "-c", f"parameters:apdb_config={file_of(uri, tmp_path)}", *one,
                inputs=repo.inputs,
            )
        )  # fmt: skip
        stored = tables(uri)
    withdrawn = stored["sources"].timeWithdrawnMjdTai.notna()
    sources, old = stored["sources"][~withdrawn], before["sources"]
    assert set(stored["sources"].diaSourceId[withdrawn]) == set(old.diaSourceId)
    places = ["visit", "ra", "dec"]
    assert sources[places].to_numpy().tolist() == old[places].to_numpy().tolist() and len(old) > 0
    packer = load_instrument("simcam").packer()
    unpacked = [packer.unpack(int(i)) for i in [*sources.diaSourceId, *stored["forced"].diaForcedSourceId]]
    assert {(i.release, i.detector) for i in unpacked} == {(3, 1)} and {i.visit for i in unpacked} == set(repo.visits)
    counts = sources[sources.diaObjectId != 0].groupby("diaObjectId").size()
    pd.testing.assert_series_equal(
        stored["objects"].set_index("diaObjectId").nDiaSources, counts, check_names=False, check_dtype=False
    )
    keys = stored["forced"][["diaObjectId", "visit", "detector"]]
    assert len(keys) > 0 and not keys.duplicated().any()


# what the process does at its second quantum of association
KILLS = {
    "before the commit": "V.commit = lambda self: second() or commit(self)",
    "between commit and put": "V.commit = lambda self: (commit(self), second())",
    "between put and metadata": "D.runQuantum = lambda self, *a: (run(self, *a), second())",
}
KILLER = """
import itertools, os, signal, sys
from apdb.visit.unit_of_work import VisitUnitOfWork as V
from association.task import DiaPipelineTask as D
commit, run, calls = V.commit, D.runQuantum, itertools.count(1)
def second():
    if next(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
{patch}
from lsst.ctrl.mpexec.cli.pipetask import main
sys.argv[0] = "pipetask"
main()
"""


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_goes_on_where_it_was(repo, unbroken, template_database, moment, tmp_path):
    with copied_database(template_database) as uri:
        output = "u/" + moment.replace(" ", "-")
        arguments = associate(repo, output, file_of(uri, tmp_path))
        code = KILLER.format(patch=KILLS[moment])
        killed = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], env=os.environ, capture_output=True, timeout=300
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
        stored = len(set(zip(*(tables(uri)["sources"][c] for c in ("visit", "detector")), strict=True)))
        assert stored == (1 if moment == "before the commit" else 2)
        pipetask(
            *associate(repo, output, file_of(uri, tmp_path), "--extend-run", "--skip-existing", "--clobber-outputs")
        )
        resumed = tables(uri)
    assert_same_rows(resumed, unbroken)
    butler = Butler.from_config(str(repo.folder), collections=[output])
    markers = butler.query_datasets("apdb_marker", collections=[output])
    sources = butler.query_datasets("dia_source_apdb", collections=[output])
    assert len(markers) == len(sources) == 4
    assert sum(len(butler.get(ref)) for ref in sources) == len(unbroken["sources"])
