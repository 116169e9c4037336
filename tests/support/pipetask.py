"""``pipetask`` and ``butler`` within the process of a test, and a repository of a small survey."""

from pathlib import Path
from typing import Any

from lsst.ctrl.mpexec.cli.pipetask import cli
from lsst.daf.butler.cli.utils import LogCliRunner

from diffim import TemplateStore
from middleware.repository import Repository
from tests.support.survey import science

__all__ = ["PIPELINES", "make_repository", "pipetask", "run_ap"]

PIPELINES = Path(__file__).parents[2] / "middleware" / "pipelines"


def pipetask(*arguments: Any) -> str:
    """Run ``pipetask`` with the arguments; returns what it said, and fails where it does."""
    result = LogCliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return str(result.output)


def make_repository(survey: Path, folder: Path, visits: int) -> list[int]:
    """Make a repository of the first visits after the template; returns their numbers."""
    rows = science(survey)
    chosen = sorted(rows.visit.unique())[:visits]
    repository = Repository.create(folder, "simcam")
    repository.ingest_frames("simcam", [Path(p) for p in rows[rows.visit.isin(chosen)].path])
    repository.ingest_templates(TemplateStore(survey / "templates").get("default"))
    return [int(v) for v in chosen]


def run_ap(
    repo: Path, labels: str, output: str, *more: Any, inputs: str = "simcam/raw/all,templates/default"
) -> list[Any]:
    """Return the arguments of a run of some tasks of AP.yaml."""
    return [
        "run", "-b", repo, "-p", f"{PIPELINES / 'AP.yaml'}#{labels}", "--instrument", "middleware.instrument.simcam",
        "-i", inputs, "-o", output, "--register-dataset-types", "--graph-fixup", "middleware.ordering.by_visit",
        "-d", "instrument='simcam'", *more,
    ]  # fmt: skip
