"""``pipetask`` and ``butler``, within the process of a test or as a user's programs, and a repository of a small survey."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lsst.ctrl.mpexec.cli.pipetask import cli
from lsst.daf.butler.cli.utils import LogCliRunner

from calibration.summary.columns import as_frame
from diffim import TemplateStore
from exposure import ExposureCatalog
from middleware.repository import Repository
from tasks import AlertTask, make_task
from tests.support.survey import science

__all__ = ["PIPELINES", "WHOLE", "assert_announced", "make_repository", "pipetask", "program", "run_ap", "whole_only"]

PIPELINES = Path(__file__).parents[2] / "middleware" / "pipelines"
WHOLE = "ALERTPROD_MIDDLEWARE" in os.environ
"""Whether everything is asked for, which takes ten minutes: `make middleware-test`."""
whole_only = pytest.mark.skipif(not WHOLE, reason="minutes, and the extra batch: make middleware-test")


def program(name: str, *arguments: Any, folder: Path, status: int = 0, **environment: Any) -> str:
    """Run a program of this installation in a folder; returns what it said, and fails where its status is another."""
    done = subprocess.run(
        [str(Path(sys.prefix) / "bin" / name), *map(str, arguments)],
        cwd=folder, env=os.environ | {k: str(v) for k, v in environment.items()},
        capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == status, f"{name} {done.returncode}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def pipetask(*arguments: Any) -> str:
    """Run ``pipetask`` with the arguments; returns what it said, and fails where it does."""
    result = LogCliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return str(result.output)


def assert_announced(
    butler: Any,
    task: type[AlertTask],
    tables: dict[str, str],
    config: Any = None,
    **data_id: Any,
) -> None:
    """Compare columns and types of stored tables with those that a task announces, and that the run keeps without a row.

    `tables` are datasets by the names that the task announces.
    """
    announced = make_task(task, config).getSchemaCatalogs()
    assert set(announced) == set(tables)
    for name, dataset in tables.items():
        stored = butler.get(dataset, instrument="simcam", **data_id)
        kept = butler.get(f"{dataset}_schema")
        assert len(_frame(kept)) == 0
        pd.testing.assert_series_equal(_types(announced[name]), _types(_frame(stored)), obj=dataset)
        pd.testing.assert_series_equal(_types(_frame(kept)), _types(_frame(stored)), obj=f"{dataset}_schema")


def _frame(stored: Any) -> pd.DataFrame:
    return as_frame(stored.table) if isinstance(stored, ExposureCatalog) else stored


def _types(frame: pd.DataFrame) -> pd.Series:
    """Return the types of columns; text that was in a file has another type in memory than text that was not."""
    return frame.dtypes.map(lambda t: "text" if str(t) in ("object", "str") else str(t))


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
