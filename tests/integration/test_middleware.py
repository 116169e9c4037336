"""Alert production under ``pipetask``: the rows are the service's, and a run that is killed anywhere goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fastavro
import numpy as np
import pandas as pd
import pytest
from lsst.daf.butler import Butler

from apdb import Database, Ledger
from apdb.operate.export import all_rows, latest_objects
from exposure import Exposure
from service.intake.headers import read_facts
from service.intake.submit import submit_visit
from service.processing.visit import Processor
from service.settings import Settings
from tests.support.databases import copied_database
from tests.support.pipetask import make_repository, pipetask, run_ap
from tests.support.survey import messages, science

DIFFERENCE = "calibrateImage,consolidateVisitSummary,buildTemplate,subtractImages,standardizeDiaSource"
TIMES = ["timeProcessedMjdTai", "validityStartMjdTai", "validityEndMjdTai", "timeWithdrawnMjdTai"]


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


def tables(uri: str) -> dict[str, pd.DataFrame]:
    database = Database(uri)
    return {
        "objects": latest_objects(database).sort_values("diaObjectId", ignore_index=True),
        "sources": all_rows(database, "DiaSource").sort_values("diaSourceId", ignore_index=True),
        "forced": all_rows(database, "DiaForcedSource").sort_values("diaForcedSourceId", ignore_index=True),
    }


def alerts_in(archive: Path) -> dict[int, dict]:
    """Return the packets below a folder by their source, without times of processing."""

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if k not in TIMES}
        return [timeless(v) for v in value] if isinstance(value, list) else value

    out = {}
    for path in sorted(archive.rglob("*.avro")):
        with path.open("rb") as file:
            out |= {packet["diaSourceId"]: timeless(packet) for packet in fastavro.reader(file)}
    return out


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
    ledger, processor = Ledger(database), Processor(settings)
    rows = science(survey)
    for message in messages(rows[rows.visit.isin(repo.visits)]):
        submit_visit(message, settings, ledger, read_facts)
    while (claim := ledger.claim("test", 600, 0)) is not None:
        assert processor.run(claim)["state"] == "done"
    theirs = tables(database._uri)
    assert len(unbroken["sources"]) >= 10 and len(unbroken["forced"]) >= 2
    for name, mine in unbroken.items():
        drop = [c for c in TIMES if c in mine]
        pd.testing.assert_frame_equal(mine.drop(columns=drop), theirs[name].drop(columns=drop), obj=name, rtol=1e-6)
    ours, alerts = alerts_in(archive), alerts_in(tmp_path / "alerts")
    assert set(ours) == set(alerts) and len(ours) >= 10
    for number, packet in ours.items():
        assert packet.keys() == alerts[number].keys()
        assert [k for k in packet if str(packet[k]) != str(alerts[number][k])] == []  # NaN are equal


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
    for name, rows in unbroken.items():
        drop = [c for c in TIMES if c in rows]
        pd.testing.assert_frame_equal(resumed[name].drop(columns=drop), rows.drop(columns=drop), obj=name)
    butler = Butler.from_config(str(repo.folder), collections=[output])
    markers = butler.query_datasets("apdb_marker", collections=[output])
    sources = butler.query_datasets("dia_source_apdb", collections=[output])
    assert len(markers) == len(sources) == 4
    assert sum(len(butler.get(ref)) for ref in sources) == len(unbroken["sources"])
