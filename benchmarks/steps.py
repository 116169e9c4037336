"""Time and memory per step for one 4096 x 4096 CCD: ``python -m benchmarks.steps [--size 4096] [--repeat 3] [--json]``."""

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from association import standardize
from calibration.characterize import characterize
from diffim import ImageDifferenceTask, TemplateStore, build_template
from diffim.pixels.warp import nodes, resample
from exposure import Exposure, load_instrument
from service.startup import reuse_memory
from simulation.survey import SurveyConfig, plan_visits, survey_sky
from simulation.visit import simulate_detector
from tasks import make_task


@dataclass
class Cost:
    """Seconds of each run of a step, and the peak memory of the process up to its last run."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: float = 0.0


def measure(name: str, work: Callable[[], Any], out: dict[str, Cost]) -> Any:
    """Run one step, keep its seconds and the peak memory so far."""
    start = time.perf_counter()
    result = work()
    cost = out.setdefault(name, Cost())
    cost.seconds.append(time.perf_counter() - start)
    cost.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def turned(size: int, degrees: float) -> tuple[Any, Any]:
    """Return the positions in an image of the nodes of one of its size that is turned about its middle."""
    gx, gy = nodes((0, 0, size, size))
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x, y = gx - size / 2, gy - size / 2
    return size / 2 + 0.3 + c * x - s * y, size / 2 + 0.2 + s * x + c * y


def run(size: int, repeat: int) -> list[dict[str, Any]]:
    """Return one row per step, medians over the repeats (the first run, which compiles, is left out)."""
    scale = (size / 4096) ** 2
    config = SurveyConfig(
        size=size,
        detectors=1,
        visits=4,
        template_visits=3,
        stars=int(56_000 * scale),
        galaxies=int(11_000 * scale),
        variables=int(300 * scale),
        transients=int(1500 * scale),
        asteroids=0,
    )
    sky, visits, rules = survey_sky(config), plan_visits(config), load_instrument("simcam")
    out: dict[str, Cost] = {}
    images = [
        measure("simulate", lambda v=v: simulate_detector(sky, v.detectors[0], size, seed=1), out).exposure
        for v in visits
    ]
    with tempfile.TemporaryDirectory() as folder:
        images[3].write_fits(Path(folder) / "s.fits")
        frames = [characterize(e, rules).exposure for e in images[:3]]
        chosen = measure("template_build_3", lambda: build_template(folder, "t", frames, pixel_scale=0.2), out)
        store = TemplateStore(folder, 64)
        for _ in range(repeat + 1):
            e = measure("open", lambda: Exposure.read_fits(Path(folder) / "s.fits"), out)
            measure("characterize", lambda e=e: characterize(e, rules), out)
            for degrees in (0, 3, 45):
                positions = turned(size, degrees)
                measure(f"resample_{degrees}_deg", lambda e=e, p=positions: resample(e, *p, (0, 0, size, size)), out)
            t = measure("template_fetch", lambda e=e: store.fetch(chosen, e), out)
            task = make_task(ImageDifferenceTask, {"doDetection": False})
            measure("subtract", lambda e=e, t=t, task=task: task.run(e.copy(), e.sources, t), out)
            all_steps = make_task(ImageDifferenceTask)
            r = measure("subtract_detect_measure", lambda e=e, t=t, t_all=all_steps: t_all.run(e, e.sources, t), out)
            measure("standardize", lambda r=r: standardize(r.diaSources, r.subtractedExposure, 61000.0), out)
    rows = []
    for name, cost in out.items():
        kept = cost.seconds[1:] if len(cost.seconds) > 1 else cost.seconds
        rows.append(
            {
                "case": name,
                "size": size,
                "seconds": round(statistics.median(kept), 3),
                "peak_mb": round(cost.peak_mb),
            }
        )
    return rows


def main() -> None:
    """Print the table, or JSON lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reuse_memory()  # as job processes do
    for row in run(options.size, options.repeat):
        print(
            json.dumps(row)
            if options.json
            else f"{row['case']:26s} {row['seconds']:8.3f} s   peak {row['peak_mb']:6.0f} MB"
        )


if __name__ == "__main__":
    main()
