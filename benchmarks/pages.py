"""Times of the dashboard: ``python -m benchmarks.pages``; a database with many sources, the system's browser, one table."""

import argparse
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
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
USUAL = 1000  # an object with as many points as others
ROUNDS = 20
PAINTS, COMMITS = 11, 12
WINDOW = {"width": 1600, "height": 1000}
ON_THE_SKY = 10_000  # objects
VIEWERS, WATCHED_S = 200, 8.0  # of the stream of events
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
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
    for number in (OBJECT, USUAL):
        connection.execute(_OBJECTS.format("DiaObject", names, ", 1" * len(_COUNTS)), (number,))
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


ANSWERS = {
    "night": "/", "streams": "/streams", "search by coordinates": "/search?q=150.05+2.2",
    "visit with 1250 sources (images follow)": "/visit/1000/0", "trends": "/trends", "sky, counted within the last 10 s": "/sky",
    "scanning": "/scan", "density of detections": "/v1/sky/density?of=detections", "`/v1/objects/ID`": f"/v1/objects/{OBJECT}",
    "`/v1/objects` around a place": "/v1/objects?ra=150.05&dec=2.2",
}  # fmt: skip


def answers(url: str, process: int, database: "Connection") -> list[tuple[str, float, float, float]]:
    """Return (what, median, 95th percentile, processor time of the API) of answers, in ms; of the night made anew each time too."""
    with httpx.Client(base_url=url, timeout=60) as client:
        rows = [_asked(client, what, path, process, lambda: None) for what, path in ANSWERS.items()]
        number = iter(range(80_000, 90_000))
        again = _asked(client, "night, after each commit", "/", process, lambda: _commit(database, next(number)))
    return [again, *rows]


def _asked(
    client: httpx.Client, what: str, path: str, process: int, before: Callable[[], None]
) -> tuple[str, float, float, float]:
    client.get(path).raise_for_status()
    times, used = [], _used_s(process)
    for _ in range(ROUNDS):
        before()
        times.append(_timed(lambda: client.get(path).read()))
    spent = 1e3 * (_used_s(process) - used) / ROUNDS
    return what, statistics.median(times), float(np.percentile(times, 95)), spent


def _commit(database: "Connection", visit: int) -> None:
    database.execute(_LEDGER.replace("1000 + n / 4", str(visit)).replace("(0, 799)", "(800, 800)"))


def _timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - begin)


WARM = {  # pages that a link leads to, in turns: what is slow for a while is slow for all
    "night": "/", "visit with 1250 sources": "/visit/1000/0", "object with 45 points": f"/object/{USUAL}", "why": "/why",
    "streams": "/streams", "sky": "/sky", "trends": "/trends", "solar system": "/solar", "scanning": "/scan",
    "database": "/database", "search by coordinates": "/search?q=150.05+2.2", "keys": "/keys",
    "object with 100 000 points": f"/object/{OBJECT}", "a line of text without any style": "/assets/none",
}  # fmt: skip
_DRAWN = {"/object/": "#curve[data-painted]", "/sky": "#sky[data-drawn]"}  # what a script draws after the page is there
_LINK = """
path => {
  const link = document.createElement("a");
  link.id = "link-to-page";
  link.href = path;
  link.textContent = "link";
  link.style = "position: fixed; left: 0; top: 0; z-index: 99";
  document.body.append(link);
  document.addEventListener("click", (e) => { sessionStorage.setItem("clicked", performance.timeOrigin + e.timeStamp); }, true);
}
"""
_TIMES = """
() => {
  const begin = performance.timeOrigin, painted = performance.getEntriesByName("first-contentful-paint")[0].startTime;
  const { responseEnd } = performance.getEntriesByType("navigation")[0], largest = new PerformanceObserver(() => {});
  largest.observe({ type: "largest-contentful-paint", buffered: true });
  const shown = [...largest.takeRecords(), ...performance.getEntriesByName("shown")].map((e) => e.startTime);
  return [begin + painted - Number(sessionStorage.getItem("clicked")), painted, responseEnd, Math.max(painted, ...shown)];
}
"""


def paints(url: str, database: "Connection") -> list[tuple[str, float, float]]:
    """Return (what, median, longest) in the browser, in ms."""
    with browser() as program:
        rows = [_cold(program, url)]
        with program.new_context(viewport=WINDOW) as context:
            page = context.new_page()
            return [*rows, _long_curve(page, url), _sky(page, url), _commits(page, url, database)]


def _cold(program: Any, url: str) -> tuple[str, float, float]:
    """Open the night in windows of their own, each with nothing kept."""
    times = []
    for _ in range(PAINTS):
        with program.new_context(viewport=WINDOW) as context:
            page = context.new_page()
            page.goto(url)
            until(page, f"!Number.isNaN({_PAINTED})", every_ms=5)
            times.append(float(page.evaluate(_PAINTED)))
    return "first paint of the night, cold", statistics.median(times), max(times)


def warm_paints(url: str, database: "Connection") -> list[tuple[str, list[float]]]:
    """Return times in ms of pages that are opened by a link in a window that has shown them before.

    From the moment of the click, as its event says it, to the first contentful paint: median, longest; from the begin of the
    navigation to that paint, to the end of the answer, and to the moment when all of the window is painted, of which a script may draw a
    part: medians.
    """
    commits = iter(range(85_000, 86_000))
    asked = [("night, a visit committed since", "/"), *WARM.items()]
    times: dict[str, list[list[float]]] = {what: [] for what, _ in asked}
    with browser() as program, program.new_context(viewport=WINDOW) as context:
        page = context.new_page()
        for round_ in range(PAINTS + 1):
            for what, path in asked:
                if "committed" in what:
                    _commit(database, next(commits))
                found = _by_link(page, url, path)
                if round_:
                    times[what].append(found)
    return [(what, _figures(np.array(rows))) for what, rows in times.items()]


def _by_link(page: Any, url: str, path: str) -> list[float]:
    """Open a page by a click on a link of another one that is on the screen, and does nothing any more."""
    page.goto(f"{url}/sign-in")
    until(page, "document.documentElement.classList.contains('loaded')")
    page.wait_for_timeout(300)
    page.evaluate(_LINK, path)
    with page.expect_navigation(url=f"{url}{path}", wait_until="commit"):
        page.click("#link-to-page", no_wait_after=True)
    until(page, f"!Number.isNaN({_PAINTED})", every_ms=20)
    if not path.startswith("/assets/"):
        until(page, "performance.getEntriesByName('shown').length > 0", every_ms=20)
    drawn = next((box for name, box in _DRAWN.items() if path.startswith(name)), None)
    if drawn is not None:  # what it shows is still asked for: the next page would wait for it
        page.wait_for_selector(drawn)
    out: list[float] = page.evaluate(_TIMES)
    return out


def _figures(times: np.ndarray[Any, Any]) -> list[float]:
    middle = np.median(times, axis=0)
    return [float(middle[0]), float(times[:, 0].max()), *(float(x) for x in middle[1:])]


def _long_curve(page: Any, url: str) -> tuple[str, float, float]:
    page.goto(f"{url}/object/{OBJECT}")
    page.wait_for_selector("#curve[data-painted]", timeout=60_000)
    times = [float(page.get_attribute("#curve", "data-painted") or "nan")]
    for button in ("total", "difference") * 3:
        page.click(f"#curve-tools button:text-is('{button}')")
        times.append(float(page.get_attribute("#curve", "data-painted") or "nan"))
    what = f"{LONG // 1000} 000 points of a light curve from memory to painted, 1600 px"
    return what, statistics.median(times), max(times)


def _sky(page: Any, url: str) -> tuple[str, float, float]:
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        page.goto(f"{url}/sky")
        page.wait_for_selector("#sky[data-drawn]")
        until(page, f"Number(document.getElementById('sky').dataset.points) >= {ON_THE_SKY}", every_ms=5)
        times.append(1e3 * (time.perf_counter() - begin))
    what = f"{ON_THE_SKY // 1000} 000 objects on the sky, from the address to painted"
    return what, statistics.median(times), max(times)


def _commits(page: Any, url: str, database: "Connection") -> tuple[str, float, float]:
    """Commit visits at moments that are no multiple of what the page waits, one soon after the other."""
    page.goto(url)
    until(page, "document.getElementById('live-state').textContent.startsWith('live')")
    times = []
    for number in range(90_000, 90_000 + COMMITS):
        time.sleep(0.9 + 0.037 * (number % 10))
        begin = time.perf_counter()
        _commit(database, number)
        page.wait_for_selector(f"a[href='/visit/{number}/0']", state="attached")
        times.append(1e3 * (time.perf_counter() - begin))
    return "a commit on the screen", statistics.median(times), max(times)


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
                _commit(database, number)
                time.sleep(1)
            shares.append((_used_s(process) - used) / (time.perf_counter() - begin))
    return shares[0], shares[1]


def _used_s(process: int) -> float:
    """Return the processor time of a process."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sources", type=int, default=1_000_000)
    sources = parser.parse_args().sources
    begin, load = time.monotonic(), os.getloadavg()[0]
    with Site(roles=("serve",)) as stack, stack.database.connect() as connection:
        connection.execute("SET statement_timeout = 0")
        fill(connection, sources)
        print(f"filled after {time.monotonic() - begin:.0f} s", file=sys.stderr)
        process = stack.processes["serve"].pid
        print(f"{sources:.0e} DiaSources; load of the machine before: {load:.1f}\n".replace("+0", ""))
        print("| answer | median / ms | p95 / ms | processor / ms |\n|---|---|---|---|")
        for what, median, most, spent in answers(stack.url, process, connection):
            print(f"| {what} | {median:.0f} | {most:.0f} | {spent:.0f} |", flush=True)
        print("\n| in the browser | median / ms | longest / ms |\n|---|---|---|")
        for what, median, most in paints(stack.url, connection):
            print(f"| {what} | {median:.0f} | {most:.0f} |", flush=True)
        print(
            "\n| opened by a link, warm | from the click / ms | longest | from the begin of the navigation | of it the answer | "
            "all of the window |"
        )
        print("|---|---|---|---|---|---|")
        for what, figures in warm_paints(stack.url, connection):
            print(f"| {what} | {' | '.join(f'{x:.0f}' for x in figures)} |", flush=True)
        alone, watched = viewers_cost(stack.url, process, connection)
        print(
            f"\n{VIEWERS} viewers of the stream of events, one commit a second: the API takes {100 * watched:.1f} % of a core, "
            f"{100 * alone:.1f} % without them."
        )
    print(f"the whole: {time.monotonic() - begin:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
