"""Places on the sky: who excludes whom, who comes next, and what sixteen writers on one patch leave."""

import threading
import time

import numpy as np
import psycopg
import pytest
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d

from apdb import Database, transactions
from apdb.errors import DatabaseUnavailable
from apdb.sky import locks
from apdb.sky.htm import htm_ids
from apdb.sky.locks import lock_pixels, pixels_of_positions, sky_locks
from tests.support.apdb_rows import REGION, at, rows


def test_a_large_and_a_small_region_exclude_each_other_and_neighbours_do_not(server):
    small = lock_pixels(Circle(UnitVector3d(LonLat.fromDegrees(150, 2)), Angle.fromDegrees(0.1)))
    large = lock_pixels(Circle(UnitVector3d(LonLat.fromDegrees(150, 2)), Angle.fromDegrees(20)))
    near = lock_pixels(Circle(UnitVector3d(LonLat.fromDegrees(153, 2)), Angle.fromDegrees(0.1)))
    assert max(large) < min(small)  # of a coarser level
    database = Database(server.uri)
    with database.connect() as a, database.connect() as b, sky_locks(a, large):
        with pytest.raises(psycopg.errors.LockNotAvailable), sky_locks(b, small, timeout_s=1):
            pass
    with database.connect() as a, database.connect() as b, sky_locks(a, small):
        with pytest.raises(psycopg.errors.LockNotAvailable), sky_locks(b, large, timeout_s=1):
            pass
        with sky_locks(b, near, timeout_s=1):
            pass
        assert a.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()[0] < 64
    with database.connect() as a:
        assert a.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
    found = pixels_of_positions(np.array([(8 << 40) + 5, (8 << 40) + 6]))
    assert found == [8 << 16]


def wait_for_lockers(server, wanted):
    """Until so many sessions hold places on the sky or in a line."""
    holders = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
    until = time.monotonic() + 10
    while server.raw.execute(holders).fetchone()[0] < wanted:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("waits_in", ["session", "transaction"])
def test_of_those_who_wait_for_a_place_on_the_sky_only_one_keeps_dead_rows_alive(server, waits_in, monkeypatch):
    monkeypatch.setattr(locks, "FIRST_QUEUE_S", 0.1)
    o, s, f = rows(4)
    pixels = pixels_of_positions(htm_ids(o.ra, o.dec))
    database, got = Database(server.uri), []

    def wait(number):
        if waits_in == "transaction":
            server.ours.store(
                at(61001.0 + number), o, s.assign(diaSourceId=s.diaSourceId + 100 * number), f.assign(visit=50 + number)
            )
        else:
            with database.connect() as own, sky_locks(own, pixels):
                pass
        got.append(time.monotonic())

    in_queue = (
        "SELECT backend_xmin::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'"
    )
    threads = [threading.Thread(target=wait, args=(number,)) for number in range(3)]
    with database.connect() as holder:
        with sky_locks(holder, pixels):
            for thread in threads:
                thread.start()
            wait_for_lockers(server, 4)
            seen, until = [], time.monotonic() + 10
            while len({xmin for found in seen for xmin in found}) < 3 or len(seen) < 60:
                assert time.monotonic() < until  # the snapshot is renewed
                time.sleep(0.02)
                server.raw.execute("SELECT pg_current_xact_id()")  # time goes on for the snapshots of others
                seen.append([row[0] for row in server.raw.execute(in_queue)])
            assert not got
            released = time.monotonic()
        for thread in threads:
            thread.join(10)
    assert len(got) == 3 and min(got) > released
    counts = [len(found) for found in seen]
    assert max(counts) == 1 and sum(counts) > 30  # the front waits in a statement with a snapshot, the others do not
    monkeypatch.setattr(transactions, "LOCKS_WAIT_S", 0.3)
    with (
        database.connect() as holder,
        sky_locks(holder, pixels),
        pytest.raises(DatabaseUnavailable, match="held its place"),
    ):
        server.ours.store(at(61002.0), o)


def test_who_comes_first_is_served_first(server):
    pixels, database, served = [(8 << 16) + 1, (8 << 16) + 2], Database(server.uri), []

    def wait(number):
        with database.connect() as own, sky_locks(own, pixels):
            served.append(number)

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(8)]
    with database.connect() as holder, sky_locks(holder, pixels):
        for number, thread in enumerate(threads):
            thread.start()
            wait_for_lockers(server, number + 2)
    for thread in threads:
        thread.join(20)
    assert served == list(range(8))
    assert server.raw.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


def test_what_can_be_done_while_waiting_is_done_once_and_only_then(server):
    pixels, database, done = [lock_pixels(REGION)[0]], Database(server.uri), []

    def hold(name):
        with database.connect() as own, sky_locks(own, pixels, meanwhile=lambda: done.append(name)):
            pass

    with database.connect() as holder:
        with sky_locks(holder, pixels, meanwhile=lambda: done.append("at once")):
            threads = [threading.Thread(target=hold, args=(name,)) for name in ("front", "behind")]
            for waiting, thread in enumerate(threads, start=2):
                thread.start()
                wait_for_lockers(server, waiting)
            until = time.monotonic() + 10
            while not done and time.monotonic() < until:
                time.sleep(0.01)
        for thread in threads:
            thread.join()
    assert done == ["behind"]


def test_who_hangs_in_the_line_keeps_nobody_from_a_place_that_is_free(server, monkeypatch):
    monkeypatch.setattr(locks, "LINE_PATIENCE_S", 0.2)
    pixels = [(8 << 16) + 1]
    with Database(server.uri).connect() as hung, Database(server.uri).connect() as b:
        front = locks._LINE_SPACE + pixels[0] * locks.LINE
        assert hung.execute("SELECT pg_try_advisory_lock(%s)", (front,)).fetchone() == (True,)
        with sky_locks(b, pixels, timeout_s=5):
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
            assert server.raw.execute(held, (b.info.backend_pid,)).fetchone() == (3,)  # the pixel and its two parents
        assert server.raw.execute(held, (b.info.backend_pid,)).fetchone() == (0,)


def test_a_session_that_was_stopped_in_the_queue_holds_nothing(server):
    pixels = [(8 << 16) + 1, (8 << 16) + 2]
    with Database(server.uri).connect() as a, Database(server.uri).connect() as b, sky_locks(a, pixels[1:]):
        b.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled), sky_locks(b, pixels):
            pass
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
        assert server.raw.execute(held, (b.info.backend_pid,)).fetchone() == (0,)


def test_sixteen_clients_on_overlapping_patches(server):
    """Every thread stores visits of the same objects in another order of rows: no deadlock, one open version each."""
    o, _s, _f = rows(60)
    failures, barrier = [], threading.Barrier(16)

    def work(number):
        rng = np.random.default_rng(number)
        barrier.wait()
        try:
            for k in range(4):
                visit = 100 + number * 10 + k
                part = rng.permutation(60)[:30]
                _, vs, vf = rows(60, visit=visit)
                server.ours.store(at(61001.0 + rng.uniform(0, 3)), o.iloc[part], vs.iloc[part], vf.iloc[part])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    count = server.ours.tableRowCount()
    assert (count["DiaSource"], count["DiaForcedSource"], count["DiaObject"]) == (64 * 30,) * 3
    bad = server.raw.execute(
        'SELECT count(*) FROM (SELECT count(*) FILTER (WHERE "validityEndMjdTai" IS NULL) n, '
        'bool_or("validityEndMjdTai" <= "validityStartMjdTai") w FROM "DiaObject" GROUP BY "diaObjectId") x '
        "WHERE n <> 1 OR w"
    ).fetchone()
    assert bad == (0,)
    assert len(server.ours.getDiaObjects(REGION)) == count["DiaObjectLast"]
