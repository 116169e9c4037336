"""What a replacement costs beside a store of the same rows: ``python -m benchmarks.replace [--preset A] [--visits 40]``.

Visits of one patch are stored one after the other; after the first ten each one is stored, then replaced by rows with the ids of
the next processing, and an earlier one is replaced, too. Medians in ms, and the ratios of pairs.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from apdb.operate.embedded import EmbeddedPostgres
from benchmarks.apdb import SETTINGS, at, make_client
from benchmarks.apdb_workload import PRESETS, Patch

__all__ = ["main"]

WARM = 10
_NEXT_IDS = 500_000


def _again(visit: dict[str, Any], release: int) -> dict[str, Any]:
    """Return a visit with the ids and fluxes of another processing."""
    frames = {}
    for kind, name in (("sources", "diaSourceId"), ("forced", "diaForcedSourceId")):
        rows = visit[kind]
        factor = np.random.default_rng([visit["visit"], release]).normal(1.0, 1e-3, len(rows)).astype(np.float32)
        frames[kind] = rows.assign(**{name: rows[name] + release * _NEXT_IDS // 10, "psfFlux": rows.psfFlux * factor})
    return visit | frames


def _timed(client: Any, visit: dict[str, Any], mjd: float, replace: bool) -> float:
    begin = time.perf_counter()
    client.store(at(mjd), visit["objects"], visit["sources"], visit["forced"], replace=replace)
    return time.perf_counter() - begin


def measure(server: EmbeddedPostgres, preset: str, visits: int) -> dict[str, Any]:
    """Return medians (ms) of stores, of replacements of the newest visit and of older ones, and their ratios to the store before."""
    client, patch = make_client("ours", server, f"replace_{preset.lower()}"), Patch(PRESETS[preset])
    client.store(at(61000.0), patch.start())
    kept, seconds, now = [], [], 62000.0
    for k in range(visits):
        visit, now = patch.visit(k), now + 1.0
        stored = _timed(client, visit, now, False)
        newest = _timed(client, _again(visit, 1), now + 0.3, True)
        older = _timed(client, _again(kept[k // 2], 2), now + 0.6, True) if kept else np.nan
        kept.append(visit)
        seconds.append((stored, newest, older))
    times = np.array(seconds[WARM:])
    ratios = np.median(times[:, 1:] / times[:, :1], axis=0)
    client.close()
    return {
        "preset": preset,
        "store_ms": round(1e3 * float(np.median(times[:, 0])), 1),
        "replace_newest_ms": round(1e3 * float(np.median(times[:, 1])), 1),
        "replace_older_ms": round(1e3 * float(np.median(times[:, 2])), 1),
        "newest_over_store": round(float(ratios[0]), 2),
        "older_over_store": round(float(ratios[1]), 2),
    }


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="A", choices=sorted(PRESETS))
    parser.add_argument("--visits", type=int, default=40)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="alertprod-replace-"))
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "postgres", settings=SETTINGS) as server:
        print(json.dumps(measure(server, given.preset, given.visits)))


if __name__ == "__main__":
    main()
