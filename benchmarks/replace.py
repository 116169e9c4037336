"""What a replacement costs beside a store of the same rows: ``python -m benchmarks.replace [--preset A] [--visits 60]``.

Visits of one patch are stored one after the other; after the first ten, every second one is replaced at once by rows with the ids
of the next processing, and after each of the others one of the middle of what is stored is, each visit once. With ``--often``
each visit is replaced at once and one of the middle too, so that two thirds of what is stored was withdrawn. Ratios of pairs (with
the store just before) of time on the clock and of CPU time, client and server together: this holds on a machine that does other
things as well. Medians and quartiles.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from apdb.operate.embedded import EmbeddedPostgres
from benchmarks.apdb import SETTINGS, at, make_client
from benchmarks.apdb_workload import PRESETS, Patch

__all__ = ["main"]

WARM = 10
_NEXT_IDS = 500_000
_BACKENDS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND "
    "pid <> pg_backend_pid()"
)


def _again(visit: dict[str, Any], release: int) -> dict[str, Any]:
    """Return a visit with the ids and fluxes of another processing."""
    frames = {}
    for kind, name in (("sources", "diaSourceId"), ("forced", "diaForcedSourceId")):
        rows = visit[kind]
        factor = np.random.default_rng([visit["visit"], release]).normal(1.0, 1e-3, len(rows)).astype(np.float32)
        frames[kind] = rows.assign(**{name: rows[name] + release * _NEXT_IDS // 10, "psfFlux": rows.psfFlux * factor})
    return visit | frames


def _cpu_of(processes: list[int]) -> float:
    """Return the seconds that processes have run, to the nanosecond."""
    return sum(int(Path(f"/proc/{p}/schedstat").read_text().split()[0]) for p in processes) * 1e-9


def _timed(client: Any, backends: list[int], visit: dict[str, Any], mjd: float, replace: bool) -> tuple[float, float]:
    """Return seconds on the clock and of CPU that a store takes."""
    begin, before = time.perf_counter(), _cpu_of(backends) + time.process_time()
    client.store(at(mjd), visit["objects"], visit["sources"], visit["forced"], replace=replace)
    return time.perf_counter() - begin, _cpu_of(backends) + time.process_time() - before


def _to_replace(
    k: int, visit: dict[str, Any], kept: list[dict[str, Any]], often: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return what is replaced after the k-th store, and keep in mind what may be replaced later."""
    if often:
        todo = [("newest", visit), *(("older", v) for v in kept[k // 2 : k // 2 + 1])]
        kept.append(visit)
        return todo
    if k >= WARM and k % 2:
        return [("newest", visit)]
    todo = [("older", kept.pop(len(kept) // 2))] if k >= WARM else []
    kept.append(visit)
    return todo


def measure(server: EmbeddedPostgres, preset: str, visits: int, often: bool) -> dict[str, Any]:
    """Return medians (ms) of stores and of replacements of newest and older visits, and their ratios to the store before."""
    client, patch = make_client("ours", server, f"replace_{preset.lower()}"), Patch(PRESETS[preset])
    client.store(at(61000.0), patch.start())
    kept: list[dict[str, Any]] = []
    times: dict[str, list[tuple[float, float]]] = {"store": [], "newest": [], "older": []}
    ratios: dict[str, list[tuple[float, float]]] = {"newest": [], "older": []}
    now = 62000.0
    with psycopg.connect(server.uri, autocommit=True) as watcher:
        for k in range(visits):
            visit, now = patch.visit(k), now + 1.0
            backends = [p for (p,) in watcher.execute(_BACKENDS)]
            stored = _timed(client, backends, visit, now, False)
            todo = _to_replace(k, visit, kept, often)
            for n, (what, old) in enumerate(todo):
                one = _timed(client, backends, _again(old, 1 + n), now + 0.3 * (n + 1), True)
                if k >= WARM:
                    times[what].append(one)
                    ratios[what].append((one[0] / stored[0], one[1] / stored[1]))
            if k >= WARM:
                times["store"].append(stored)
    client.close()
    out: dict[str, Any] = {"preset": preset, "often": often}
    for what, pairs in times.items():
        clock, cpu = 1e3 * np.median(pairs, axis=0)
        out[what] = {"ms": round(float(clock), 1), "cpu_ms": round(float(cpu), 1)}
    for what, pairs in ratios.items():
        low, middle, high = np.quantile(pairs, (0.25, 0.5, 0.75), axis=0)
        for j, name in enumerate(("clock", "cpu")):
            out[what][f"{name}_over_store"] = [round(float(q[j]), 2) for q in (low, middle, high)]
    return out


def main() -> None:
    """Run and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="A", choices=sorted(PRESETS))
    parser.add_argument("--visits", type=int, default=60)
    parser.add_argument("--often", action="store_true")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="alertprod-replace-"))
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "postgres", settings=SETTINGS) as server:
        print(json.dumps(measure(server, given.preset, given.visits, given.often)))


if __name__ == "__main__":
    main()
