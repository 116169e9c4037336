"""What ``pipetask`` and a job of a batch cost beside the science: ``python -m benchmarks.middleware [--visits N]``.

A quantum of `association.preload_task.PreloadEphemeridesTask` without a source of ephemerides does nothing but write a table of
no rows. Runs of few and of many such quanta are timed, in a process of their own: the difference is the cost of a quantum, the
start of the program is not in it. A job of a batch is one such quantum of a graph of the whole pipeline: the first on a machine,
which leaves a server of processes behind, and one of those after it.
"""

import argparse
import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

from diffim import TemplateStore
from diffim.templates.store import build_template
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.psf import GaussianPsf
from middleware.batch.job import IDLE
from middleware.repository import Repository
from tasks.arrays import F64

SHAPE = (60, 80)
FEW = 4
JOBS = 5
AIMS = {"quantum, -j 1": 0.1, "quantum, -j 2 forkserver": 0.5, "job of a batch": 3.0}
PIPELINE = "resource://middleware.pipelines/AP.yaml"
TRIVIAL = f"{PIPELINE}#mpSkyEphemerisQuery"


def _frame(number: int) -> Exposure:
    rng = np.random.default_rng(number)
    wcs = SkyWcs.tan((40.0, 30.0), (10.0, -20.0), np.array([[-2.0, 0], [0, 2.0]]) / 3600)
    info = VisitInfo(900_001 + number, 0, 58_107.25 + 0.01 * number, 30.0, "simcam", 10.0, -20.0, airmass=1.2)
    stars = pd.DataFrame(
        {"x": [20.0, 50.0], "y": [20.0, 30.0], "ra": [10.0, 10.001], "dec": [-20.0, -20.001], "psfFlux": [9e3, 8e3],
         "snr": [90.0, 80.0], "isolated": True, "flagged": False}
    )  # fmt: skip
    planes = rng.normal(0, 3, SHAPE).astype(np.float32), np.full(SHAPE, 9, np.float32), np.zeros(SHAPE, np.int32)
    parts = {"wcs": wcs, "psf": GaussianPsf(1.8, 21), "photo_calib": PhotoCalib(1.0), "visit_info": info}
    return Exposure(*planes, **parts, band="r", physical_filter="r_sim", sources=stars)


def make_repository(folder: Path, visits: int) -> Path:
    """Make a repository of tiny frames, one a visit, and a template of the first."""
    repository = Repository.create(folder / "repo", "simcam")
    paths = [folder / f"f{k}.fits" for k in range(visits)]
    for k, path in enumerate(paths):
        _frame(k).write_fits(path)
    repository.ingest_frames("simcam", paths)
    build_template(folder / "t", "deep", [_frame(0)], pixel_scale=2.0, tile=64)
    repository.ingest_templates(TemplateStore(folder / "t").get("deep"))
    return folder / "repo"


def pipetask(*arguments: Any) -> F64:
    """Run the program; returns its seconds (2,): of the clock, and of the processor (with its children's)."""
    return run("pipetask", [arguments])


def run(program: str, calls: Iterable[Sequence[Any]]) -> F64:
    """Run a program of this installation, once for each arguments, one after another; returns the seconds as `pipetask`."""
    begin = np.array([time.perf_counter(), _processor_s()])
    for arguments in calls:
        command = [str(Path(sys.prefix) / "bin" / program), *map(str, arguments)]
        done = subprocess.run(command, env=os.environ | {IDLE: "3"}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
    clock = time.perf_counter()
    with contextlib.suppress(ChildProcessError):  # a server ends after the program, with the time of all its processes
        while True:
            os.wait()
    return np.array([clock, _processor_s()]) - begin


def adopt_orphans() -> None:
    """Let processes whose parent has ended become children of this one, so that their time is known (Linux)."""
    set_child_subreaper = 36
    if ctypes.CDLL(None, use_errno=True).prctl(set_child_subreaper, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this process cannot adopt orphans")


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def graph_of(repo: Path, pipeline: str, run: str, most: int) -> Path:
    """Write the graph of the first visits; returns its path."""
    path = repo.parent / f"{run}.qg"
    pipetask(
        "qgraph", "-b", repo, "-p", pipeline, "--instrument", "middleware.instrument.simcam", "-i",
        "simcam/raw/all,templates/deep", "--output-run", run, "-d", f"instrument='simcam' AND visit <= {900_000 + most}",
        "--save-qgraph", path, "--qgraph-datastore-records",
    )  # fmt: skip
    return path


def per_quantum(repo: Path, visits: int, name: str, *how: Any) -> F64:
    """Return the seconds that a quantum adds to a run, as of `pipetask`."""
    seconds = {}
    for most in (FEW, visits):
        run = f"{name}{most}"
        graph = graph_of(repo, TRIVIAL, run, most)
        seconds[most] = pipetask(
            "run", "-b", repo, "-g", graph, "--output-run", run, "--register-dataset-types", "--graph-fixup",
            "middleware.ordering.by_visit", *how,
        )  # fmt: skip
    return (seconds[visits] - seconds[FEW]) / (visits - FEW)


def per_job(repo: Path) -> tuple[F64, F64]:
    """Return the seconds, as of `pipetask`, of the first job of a batch, and of one after it, with a quantum that does nothing."""
    graph = graph_of(repo, PIPELINE, "jobs", 2 + JOBS)
    pipetask("pre-exec-init-qbb", repo, graph)
    quanta = PredictedQuantumGraph.read_execution_quanta(graph).quanta_by_task["mpSkyEphemerisQuery"]
    one, *others = [("run-qbb", repo, graph, "--qgraph-node-id", quantum) for quantum in quanta.values()]
    first = run("alertprod-job", [one])
    return first, (run("alertprod-job", others) - first) / JOBS  # the others have a first one, too


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as folder:
        repo = make_repository(Path(folder), arguments.visits)
        first, job = per_job(repo)
        measured = {
            "quantum, -j 1": per_quantum(repo, arguments.visits, "one", "-j", 1),
            "quantum, -j 2 forkserver": np.array([2, 1])  # on the clock, two run beside each other
            * per_quantum(repo, arguments.visits, "two", "-j", 2, "--start-method", "forkserver"),
            "first job of a batch": first,
            "job of a batch": job,
        }
    if arguments.json:
        print(json.dumps({name: seconds.tolist() for name, seconds in measured.items()}))
        return
    print("| what | seconds | of the processor | aim |\n|---|---|---|---|")
    for name, (clock, processor) in measured.items():
        print(f"| {name} | {clock:.2f} | {processor:.2f} | {AIMS.get(name, '')} |")


if __name__ == "__main__":
    main()
