"""A night by command line alone, simulated and real, as a user of a Butler runs it; then the service on the same frames."""

import json
from pathlib import Path

import pytest

from exposure import load_instrument
from service.processing.build_template import template_from_frames
from service.settings import Settings
from tests.support.both_ways import assert_same_alerts, assert_same_rows, run_service, tables
from tests.support.databases import copied_database
from tests.support.pipetask import program, whole_only
from tests.support.real import real_data
from tests.support.survey import science

pytestmark = whole_only
VISITS = 3


def night(camera: str, survey: Path, folder: Path) -> tuple[list[Path], Path]:
    """Return the frames of three visits, and the folder of a template set."""
    if camera == "simcam":
        rows = science(survey)
        chosen = rows[rows.visit.isin(sorted(rows.visit.unique())[:VISITS])]
        return [Path(p) for p in chosen.path], survey / "templates"
    frames = sorted(real_data("microobs_hatp32").glob("hatp32_*.fits.gz"))
    template_from_frames(folder / "templates", "default", frames[:4], load_instrument(camera))
    return frames[4 : 4 + VISITS], folder / "templates"


@pytest.mark.parametrize("camera", ["simcam", "hatp32"])
def test_a_night_by_command_line_is_that_of_the_service(camera, survey, database, template_database, tmp_path):
    frames, templates = night(camera, survey, tmp_path)
    repo, graph = tmp_path / "repo", tmp_path / "ap.qg"

    def alertprod(*arguments) -> str:
        return program("alertprod", *arguments, folder=tmp_path, ALERTPROD_TEMPLATE_DIR=templates)

    alertprod("butler", "create", repo, camera)
    for new in (len(frames), 0):  # again changes nothing
        said = json.loads(alertprod("butler", "ingest", repo, camera, *frames, "--json"))
        assert (said["new"], said["known"]) == (new, len(frames) - new)
        alertprod("butler", "ingest-templates", repo, "default")
    with copied_database(template_database) as uri:
        (tmp_path / "apdb.uri").write_text(uri)
        program(
            "pipetask", "run", "-b", repo, "-p", "resource://middleware.pipelines/AP.yaml",
            "--instrument", f"middleware.instrument.{camera}", "-i", f"{camera}/raw/all,templates/default", "-o", "u/ap",
            "--register-dataset-types", "-d", f"instrument='{camera}'", "-c", f"parameters:apdb_config={tmp_path}/apdb.uri",
            "-c", f"parameters:alert_archive={tmp_path}/alerts", "--graph-fixup", "middleware.ordering.by_visit",
            "-j", 2, "--start-method", "forkserver", "--save-qgraph", graph, folder=tmp_path,
        )  # fmt: skip
        ours = tables(uri)
    found = program("butler", "query-datasets", repo, "difference_image", "--collections", "u/ap", folder=tmp_path)
    assert found.count(f" {camera} ") == len(frames)
    (tmp_path / "taken").mkdir()
    program(
        "butler", "retrieve-artifacts", repo, tmp_path / "taken", "--dataset-type", "dia_source_apdb", "--collections",
        "u/ap", folder=tmp_path,
    )  # fmt: skip
    assert len(list((tmp_path / "taken").rglob("*.parq"))) == len(frames)
    program("pipetask", "report", repo, graph, "--force-v2", "--full-output-filename", "report.json", folder=tmp_path)
    for label, task in json.loads((tmp_path / "report.json").read_text())["tasks"].items():
        assert task["n_successful"] == task["n_expected"] in (VISITS, len(frames)), label
    settings = Settings(
        database_uri=database._uri, data_roots=[p.parent for p in frames], template_dir=templates,
        archive_dir=str(tmp_path / "theirs"), upload_dir=tmp_path / "u",
    )  # fmt: skip
    run_service(settings, [{"instrument": camera, "science": str(path)} for path in frames])
    assert len(ours["sources"]) > 0
    assert_same_rows(ours, tables(database._uri), rtol=1e-6)
    assert_same_alerts(tmp_path / "alerts", tmp_path / "theirs")
