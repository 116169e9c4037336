"""Where changes are found: ``python -m benchmarks.completeness [--scenes 20] [--crowded] [--json]``.

Undamaged scenes of the ordinary camera (`benchmarks.reliability_scenes`) through the production chain. Sources on the sky, within
the effective radius of Sersic galaxies, on their nuclei, and on stars that the template holds, which fade as often as they
brighten. One object: for each of them the share that is found, by signal to noise, and that has a reliability of 0.5 and more;
detections that nothing was put at, for each 4096 x 4096.
"""

import argparse
import json
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.reliability_scenes import SIZE, Subtracted, simulated_scenes
from benchmarks.reliability_truth import OTHER, REAL
from diffim.measurement.reliability import features, reliability
from diffim.options import BAD_SOURCE_FLAGS

STEPS = (5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 30.0, 300.0)
CROWDED = 100_000 / 4096**2
CUT = 0.5
TIMES = 4096**2 / SIZE**2


def scores(s: Subtracted) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return the reliability (N,) of the detections; 0 for those that a flag removes."""
    p = reliability(features(s.difference, s.science, s.template, s.sources))[0].astype(np.float64)
    p[s.sources[list(BAD_SOURCE_FLAGS)].any(axis=1).to_numpy()] = 0.0
    return p


def run(scenes: int, density: float | None = None) -> dict[str, Any]:
    """Return the object."""
    rows: list[tuple[str, float, bool, bool]] = []
    false = {"all": 0, "reliable": 0}
    for s in simulated_scenes("ordinary", 500, scenes, damaged=False, density=density):
        p = scores(s)
        on = s.matched
        best = np.where(on >= 0, p[on] if len(p) else 0.0, 0.0)
        rows += zip(s.truth.kind, s.truth.snr, s.truth.found, best >= CUT, strict=True)
        other = s.kind == OTHER
        kept = ~s.sources[list(BAD_SOURCE_FLAGS)].any(axis=1).to_numpy()
        false["all"] += int((other & kept).sum())
        false["reliable"] += int((other & (p >= CUT)).sum())
    kind = np.array([r[0] for r in rows])
    snr, found, sure = (np.array([r[k] for r in rows]) for k in (1, 2, 3))
    table = {}
    for k in REAL:
        bins = []
        for low, high in pairwise(STEPS):
            here = (kind == k) & (snr >= low) & (snr < high)
            if here.any():
                bins.append([low, int(here.sum()), *(round(float(v[here].mean()), 3) for v in (found, sure))])
        table[k] = bins
    per = {name: round(number * TIMES / scenes, 2) for name, number in false.items()}
    return {"columns": ["snr from", "number", "found", "reliable"], "completeness": table, "false per 4096^2": per}


def main() -> None:
    """Print the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--crowded", action="store_true", help="100 000 stars on 4096 x 4096")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    result = run(a.scenes, CROWDED if a.crowded else None)
    print(json.dumps(result) if a.json else json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
