"""The whole service under full load for a long time: memory and connections stay flat. ``make soak``."""

import os
import time
from contextlib import suppress

import httpx
import numpy as np
import psutil
import pytest
from scipy import stats

from tasks.waiting import wait_until
from tests.support.ingest import send
from tests.support.shared_stack import SharedStack
from tests.support.survey import messages, science, survey_settings

SOAK_S = float(os.environ.get("ALERTPROD_SOAK_S", "0"))
PAUSE_S = 0.2  # at most, between two reads of states
LOOK_S, BLOCKS, QUEUE, ROUND, LEAST = 5.0, 10, 6, 40, 20
MOST_MB_MIN = 1.0
TABLES = ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource")


def memory_mb(process):
    """Memory of a process and of all that it started, in MB; what several of them share counts once.

    Pages of files are left out: a library's are shared with whoever else has it loaded, and the share changes with strangers.
    """
    total, found = 0, psutil.Process(process.pid)
    for one in [found, *found.children(recursive=True)]:
        with suppress(ProcessLookupError, FileNotFoundError), open(f"/proc/{one.pid}/smaps_rollup") as rollup:
            sizes = dict(line.split(":", 1) for line in rollup if line.startswith(("Pss_Anon:", "SwapPss:")))
            total += sum(int(size.split()[0]) for size in sizes.values())
    return total * 1024 / 1e6


def slope_of(minutes, values):
    """Return slope and the upper end of its 95 % interval, from means of blocks (neighbours are not independent)."""
    x = np.array([b.mean() for b in np.array_split(np.asarray(minutes), BLOCKS)])
    y = np.array([b.mean() for b in np.array_split(np.asarray(values), BLOCKS)])
    fit = stats.linregress(x, y)
    return fit.slope, fit.slope + stats.t.ppf(0.95, BLOCKS - 2) * fit.stderr


class Load:
    """Keeps the queue filled: by turns over HTTP and over Kafka, the same images as ever new visits."""

    def __init__(self, stack, survey):
        self._stack, self._frames = stack, messages(science(survey))
        self.sent = 0

    def has_room(self):
        """Whether a visit is to be sent now; the next round begins when the one before has ended."""
        ended = self.ended()
        return self.sent - ended < QUEUE and (self.sent % ROUND != 0 or self.sent == ended)

    def fill(self, client):
        while self.has_room():
            if self.sent % ROUND == 0:
                self._forget_the_sky()
            frame = self._frames[self.sent % len(self._frames)]
            body = {**frame, "visit": frame["visit"] + 1000 * (1 + self.sent // len(self._frames))}
            if self.sent % 2:
                assert client.post("/v1/visits", json=body).status_code == 202
            else:
                send(self._stack.settings, body)
            self.sent += 1

    def ended(self):
        """Visits that are over."""
        with self._stack.database.session() as connection:
            query = "SELECT count(*) FROM \"VisitLedger\" WHERE state IN ('done', 'failed', 'no_work')"
            return connection.execute(query).fetchone()[0]

    def _forget_the_sky(self):
        """A sky that is seen a thousand times has histories that grow: begin anew, as the archive of a survey does."""
        with self._stack.database.session() as connection:
            connection.execute("TRUNCATE " + ", ".join(f'"{t}"' for t in TABLES))


@pytest.mark.skipif(SOAK_S == 0, reason="'make soak'")
@pytest.mark.timeout(SOAK_S + 600)
def test_memory_and_connections_stay_flat(survey, database, kafka, record_property):
    roles = ("serve", "worker", "relay", "ingest")
    servers = {"database_uri": database.uri, "kafka_brokers": kafka.brokers, "order_wait_s": 0.0}
    times, memory, connections, latency, over = [], {role: [] for role in roles}, [], [], []
    with SharedStack(survey_settings(survey, **servers), roles=roles) as stack:
        load, begun = Load(stack, survey), time.monotonic()
        with httpx.Client(base_url=stack.url, timeout=30) as client:
            while (now := time.monotonic() - begun) < SOAK_S:
                load.fill(client)
                stack.require_alive()
                asked = time.perf_counter()
                assert client.get("/v1/visits", params={"limit": 10, "order": "newest"}).status_code == 200
                latency.append(time.perf_counter() - asked)
                if not times or now / 60 - times[-1] >= LOOK_S / 60:
                    times.append(now / 60)
                    over.append(load.ended())
                    for role in roles:
                        memory[role].append(memory_mb(stack.processes[role]))
                    with database.session() as connection:
                        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                        connections.append(connection.execute(query).fetchone()[0])
                wait_until(load.has_room, PAUSE_S)
        with database.session() as connection:
            states = dict(connection.execute('SELECT state, count(*) FROM "VisitLedger" GROUP BY state').fetchall())
    # code, templates and tables are loaded by then: a quarter of the time, and each image was there several times
    warm = max(len(times) // 4, int(np.searchsorted(over, ROUND)))
    assert over[-1] - over[min(warm, len(over) - 1)] >= LEAST, f"{over[-1]} visits are too few to tell: take longer"
    slopes = {role: slope_of(times[warm:], memory[role][warm:]) for role in roles}
    half = (len(times) + warm) // 2
    record_property("visits", states.get("done", 0))
    for role, (slope, upper) in slopes.items():
        record_property(f"{role}, MB/min", f"{slope:+.2f} (95 %: {upper:+.2f}; {memory[role][-1]:.0f} MB)")
    record_property("connections", f"{max(connections[warm:half])}, then {max(connections[half:])}")
    record_property("reads, 99 of 100", f"{1000 * np.quantile(latency, 0.99):.0f} ms")
    print({role: f"{s:+.2f} < {u:+.2f}" for role, (s, u) in slopes.items()}, states, connections[warm], connections[-1])
    assert set(states) <= {"done", "queued", "running"}, states
    assert max(connections[half:]) <= max(connections[warm:half]) + 1
    assert all(upper < MOST_MB_MIN for _, upper in slopes.values()), slopes
