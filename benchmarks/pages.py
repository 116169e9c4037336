"""Times of the dashboard: ``python -m benchmarks.pages``; a database with many sources, the system's browser, one table."""

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from psycopg import Connection
from pydantic import SecretStr

from apdb.operate.embedded import EmbeddedPostgres
from migrations.run import migrate
from service.local.stack import Stack
from tasks.local_server import free_port
from tests.support.browser import browser, until

__all__ = ["main"]

OBJECT = 137_851_807_203_331
LONG = 100_000  # points of the long light curve
ROUNDS = 20
ON_THE_SKY = 10_000  # objects
VIEWERS, WATCHED_S = 200, 8.0  # of the stream of events
_SOURCES = """
INSERT INTO "DiaSource" ("diaSourceId", visit, detector, "diaObjectId", "midpointMjdTai", ra, dec, x, y, "psfNdata", "trailNdata",
 "dipoleNdata", "timeProcessedMjdTai", "bboxSize", "pixelId", band, "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr", snr)
SELECT %(first)s + n, 1000 + n / 5000, n %% 4, CASE WHEN %(one)s THEN %(object)s ELSE %(first)s + n %% 20000 END,
 61000.5 + n * 0.9 / %(count)s, 150 + n %% 1000 / 1e4, 2.2, n %% 4000, n %% 4000, 1, 0, 0, 61001, 1, 17592186044416 + n,
 substr('gri', 1 + n %% 3, 1), 1000 * sin(n), 100, 5000 + 1000 * sin(n), 100, 10 FROM generate_series(1, %(count)s) n
"""
_LEDGER = """
INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, "midpointMjdTai", band, counts, seconds,
 "finishedAt") SELECT 1000 + n / 4, n % 4, 'simcam', '{}', '', 'done', 1, 61000.5 + n * 0.9 / 800, 'r', '{"diaSources": 5000}',
 '{"open": 0.1, "template": 0.2, "difference": 2.0, "associate": 0.3}', now() FROM generate_series(0, 799) n
"""
_OBJECTS = """
INSERT INTO "{0}" ("diaObjectId", "validityStartMjdTai", ra, dec, "nDiaSources", "pixelId" {1}) VALUES (%s, 61001, 150.05, 2.2, 1,
 17592186044416 {2})
"""
_COUNTS = tuple(f"{b}_psfFluxNdata" for b in "ugrizy")


class Site(Stack):
    """PostgreSQL and the API alone."""

    def start_servers(self) -> dict[str, Any]:
        """Start PostgreSQL with our tables."""
        self.postgres = EmbeddedPostgres(self.scratch / "postgres", port=free_port())
        uri = self.postgres.start()
        migrate(uri)
        return {"database_uri": SecretStr(uri)}


def fill(connection: "Connection", sources: int) -> None:
    """Store sources, their visits, and one object with a long light curve."""
    from apdb.schema.partitions import ensure_months

    ensure_months(connection, 61000.5)
    for first, count, one in ((1, sources - LONG, False), (1 << 40, LONG, True)):
        connection.execute(_SOURCES, {"first": first, "count": count, "one": one, "object": OBJECT})
    connection.execute(_LEDGER)
    connection.execute(_OBJECTS.format("DiaObjectLast", "", ""), (OBJECT,))
    names = "".join(f', "{c}"' for c in _COUNTS)
    connection.execute(_OBJECTS.format("DiaObject", names, ", 1" * len(_COUNTS)), (OBJECT,))
    _fill_sky(connection)
    connection.execute("ANALYZE")


def _fill_sky(connection: "Connection") -> None:
    """Store objects within a square degree around the sources, on the pixels where they are looked for."""
    from apdb.sky.htm import htm_ids

    rng = np.random.default_rng(1)
    ra, dec = 150.05 + rng.uniform(-0.5, 0.5, ON_THE_SKY), 2.2 + rng.uniform(-0.5, 0.5, ON_THE_SKY)
    rows = zip(range(1, ON_THE_SKY + 1), ra.tolist(), dec.tolist(), htm_ids(ra, dec, 20).tolist(), strict=True)
    with connection.cursor() as cursor:
        cursor.executemany(
            'INSERT INTO "DiaObjectLast" ("diaObjectId", "validityStartMjdTai", ra, dec, "nDiaSources", "pixelId") VALUES '
            "(%s, 61001, %s, %s, 1, %s)",
            list(rows),
        )


def answers(url: str) -> list[tuple[str, float, float]]:
    """Return (what, median, 95th percentile) of answers, in ms."""
    rows = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for path in (
            "/",
            "/streams",
            "/search?q=150.05+2.2",
            "/visit/1000/0",
            "/trends",
            "/sky",
            "/scan",
            "/v1/sky/density?of=detections",
            f"/v1/objects/{OBJECT}",
            "/v1/objects?ra=150.05&dec=2.2",
        ):
            times = [_timed(lambda path=path: client.get(path).read()) for _ in range(ROUNDS)][1:]  # type: ignore[misc]
            rows.append((f"answer of {path}", statistics.median(times), float(np.percentile(times, 95))))
    return rows


def _timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - begin)


def paints(url: str, database: "Connection") -> list[tuple[str, float, float]]:
    """Return times in the browser, in ms: first paint cold and warm, a long light curve, a commit to the screen."""
    first = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
    rows = []
    with browser() as program, program.new_context(viewport={"width": 1600, "height": 1000}) as context:
        for name in ("cold", "warm"):
            times = []
            for _ in range(1 if name == "cold" else 9):
                page = context.new_page()
                page.goto(url)
                until(page, f"!Number.isNaN({first})")
                times.append(float(page.evaluate(first)))
                page.close()
            rows.append((f"first paint of the night, {name}", statistics.median(times), max(times)))
        page = context.new_page()
        page.goto(f"{url}/object/{OBJECT}")
        page.wait_for_selector("#curve[data-painted]", timeout=60_000)
        times = [float(page.get_attribute("#curve", "data-painted") or "nan")]
        for button in ("total", "difference") * 3:
            page.click(f"#curve-tools button:text-is('{button}')")
            times.append(float(page.get_attribute("#curve", "data-painted") or "nan"))
        rows.append((f"{LONG} points from memory to painted", statistics.median(times), max(times)))
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            page.goto(f"{url}/sky")
            page.wait_for_selector("#sky[data-drawn]")
            until(page, f"Number(document.getElementById('sky').dataset.points) >= {ON_THE_SKY}", every_ms=5)
            times.append(1e3 * (time.perf_counter() - begin))
        rows.append(
            (f"{ON_THE_SKY} objects on the sky, from the address to painted", statistics.median(times), max(times))
        )
        page.goto(url)
        until(page, "document.getElementById('live-state').textContent.startsWith('live')")
        times = []
        for number in range(5):
            time.sleep(2)  # longer than the page pauses between two renewals
            database.execute(_LEDGER.replace("1000 + n / 4", f"{90_000 + number}").replace("(0, 799)", "(800, 800)"))
            times.append(_timed(lambda number=number: page.wait_for_selector(f"a[href='/visit/{90_000 + number}/0']")))  # type: ignore[misc]
        rows.append(("commit to screen", statistics.median(times), max(times)))
    return rows


def viewers_cost(url: str, process: int, database: "Connection") -> tuple[float, float]:
    """Return the share of a core that the API takes without and with viewers of the stream, while a visit a second is committed."""
    address, shares = urlsplit(url), []
    number = 95_000
    for viewers in (0, VIEWERS):
        with ExitStack() as open_ones:
            for _ in range(viewers):
                one = open_ones.enter_context(socket.create_connection((address.hostname or "", address.port or 80)))
                one.sendall(f"GET /live HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            time.sleep(2)
            begin, used = time.perf_counter(), _used_s(process)
            while time.perf_counter() - begin < WATCHED_S:
                number += 1
                database.execute(_LEDGER.replace("1000 + n / 4", f"{number}").replace("(0, 799)", "(800, 800)"))
                time.sleep(1)
            shares.append((_used_s(process) - used) / (time.perf_counter() - begin))
    return shares[0], shares[1]


def _used_s(process: int) -> float:
    """Return the processor time of a process."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=1_000_000)
    sources = parser.parse_args().sources
    with Site(roles=("serve",)) as stack, stack.database.connect() as connection:
        connection.execute("SET statement_timeout = 0")
        fill(connection, sources)
        print(f"{sources} sources\n\n| what | median / ms | p95 or longest / ms |\n|---|---|---|")
        for measure in (answers, partial(paints, database=connection)):
            for what, median, most in measure(stack.url):
                print(f"| {what} | {median:.0f} | {most:.0f} |", flush=True)
        alone, watched = viewers_cost(stack.url, stack.processes["serve"].pid, connection)
        print(
            f"\n{VIEWERS} viewers of the stream of events, one commit a second: {100 * watched:.1f} % of a core, "
            f"{100 * alone:.1f} % without them"
        )


if __name__ == "__main__":
    main()
