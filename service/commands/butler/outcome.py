"""What became of the quanta of a batch whose engine says nothing of those that failed (Parsl)."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tasks.errors import CallerError

__all__ = ["of_images", "ran_here", "report_of", "unfinished"]

_NAMED = 20  # quanta that a message names
_TIMEOUT_S = 3600.0


def ran_here(folder: Path) -> bool:
    """Return whether the jobs of a submission's folder ended before the command did, with a status that says nothing of them."""
    return (folder / "parsl_workflow.pickle").exists()


def report_of(folder: Path) -> dict[str, Any]:
    """Return what ``pipetask report`` says of the graph of a submission, by label of the task.

    Raises
    ------
    CallerError
        The folder lacks graph or configuration, or the report cannot be made.
    """
    graphs = [p for p in folder.glob("*.qg") if p.name != "provenance.qg"]
    configs = list(folder.glob("*_config.yaml"))
    if len(graphs) != 1 or len(configs) != 1:
        raise CallerError(f"{folder} holds {len(graphs)} graphs and {len(configs)} configurations, not one of each")
    config = yaml.load(configs[0].read_text(), Loader=yaml.CSafeLoader)
    repo = os.path.expandvars(str(config["payload"]["butlerConfig"]))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "report.json"
        command = [str(Path(sys.prefix) / "bin" / "pipetask"), "report", repo, str(graphs[0]), "--force-v2"]
        done = subprocess.run(
            [*command, "--full-output-filename", str(path)], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if done.returncode or not path.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise CallerError(f"pipetask report {repo} {graphs[0]} ended with status {done.returncode}: {last}")
        tasks: dict[str, Any] = json.loads(path.read_text())["tasks"]
    return tasks


def unfinished(tasks: Mapping[str, Any]) -> str | None:
    """Return a line that names the quanta that failed and counts those that were not reached; None where all are done.

    Parameters
    ----------
    tasks
        As `report_of` gives them. Quanta that had nothing to do are done.
    """
    missing = sum(int(task["n_expected"]) - int(task["n_successful"]) for task in tasks.values())
    if missing == 0:
        return None
    failed = sorted(
        f"{label} {_place(quantum['data_id'])}"
        for label, task in tasks.items()
        for quantum in (*task["failed_quanta"], *task["wonky_quanta"])
    )
    more = f" and {len(failed) - _NAMED} more" * (len(failed) > _NAMED)
    named = f": {'; '.join(failed[:_NAMED])}{more}" * bool(failed)
    total = sum(int(task["n_expected"]) for task in tasks.values())
    return f"{len(failed)} of {total} quanta failed{named}; {missing - len(failed)} were not reached"


def of_images(tasks: Mapping[str, Any]) -> str | None:
    """Return a line that names the quanta that are done although their image failed; None where there are none."""
    failed = sorted(
        f"{label} {_place(quantum['data_id'])} ({quantum['exception']['metadata'].get('code', kind)})"
        for label, task in tasks.items()
        for kind, quanta in task["exceptions"].items()
        for quantum in quanta
    )
    more = f" and {len(failed) - _NAMED} more" * (len(failed) > _NAMED)
    return f"images that failed: {'; '.join(failed[:_NAMED])}{more}" if failed else None


def _place(data_id: Mapping[str, Any]) -> str:
    """Return what tells a quantum from others of its task."""
    return " ".join(f"{k}={data_id[k]}" for k in ("visit", "detector", "tract", "patch") if k in data_id)
