"""A burst of visits: each is accepted or told to come again, what was accepted is there, and states are answered meanwhile."""

import asyncio
import json
import os
import time
from collections import Counter

import httpx
import numpy as np
import pytest

from apdb import Ledger
from tests.support.shared_stack import SharedStack

VISITS = int(os.environ.get("ALERTPROD_BURST", "300"))
QUICK_S = float(
    os.environ.get("ALERTPROD_BURST_READ_S", "1.0")
)  # 99 of 100 states; 0.1 on a machine that has nothing else to do
# a worker takes the visits meanwhile, in the long form: their image is not there, so that its cost is all of queue and states
ROLES = ("serve", "worker") if "ALERTPROD_BURST" in os.environ else ("serve",)
AT_ONCE = 200
GROWTH_MB = 100.0


def memory_mb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


class Connection:
    """HTTP/1.1 over one connection that stays open: a client that costs next to nothing."""

    def __init__(self, port):
        self._port, self._reader, self._writer = port, None, None

    async def ask(self, method, path, body=b""):
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        await self._reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1]), headers

    def close(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def burst(port, folder, answers, seconds):
    """Post all visits as fast as they are taken, ask for states meanwhile."""
    left = list(range(VISITS))

    async def post():
        connection = Connection(port)
        while left:
            visit = left.pop()
            body = {"instrument": "simcam", "science": str(folder / "x.fits"), "visit": visit, "detector": 1}
            status, headers = await connection.ask("POST", "/v1/visits", json.dumps(body).encode())
            answers[status] += 1
            if status in (429, 503):
                assert int(headers["retry-after"]) > 0
                assert headers["content-type"] == "application/problem+json"
                left.append(visit)
                await asyncio.sleep(1.0)  # less patient than it is told to be
        connection.close()

    async def look(ended):
        connection = Connection(port)
        while not ended.is_set():
            begun = time.perf_counter()
            assert (await connection.ask("GET", "/v1/visits/0/1"))[0] in (200, 404)
            seconds.append(time.perf_counter() - begun)
            await asyncio.sleep(0.02)
        connection.close()

    ended = asyncio.Event()
    looking = asyncio.create_task(look(ended))
    await asyncio.gather(*(post() for _ in range(AT_ONCE)))
    ended.set()
    await looking


@pytest.mark.timeout(900)
def test_a_burst_is_taken_or_told_to_come_again_and_states_are_answered_meanwhile(
    postgres, database, tmp_path, record_property
):
    settings = {
        "database_uri": database.uri,
        "data_roots": [tmp_path],
        "rate_limit": 0,
        "max_submits": 16,
        "workers": 1,
    }
    answers, seconds = Counter(), []
    with SharedStack(settings, roles=ROLES) as stack:
        httpx.post(f"{stack.url}/v1/visits", json={})  # what is loaded by the first message is
        before, begun = memory_mb(stack.processes["serve"].pid), time.monotonic()
        asyncio.run(burst(stack.settings.port, tmp_path, answers, seconds))
        took = time.monotonic() - begun
        grown = memory_mb(stack.processes["serve"].pid) - before
    assert set(answers) <= {202, 429, 503}
    assert answers[202] == VISITS
    assert {r["visit"] for r in Ledger(database).rows(limit=100_000)} == set(range(VISITS))
    with database.session() as connection:
        acts = connection.execute('SELECT count(*) FROM "AccessAudit" WHERE status = 202').fetchone()
    assert acts == (VISITS,)
    p99 = float(np.quantile(seconds, 0.99))
    figures = {
        "visits": VISITS,
        "told to come again": answers[503] + answers[429],
        "visits a second": round(VISITS / took),
        "states": len(seconds),
        "states, 99 of 100": f"{1000 * p99:.0f} ms",
        "memory": f"{grown:+.0f} MB",
        "roles": " ".join(ROLES),
    }
    for name, figure in figures.items():
        record_property(name, figure)
    print(figures)
    assert p99 < QUICK_S
    assert grown < GROWTH_MB
