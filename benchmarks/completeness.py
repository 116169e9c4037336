"""Where changes are found: ``python -m benchmarks.completeness [--scenes 20] [--crowded] [--json]``.

Undamaged scenes of the ordinary camera (`benchmarks.reliability_scenes`) through the production chain. Sources on the sky, within
the effective radius of Sersic galaxies, on their nuclei, and on stars that the template holds, which fade as often as they
brighten. One object: for each of them the share that is found, by signal to noise, and that has a reliability of 0.5 and more;
detections that nothing was put at, for each 4096 x 4096. Plateau: the same for all of S/N > `PLATEAU` that can be seen, with the
interval that holds the truth in 95 of 100 cases: no other change within 3 FWHM, no pixel without data or saturated within one.
"""

import argparse
import json
from itertools import chain, pairwise
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from benchmarks.reliability_scenes import SIZE, Subtracted, simulated_scenes
from benchmarks.reliability_truth import OTHER, REAL
from diffim.measurement.reliability import features, reliability
from diffim.options import BAD_SOURCE_FLAGS
from exposure.mask import plane_bits
from exposure.psf import fwhm_of

STEPS = (5.0, 6.0, 7.0, 8.0, 10.0, 15.0, 30.0, 300.0)
PLATEAU = 15.0
HIDDEN = ("SAT", "SAT_TEMPLATE", "BAD", "NO_DATA", "EDGE")
CROWDED = 100_000 / 4096**2
CUT = 0.5
TIMES = 4096**2 / SIZE**2


def scores(s: Subtracted) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return the reliability (N,) of the detections; 0 for those that a flag removes."""
    p = reliability(features(s.difference, s.science, s.template, s.sources))[0].astype(np.float64)
    p[s.sources[list(BAD_SOURCE_FLAGS)].any(axis=1).to_numpy()] = 0.0
    return p


def can_be_seen(s: Subtracted) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Return which changes (N,) lie neither close to another one nor on pixels that say nothing."""
    place = s.truth[["x", "y"]].to_numpy(np.float64)
    fwhm = float(np.median(fwhm_of(s.difference.require_psf().moments_at(*place.T))))
    alone = cKDTree(place).query(place, k=2)[0][:, 1] > 3 * fwhm
    hidden = np.pad((s.difference.mask & plane_bits(HIDDEN)) != 0, 1, constant_values=True)
    rows, columns = np.nonzero(hidden)
    far = cKDTree(np.column_stack([columns - 1, rows - 1])).query(place - s.difference.origin)[0] > fwhm
    return np.asarray(alone & far)


def interval(hits: int, number: int) -> list[float]:
    """Return the bounds of a share of 95 of 100 cases: Wilson's interval."""
    number = max(number, 1)
    z, share = 1.96, hits / number
    middle, half = share + z**2 / (2 * number), z * np.sqrt(share * (1 - share) / number + (z / (2 * number)) ** 2)
    return [round(float(v / (1 + z**2 / number)), 3) for v in (middle - half, middle + half)]


def run(scenes: int, density: float | None = None) -> dict[str, Any]:
    """Return the object."""
    rows: list[tuple[str, float, bool, bool, bool]] = []
    false = {"all": 0, "reliable": 0}
    blocks = (
        simulated_scenes("ordinary", 500 + first // 5, min(5, scenes - first), damaged=False, density=density)
        for first in range(0, scenes, 5)
    )
    for s in chain.from_iterable(blocks):
        p = scores(s)
        on = s.matched
        best = np.where(on >= 0, p[on] if len(p) else 0.0, 0.0)
        rows += zip(s.truth.kind, s.truth.snr, s.truth.found, best >= CUT, can_be_seen(s), strict=True)
        other = s.kind == OTHER
        kept = ~s.sources[list(BAD_SOURCE_FLAGS)].any(axis=1).to_numpy()
        false["all"] += int((other & kept).sum())
        false["reliable"] += int((other & (p >= CUT)).sum())
    kind = np.array([r[0] for r in rows])
    snr, found, sure, seen = (np.array([r[k] for r in rows]) for k in (1, 2, 3, 4))
    table, plateau = {}, {}
    for k in REAL:
        bins = []
        for low, high in pairwise(STEPS):
            here = (kind == k) & (snr >= low) & (snr < high)
            if here.any():
                bins.append([low, int(here.sum()), *(round(float(v[here].mean()), 3) for v in (found, sure))])
        table[k] = bins
        here = (kind == k) & (snr > PLATEAU) & seen
        hits, n = [int(v[here].sum()) for v in (found, sure)], int(here.sum())
        plateau[k] = [n, *(v for h in hits for v in (round(h / max(n, 1), 3), interval(h, n)))]
    per = {name: round(number * TIMES / scenes, 2) for name, number in false.items()}
    return {
        "columns": ["snr from", "number", "found", "reliable"],
        "completeness": table,
        "plateau: number, found, of, reliable, of": plateau,
        "false per 4096^2": per,
    }


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
