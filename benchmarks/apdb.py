"""The APDB client against ``lsst-dax-apdb`` on one PostgreSQL: ``python -m benchmarks.apdb compare|growth|clients``.

Every client runs the same visits through the published interface: contains, objects of the region, full history
(12 months of everything in it), lazy history (of the detected objects only), store. Sums of fluxes over what was read
must agree. Times are medians; ``last`` is the last quarter of the visits.
"""

import argparse
import json
import multiprocessing
import os
import pickle
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from astropy.time import Time

from apdb import PostgresApdb
from apdb.operate.embedded import EmbeddedPostgres
from benchmarks.apdb_workload import DETECTOR, PRESETS, Patch, Preset

SETTINGS = {
    "shared_buffers": "2GB",
    "work_mem": "64MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "random_page_cost": "1.1",
}


def at(mjd: float) -> Time:
    """Return an astropy time."""
    return Time(mjd, format="mjd", scale="tai")


def make_client(name: str, server: EmbeddedPostgres, namespace: str) -> Any:
    """Return a client on new tables."""
    if name == "ours":
        return PostgresApdb(PostgresApdb.init_database(server.uri, namespace=namespace, drop=True))
    from lsst.dax.apdb.sql import ApdbSql

    url = server.uri.replace("postgresql://", "postgresql+psycopg2://")
    return ApdbSql(ApdbSql.init_database(url, namespace=namespace, dia_object_index="last_object_table"))


def run(client: Any, preset: Preset, every: int, budget_s: float, warm: int = 0) -> dict[str, Any]:
    """Run the visits; returns seconds by phase and visit, and check sums of what was read."""
    patch = Patch(preset)
    begin = time.perf_counter()
    client.store(at(61000.0), patch.start())
    seconds: list[dict[str, float]] = []
    checks: dict[int, list[float]] = {}
    out: dict[str, Any] = {"seed_s": time.perf_counter() - begin}
    for k in range(preset.visits):
        visit, step = patch.visit(k), {"visit": float(k)}
        when, region = at(visit["mjd"]), patch.region
        begin = time.perf_counter()
        assert not client.containsVisitDetector(visit["visit"], DETECTOR)
        step["contains"] = time.perf_counter() - begin
        if k % every == every - 1 or k == preset.visits - 1:
            begin = time.perf_counter()
            objects = client.getDiaObjects(region)
            step["objects"] = time.perf_counter() - begin
            ids = objects["diaObjectId"].to_numpy(np.int64)
            full = _timed(step, "full", client, region, ids, when)
            lazy = _timed(step, "lazy", client, region, np.intersect1d(visit["detected"], ids), when)
            step["full"] += step["objects"]
            step["lazy"] += step["objects"]
            checks[k] = [float(f["psfFlux"].astype(float).sum()) for f in (*full, *lazy)]
            out["rows"] = [len(objects), *(len(f) for f in (*full, *lazy))]
        begin = time.perf_counter()
        client.store(when, visit["objects"], visit["sources"], visit["forced"])
        step["store"] = time.perf_counter() - begin
        if "lazy" in step:
            step["lazy_store"] = step["contains"] + step["lazy"] + step["store"]
        seconds.append(step)
        if sum(sum(v for n, v in s.items() if n != "visit") for s in seconds) > budget_s:
            break
    out |= {
        "visits": len(seconds),
        "checks": checks,
        "all": medians(seconds),
        "last": medians(seconds[-(len(seconds) // 4 or 1) :]),
    }
    return out


def _timed(step: dict[str, float], name: str, client: Any, region: Any, ids: Any, when: Time) -> list[Any]:
    begin = time.perf_counter()
    frames = [client.getDiaSources(region, ids, when), client.getDiaForcedSources(region, ids, when)]
    step[name] = time.perf_counter() - begin
    return frames


def medians(seconds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each phase in ms."""
    names = sorted({n for s in seconds for n in s} - {"visit"})
    return {n: round(1e3 * float(np.median([s[n] for s in seconds if n in s])), 1) for n in names}


def sizes(server: EmbeddedPostgres, namespace: str, how: str) -> dict[str, float]:
    """Return bytes per row with indices, partitions summed, after a VACUUM of some kind.

    A client that is slow gives autovacuum time to reuse what its updates have left: VACUUM FULL makes them equal.
    """
    with psycopg.connect(server.uri, autocommit=True) as connection:
        out = {}
        for table in ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource"):
            name = f'"{namespace}"."{table}"'
            connection.execute(f"{how} {name}")
            row = connection.execute(
                "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree(%s::regclass) WHERE isleaf", (name,)
            ).fetchone()
            total = row[0] if row and row[0] else _one(connection, "SELECT pg_total_relation_size(%s::regclass)", name)
            out[table] = round(float(total) / max(_one(connection, f"SELECT count(*) FROM {name}"), 1), 1)
        return out


def _one(connection: psycopg.Connection[Any], query: str, *values: Any) -> int:
    row = connection.execute(query, values or None).fetchone()
    assert row is not None
    return int(row[0])


def compare(server: EmbeddedPostgres, preset: str, clients: list[str], every: int, budget_s: float) -> dict[str, Any]:
    """Run both clients on the same visits."""
    results: dict[str, Any] = {}
    for name in clients:
        namespace = f"{name}_{preset.lower()}"
        client = make_client(name, server, namespace)
        if name == "ours":  # the compiled decoder is loaded outside of the times, as in a worker that has run before
            client.getDiaObjects(Patch(PRESETS["tiny"]).region)
        results[name] = run(client, PRESETS[preset], every, budget_s)
        results[name]["bytes_per_row"] = sizes(server, namespace, "VACUUM")
        results[name]["bytes_per_row_compact"] = sizes(server, namespace, "VACUUM FULL")
    if len(results) == 2:
        a, b = (results[n]["checks"] for n in clients)
        both = a.keys() & b.keys()
        results["same_rows"] = bool(both) and all(np.allclose(a[k], b[k], rtol=1e-3, atol=0.05) for k in both)
        results["compared_reads"] = len(both)
    for name in clients:
        del results[name]["checks"]
    return results


def growth(server: EmbeddedPostgres, sizes_of_sky: list[int]) -> list[dict[str, Any]]:
    """Time reads and stores on a patch with skies of several sizes around it, in turns: the machine changes more than they do."""
    seconds_by_size: dict[int, dict[str, list[float]]] = {size: {"objects": [], "store": []} for size in sizes_of_sky}
    surveys = [(size, *_survey(server, size)) for size in sizes_of_sky]
    for k in range(70):
        for size, client, patch in surveys[:: 1 - 2 * (k % 2)]:
            visit = patch.visit(k)
            begin = time.perf_counter()
            client.getDiaObjects(patch.region)
            read = time.perf_counter()
            client.store(at(visit["mjd"]), visit["objects"], visit["sources"], visit["forced"])
            seconds_by_size[size]["objects"].append(read - begin)
            seconds_by_size[size]["store"].append(time.perf_counter() - read)
    out: list[dict[str, Any]] = []
    for size, seconds in seconds_by_size.items():
        line: dict[str, Any] = {"sky": size}
        for name, times in seconds.items():  # the first visits fill the caches
            over = np.array(times[15:]) / np.array(seconds_by_size[sizes_of_sky[0]][name][15:])
            line[f"{name}_ms"] = round(1e3 * float(np.median(times[15:])), 1)
            line[f"{name}_over_first"] = round(float(np.median(over)), 3)
        out.append(line)
    return out


def _survey(server: EmbeddedPostgres, size: int) -> tuple[Any, Patch]:
    """Return a client whose sky holds `size` objects, and a patch elsewhere with its own."""
    namespace = f"sky{size}"
    client, rng = make_client("ours", server, namespace), np.random.default_rng(9)
    for done in range(0, size, 50_000):
        sky = Patch(Preset(1, 1, 1, min(50_000, size - done)), seed=done + 1, first_id=10**15 + done)
        sky.ra, sky.dec = rng.uniform(100, 300, len(sky.ra)), np.degrees(np.arcsin(rng.uniform(-1, 1, len(sky.ra))))
        client.store(at(61000.0), sky.start())
        print(json.dumps({"sky": size, "made": done + 50_000}), flush=True)
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute(f"SET search_path = {namespace}")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    patch = Patch(Preset(400, 500, 2000, 10_000))
    client.store(at(61000.0), patch.start())
    return client, patch


def _drain(uri: str, namespace: str, work: Any, ready: Any, answers: Any) -> None:
    """One client process: store visits until there are none."""
    from lsst.dax.apdb.sql import ApdbSqlConfig

    client = PostgresApdb(ApdbSqlConfig(db_url=uri, namespace=namespace))
    # a worker that has run before: compiled code and the server's caches are loaded before the clock runs
    own = Patch(PRESETS["tiny"], ra=200.0, first_id=10**14 + os.getpid() * 10**6)
    client.store(at(61000.0), own.start())
    first, mark = own.visit(0), 10**6 * os.getpid()
    for name, key in (("sources", "diaSourceId"), ("forced", "diaForcedSourceId")):
        first[name] = first[name].assign(visit=mark, **{key: 10**15 + mark + np.arange(len(first[name]))})
    client.store(at(first["mjd"]), first["objects"], first["sources"], first["forced"])
    client.getDiaObjects(own.region)
    ready.wait()
    failures = []
    while (path := work.get()) is not None:
        visit = pickle.loads(Path(path).read_bytes())
        try:
            client.store(at(visit["mjd"]), visit["objects"], visit["sources"], visit["forced"])
        except Exception as error:
            failures.append(repr(error))
    answers.put(failures)
    client.close()


def clients(server: EmbeddedPostgres, numbers: list[int], visits: int = 160) -> list[dict[str, Any]]:
    """Store the same overlapping visits with different numbers of concurrent client processes, in turns."""
    out: list[dict[str, Any]] = []
    spawn = multiprocessing.get_context("spawn")
    folder = Path(tempfile.mkdtemp(prefix="alertprod-visits-"))
    for count in numbers:
        namespace = f"clients{len(out)}"
        client = make_client("ours", server, namespace)
        patch = Patch(Preset(visits, 300, 1000, 5000))
        client.store(at(61000.0), patch.start())
        work, answers, ready = spawn.Queue(), spawn.Queue(), spawn.Barrier(count + 1)
        for k in range(visits):
            path = folder / f"{k}.pickle"
            path.write_bytes(pickle.dumps(patch.visit(k)))
            work.put(str(path))
        for _ in range(count):
            work.put(None)
        processes = [
            spawn.Process(target=_drain, args=(server.uri, namespace, work, ready, answers)) for _ in range(count)
        ]
        for process in processes:
            process.start()
        ready.wait()
        begin = time.perf_counter()
        failures = [f for _ in processes for f in answers.get()]
        wall = time.perf_counter() - begin
        for process in processes:
            process.join()
        objects = client.getDiaObjects(patch.region)
        out.append(
            {
                "clients": count,
                "visits_per_s": round(visits / wall, 2),
                "failures": failures,
                "rows": client.tableRowCount(),
                "duplicate_objects": int(objects.diaObjectId.duplicated().sum()),
            }
        )
        print(json.dumps(out[-1]), flush=True)
        client.close()
    return out


def main() -> None:
    """Run one benchmark and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["compare", "growth", "clients"])
    parser.add_argument("--preset", default="A", choices=list(PRESETS))
    parser.add_argument("--clients", default="ours,reference")
    parser.add_argument("--every", type=int, default=10, help="time the reads on each N-th visit")
    parser.add_argument("--budget", type=float, default=1200.0, help="seconds for one client")
    parser.add_argument("--rounds", type=int, default=3, help="how often the numbers of clients take turns")
    parser.add_argument("--sky", default="100000,1000000,5000000")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(tempfile.mkdtemp(prefix="alertprod-bench-"))
    folder.chmod(0o755)
    with EmbeddedPostgres(folder / "postgres", settings=SETTINGS) as server:
        if arguments.what == "compare":
            results: Any = compare(
                server, arguments.preset, arguments.clients.split(","), arguments.every, arguments.budget
            )
        elif arguments.what == "growth":
            results = growth(server, [int(x) for x in arguments.sky.split(",")])
        else:
            runs = clients(server, [2, 16] * arguments.rounds)
            speeds = {n: [r["visits_per_s"] for r in runs if r["clients"] == n] for n in (2, 16)}
            results = {f"visits_per_s_{n}": float(np.median(v)) for n, v in speeds.items()}
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
