"""Alert production as a batch: BPS on Parsl's local executor with two workers, and what it prepares for HTCondor."""

import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lsst.daf.butler import Butler

from service.settings import Settings
from tests.support.both_ways import assert_same_alerts, assert_same_rows, run_service, tables
from tests.support.databases import copied_database
from tests.support.pipetask import make_repository, program, whole_only
from tests.support.survey import messages, science

pytestmark = whole_only
VISITS, DETECTORS = 4, 2
OF_VISITS = ("mpSkyEphemerisQuery", "consolidateVisitSummary")
OF_DETECTORS = ("calibrateImage", "buildTemplate", "subtractImages", "standardizeDiaSource", "associateApdb")
CONFIG = Path(__file__).parents[2] / "middleware" / "batch" / "ap.yaml"


@pytest.fixture(scope="module")
def repo(survey, tmp_path_factory):
    """A folder with a repository of four visits of two detectors, and their numbers."""
    folder = tmp_path_factory.mktemp("batch")
    return SimpleNamespace(folder=folder, visits=make_repository(survey, folder / "repo", VISITS))


def configuration(repo, folder: Path, inputs: str = "simcam/raw/all,templates/default", **more) -> Path:
    """Write the configuration of a batch in a folder; returns its path."""
    shutil.copy(CONFIG, folder / "ap.yaml")
    mine = {
        "includeConfigs": [str(folder / "ap.yaml")],
        "payload": {
            "payloadName": folder.name, "butlerConfig": str(repo.folder / "repo"),
            "inCollection": inputs, "dataQuery": "instrument='simcam'",
        },
        "extraQgraphOptions": "--instrument middleware.instrument.simcam "
        f"-c parameters:apdb_config={folder}/apdb.uri -c parameters:alert_archive={folder}/alerts",
        **more,
    }  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))
    return folder / "mine.yaml"


@pytest.fixture(scope="module")
def submitted(repo, template_database, tmp_path_factory):
    """A batch that ran to its end: its folder, the rows it left, and the run's collection."""
    folder = tmp_path_factory.mktemp("parsl")
    with copied_database(template_database) as uri:
        (folder / "apdb.uri").write_text(uri)
        begin = time.monotonic()
        program("alertprod", "bps", "submit", configuration(repo, folder), folder=folder)
        print(f"batch: {time.monotonic() - begin:.0f} s")
        rows = tables(uri)
    butler = Butler.from_config(str(repo.folder / "repo"))
    (run,) = [c for c in butler.collections.query("u/*") if re.search(rf"/{folder.name}/\d", c)]
    (graph,) = (p for p in (folder / "submit").rglob("*.qg") if p.name != "provenance.qg")
    return SimpleNamespace(folder=folder, rows=rows, butler=butler, run=run, graph=graph)


def test_more_than_forty_quanta_run_to_their_end_on_two_workers(repo, submitted):
    program(
        "pipetask", "report", repo.folder / "repo", submitted.graph, "--force-v2", "--full-output-filename", "report.json",
        folder=submitted.folder,
    )  # fmt: skip
    report = json.loads((submitted.folder / "report.json").read_text())["tasks"]
    counts = dict.fromkeys(OF_VISITS, VISITS) | dict.fromkeys(OF_DETECTORS, VISITS * DETECTORS)
    assert {label: task["n_successful"] for label, task in report.items()} == counts and sum(counts.values()) >= 40
    assert all(task["n_successful"] == task["n_expected"] for task in report.values())
    markers = submitted.butler.query_datasets("apdb_marker", collections=[submitted.run])
    found = {(r.dataId["visit"], r.dataId["detector"]) for r in markers}
    assert found == {(v, d) for v in repo.visits for d in range(DETECTORS)}


def test_visits_are_associated_in_the_order_of_time(submitted):
    stored = submitted.rows["sources"]
    founded = stored[stored.diaObjectId == stored.diaSourceId].set_index("diaObjectId").visit
    matched = stored[stored.diaObjectId != 0]
    assert len(matched) > len(founded) > 0
    assert (
        founded[matched.diaObjectId].to_numpy() <= matched.visit.to_numpy()
    ).all()  # the first that saw it founded it


def test_rows_and_alerts_of_a_batch_are_those_of_the_service(survey, repo, submitted, database, tmp_path):
    settings = Settings(
        database_uri=database._uri, data_roots=[survey], template_dir=survey / "templates",
        archive_dir=str(tmp_path / "alerts"), upload_dir=tmp_path / "u",
    )  # fmt: skip
    rows = science(survey)
    run_service(settings, messages(rows[rows.visit.isin(repo.visits)]))
    assert_same_rows(submitted.rows, tables(database._uri), rtol=1e-6)
    assert assert_same_alerts(submitted.folder / "alerts", tmp_path / "alerts") >= 10


def test_a_batch_that_fails_names_the_quanta_and_ends_with_another_status(repo, submitted, tmp_path):
    (tmp_path / "apdb.uri").write_text("postgresql://127.0.0.1:1/none")  # nobody listens there
    config = configuration(
        repo, tmp_path, f"{submitted.run},simcam/raw/all,templates/default",
        pipelineYaml="resource://middleware.pipelines/AP.yaml#associateApdb",
    )  # fmt: skip
    said = program("alertprod", "bps", "submit", config, folder=tmp_path, status=1)
    quanta = VISITS * DETECTORS
    assert f"{DETECTORS} of {quanta} quanta failed: associateApdb visit={repo.visits[0]} detector=0" in said
    assert f"{quanta - DETECTORS} were not reached" in said  # visits wait for the one before


def test_the_provenance_of_a_batch_goes_into_the_repository(repo, submitted):
    (provenance,) = (submitted.folder / "submit").rglob("provenance.qg")
    program("butler", "ingest-graph", repo.folder / "repo", provenance, folder=submitted.folder)
    butler = Butler.from_config(str(repo.folder / "repo"), collections=[submitted.run])
    assert len(butler.query_datasets("run_provenance", collections=[submitted.run])) == 1
    data_id = {"instrument": "simcam", "visit": repo.visits[0], "detector": 0}
    assert "calibrateImage" in butler.get("calibrateImage_metadata", data_id).to_dict()  # which lie in the graph now


def test_htcondors_files_are_prepared(repo, tmp_path):
    (tmp_path / "apdb.uri").write_text("postgresql://apdb/apdb")
    config = configuration(repo, tmp_path, wmsServiceClass="lsst.ctrl.bps.htcondor.HTCondorService")
    program("alertprod", "bps", "prepare", config, folder=tmp_path)
    names = sorted(path.name for path in (tmp_path / "submit").rglob("*.sub"))
    assert len(names) >= VISITS * DETECTORS + VISITS and any("finalJob" in n for n in names), names
    (dag,) = (tmp_path / "submit").rglob("*.dag")
    text = dag.read_text()
    for before, after in zip(repo.visits, repo.visits[1:], strict=False):
        edge = rf"PARENT .*visit_\S*{before}\S* CHILD .*visit_\S*{after}"
        assert re.search(edge, text), edge
