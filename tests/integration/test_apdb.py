"""apdb/ on a real PostgreSQL: schema, bulk paths, unit of work, ledger, locks, partitions."""

import threading

import numpy as np
import pandas as pd
import psycopg
import pytest
from lsst.sphgeom import HtmPixelization, LonLat, UnitVector3d
from psycopg import sql
from sqlalchemy import inspect

from apdb import Database, LeaseLost, Ledger, VisitState, VisitUnitOfWork, columns_of, empty_frame
from apdb import open as open_apdb
from apdb.copy import decode as copy_out
from apdb.copy import stream as copy_stream
from apdb.errors import (
    ApdbError,
    DatabaseUnavailable,
    ReleasesExhausted,
    SchemaMismatch,
    VisitConflict,
    VisitRunning,
)
from apdb.queue.ledger import Outcome
from apdb.queue.outbox import OutboxEntry
from apdb.schema.partitions import ensure_months, month_bounds
from apdb.schema.tables import make_metadata
from apdb.sky.htm import htm_ids
from apdb.sky.locks import lock_pixels, sky_locks
from apdb.visit.withdraw import withdraw_visit
from migrations.run import migrate
from tests.support.apdb_rows import REGION, rows


def message(visit=1, **more):
    return {"instrument": "simcam", "visit": visit, "detector": 0, "science": "/x.fits", **more}


def test_ids_equal_those_of_sphgeom():
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, 3000), np.degrees(np.arcsin(rng.uniform(-1, 1, 3000)))
    ra, dec = np.append(ra, [0, 90, 180, 270, 0, 45, 359.9999999]), np.append(dec, [0, 0, 0, 0, 90, -90, 1e-7])
    for level in (8, 20):
        pixels = HtmPixelization(level)
        want = [
            pixels.index(UnitVector3d(LonLat.fromDegrees(float(a), float(d)))) for a, d in zip(ra, dec, strict=True)
        ]
        assert htm_ids(ra, dec, level).tolist() == want


def test_migrations_make_the_generated_tables_and_go_down(postgres, database):
    name = "made_at_once"
    admin = postgres.uri.rsplit("/", 1)[0]
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute(f"CREATE DATABASE {name}")
    other = Database(f"{admin}/{name}")
    with pytest.raises(SchemaMismatch, match="alertprod apdb migrate"):
        other.check_schema()
    other.create()
    other.check_schema()

    def shape(db):
        look = inspect(db.engine())
        return {
            t: (
                [(c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(t)],
                look.get_pk_constraint(t)["constrained_columns"],
                sorted((i["name"], tuple(i["column_names"]), i["unique"]) for i in look.get_indexes(t)),
            )
            for t in make_metadata().tables
        }

    assert shape(database) == shape(other)
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute(f"DROP DATABASE {name} WITH (FORCE)")
        c.execute("CREATE DATABASE updown")
    migrate(f"{admin}/updown")
    migrate(f"{admin}/updown", "base")
    tables = set(inspect(Database(f"{admin}/updown").engine()).get_table_names())
    assert tables <= {"alembic_version"}
    migrate(f"{admin}/updown")
    Database(f"{admin}/updown").check_schema()
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        c.execute("DROP DATABASE updown WITH (FORCE)")


def test_rows_come_back_equal_with_their_nulls(database):
    o, s, f = rows()
    s.loc[0, "psfFlux"] = np.nan
    s.loc[1, "diaObjectId"] = 0
    s["ssObjectId"] = 0
    s.loc[1, "ssObjectId"] = 99
    with database.connect() as connection:
        with VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            work.commit()
        assert connection.execute('SELECT count(*) FROM "DiaSource" WHERE "psfFlux" IS NULL').fetchone() == (1,)
        assert connection.execute(
            'SELECT "diaObjectId", "ssObjectId" FROM "DiaSource" WHERE "diaSourceId" = %s', (int(s.diaSourceId[1]),)
        ).fetchone() == (None, 99)
        with VisitUnitOfWork(connection) as work:
            last = work.load_objects(REGION)
            back = work.load_sources(o.diaObjectId, 61002.0)
            forced = work.load_forced_sources(o.diaObjectId, 61002.0)
            none = work.load_sources([], 61002.0)
    assert last.diaObjectId.tolist() == o.diaObjectId.tolist()
    assert (last.validityStartMjdTai == 61001.0).all()
    want = s[s.diaObjectId != 0].sort_values("diaObjectId", ignore_index=True)
    pd.testing.assert_frame_equal(back, want[[c.name for c in columns_of("DiaSource")]], check_dtype=False)
    assert forced.psfFlux.tolist() == f.psfFlux.tolist()
    assert none.empty
    assert list(none.columns) == list(back.columns)


def test_versions_close_and_only_the_newest_is_read(database):
    o, s, f = rows()
    with database.connect() as connection:
        for step in range(3):
            with VisitUnitOfWork(connection) as work:
                work.store(61001.0 + step, o.assign(nDiaSources=step + 1), *[t.iloc[:0] for t in (s, f)])
                work.commit()
        with VisitUnitOfWork(connection) as work:
            assert (work.load_objects(REGION).nDiaSources == 3).all()
        count = connection.execute('SELECT count(*), count("validityEndMjdTai") FROM "DiaObject"').fetchone()
        assert count == (150, 100)
        gaps = connection.execute(
            'SELECT count(*) FROM "DiaObject" a JOIN "DiaObject" b USING ("diaObjectId") WHERE '
            'a."validityEndMjdTai" = b."validityStartMjdTai"'
        ).fetchone()
        assert gaps == (100,)


def test_leaving_without_commit_changes_nothing(database):
    o, s, f = rows()
    with database.connect() as connection:
        with pytest.raises(ZeroDivisionError), VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            raise ZeroDivisionError
        for table in ("DiaObject", "DiaObjectLast", "DiaSource", "DiaForcedSource"):
            assert connection.execute(f'SELECT count(*) FROM "{table}"').fetchone() == (0,)


def test_ledger_takes_a_visit_once(database):
    ledger = Ledger(database)
    row, new = ledger.submit(message(), 1, 0)
    assert new
    assert row["state"] == "queued"
    assert not ledger.submit(message(priority=5), 1, 0)[1]
    with pytest.raises(VisitConflict, match="visit 1, detector 0"):
        ledger.submit(message(science="/other.fits"), 1, 0)
    claim = ledger.claim("me", 30, 0)
    assert (claim.visit, claim.attempt) == (1, 1)
    assert ledger.claim("you", 30, 0) is None
    ledger.fail(claim, "transient", "x", retry_in_s=0.0)
    again = ledger.claim("you", 30, 0)
    assert (again.attempt, again.failures) == (2, 1)
    with database.connect() as connection, pytest.raises(LeaseLost), VisitUnitOfWork(connection) as work:
        work.finish(1, 0, claim.attempt, Outcome(VisitState.DONE, {}, {}))
    with database.connect() as connection, VisitUnitOfWork(connection) as work:
        work.finish(1, 0, again.attempt, Outcome(VisitState.DONE, {"alerts": 2}, {"load": 0.1}))
        work.add_outbox(OutboxEntry(1, 0, again.attempt, "1/a.avro", 2, "c"))
        work.commit()
    assert ledger.get(1, 0)["counts"] == {"alerts": 2}
    assert ledger.counts()["done"] == 1
    assert not ledger.submit(message(), 1, 0)[1]
    row, new = ledger.submit(message(reprocess="replace"), 1, 0)
    assert new
    assert row["release"] == 1


def test_a_replacement_by_the_state_of_its_visit(database):
    """Waiting: its message is replaced; running: refused; ended: the next release slot, as long as there is one."""
    ledger = Ledger(database)
    ledger.submit(message(), 1, 0)
    mended = message(reprocess="replace", science="/mended.fits")
    row, new = ledger.submit(mended, 1, 0)
    assert (new, row["state"], row["release"], row["message"]["science"]) == (True, "queued", 0, "/mended.fits")
    assert not ledger.submit(mended, 1, 0)[1]
    for release in range(1, 4):
        claim = ledger.claim("me", 30, 0)
        assert (claim.message, claim.release) == (mended, release - 1)
        with pytest.raises(VisitRunning, match="visit 1, detector 0: it is being processed"):
            ledger.submit(mended, 1, 0)
        with database.connect() as connection, VisitUnitOfWork(connection) as work:
            work.finish(1, 0, claim.attempt, Outcome(VisitState.DONE, {}, {}))
            work.commit()
        if release == 3:
            break
        assert ledger.submit(mended, 1, 0, releases=3)[0]["release"] == release
    with pytest.raises(
        ReleasesExhausted, match="all 3 release slots are used, by the first processing and 2 replacements"
    ):
        ledger.submit(mended, 1, 0, releases=3)
    assert ledger.get(1, 0)["state"] == "done"
    # an attempt that failed has stored nothing: its slot is used again
    assert ledger.submit(mended, 1, 0)[0]["release"] == 3
    ledger.fail(ledger.claim("me", 30, 0), "transient", "x", retry_in_s=None)
    assert ledger.submit(mended, 1, 0)[0]["release"] == 3


def test_an_image_of_another_camera_takes_no_place(database):
    """Of a visit that is stored; one that stored nothing, or was withdrawn, may come again under the right name."""
    ledger = Ledger(database)
    ledger.submit(message(), 1, 0)
    other = message(reprocess="replace", instrument="decam")
    assert ledger.submit(other, 1, 0)[0]["instrument"] == "decam"
    claim = ledger.claim("me", 30, 0)
    with database.connect() as connection, VisitUnitOfWork(connection) as work:
        work.store(61000.0, *(empty_frame(t) for t in ("DiaObject", "DiaSource", "DiaForcedSource")), of=(1, 0))
        work.finish(1, 0, claim.attempt, Outcome(VisitState.DONE, {}, {}))
        work.commit()
    for again in (message(), message(reprocess="replace")):
        with pytest.raises(VisitConflict, match=r"visit 1, detector 0: .* of instrument decam, not simcam"):
            ledger.submit(again, 1, 0)
    withdraw_visit(database, 1, 0, 61001.0, "another camera")
    assert ledger.submit(message(reprocess="replace"), 1, 0)[0]["instrument"] == "simcam"


def test_expired_lease_goes_to_another_worker(database):
    ledger = Ledger(database)
    ledger.submit(message(), 1, 0)
    first = ledger.claim("dead", 0.0, 0)
    second = ledger.claim("alive", 30, 0)
    assert second.attempt == first.attempt + 1
    with pytest.raises(LeaseLost):
        ledger.renew(first, 30)
    ledger.renew(second, 30)


def test_queue_goes_by_time_and_waits_for_earlier_visits_of_the_patch(database):
    ledger = Ledger(database)
    for visit, mjd in ((3, 61003.0), (1, 61001.0), (2, 61002.0)):
        ledger.submit(message(visit, midpointMjdTai=mjd), visit, 0)
    first = ledger.claim("a", 30, 60)
    assert first.visit == 1
    assert ledger.claim("b", 30, 60) is None  # visit 1 of the same detector is running
    assert ledger.claim("b", 30, 0).visit == 2  # unless nobody wants to wait


def test_twenty_workers_take_each_visit_once(database):
    ledger = Ledger(database)
    for visit in range(30):
        ledger.submit(message(visit, detector=visit), visit, visit)
    taken, lock = [], threading.Lock()

    def work():
        while (claim := ledger.claim("w", 60, 0)) is not None:
            with lock:
                taken.append(claim.visit)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(taken) == list(range(30))


def test_sky_locks_make_the_next_snapshot_see_the_last_commit(database):
    """Two sessions found an object at one place: the second must see the first one's."""
    pixels = lock_pixels(REGION)
    assert 1 <= len(pixels) <= 64
    o, s, f = rows(1)
    seen, started = [], threading.Barrier(2)

    def visit(number):
        with database.connect() as connection:
            started.wait()
            with sky_locks(connection, pixels), VisitUnitOfWork(connection) as work:
                found = work.load_objects(REGION)
                seen.append(len(found))
                if found.empty:
                    work.store(61000.0 + number, o, s.iloc[:0], f.iloc[:0])
                work.commit()

    threads = [threading.Thread(target=visit, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(seen) == [0, 1]


def test_partitions_are_made_by_month(database):
    assert month_bounds(61000.0) == ("2025m11", 60980.0, 61010.0)
    with database.connect() as connection:
        made = ensure_months(connection, 61000.0)
        assert made == [
            f"{t}_2025m{m}" if m > 10 else "" for m in (11, 12) for t in ("DiaSource", "DiaForcedSource")
        ] + ["DiaSource_2026m01", "DiaForcedSource_2026m01"]
        assert ensure_months(connection, 61000.0) == []
        o, s, f = rows()
        with VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            work.commit()
        where = connection.execute('SELECT DISTINCT tableoid::regclass::text FROM "DiaSource"').fetchall()
        assert where == [('"DiaSource_2025m11"',)]


def test_hot_reads_use_their_indices(database):
    o, s, f = rows(2000)
    with database.connect() as connection:
        with VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            work.commit()
        connection.execute("ANALYZE")
        connection.execute("SET enable_seqscan = off")
        for table, column in (
            ("DiaObjectLast", "pixelId"),
            ("DiaSource", "diaObjectId"),
            ("DiaForcedSource", "diaObjectId"),
        ):
            plan = "\n".join(r[0] for r in connection.execute(f'EXPLAIN SELECT * FROM "{table}" WHERE "{column}" = 5'))
            assert "Index" in plan
            assert "Seq Scan" not in plan


def test_unreachable_database_is_a_typed_error():
    with pytest.raises(DatabaseUnavailable) as caught:
        open_apdb("postgresql://u:verysecret@127.0.0.1:1/none").connect()
    assert "verysecret" not in str(caught.value)
    with pytest.raises(ApdbError, match="mysql"):
        open_apdb("mysql://x/y")


def test_withdrawn_rows_are_not_read(database):
    o, s, f = rows()
    with database.connect() as connection:
        with VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            work.commit()
        with VisitUnitOfWork(connection) as work:
            assert work.contains_visit(1, 0)
            assert not work.contains_visit(2, 0)
            assert work.remove_visit(1, 0, 61002.0) == 100
            assert work.load_sources(o.diaObjectId, 61002.0).empty
            work.commit()


def test_empty_store_is_fine(database):
    with database.connect() as connection, VisitUnitOfWork(connection) as work:
        work.store(61000.0, *(empty_frame(t) for t in ("DiaObject", "DiaSource", "DiaForcedSource")))
        work.commit()
        with pytest.raises(ApdbError, match="before"):
            work.commit()


@pytest.mark.parametrize("plain", [True, False])
def test_both_ways_of_taking_an_answer_are_equal(database, monkeypatch, plain):
    """From the socket, and by libpq as a connection with TLS has to."""
    monkeypatch.setattr(copy_stream, "_is_plain", lambda pgconn: plain)
    o, s, f = rows(3000)
    with database.connect() as connection:
        with VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            work.commit()
        with VisitUnitOfWork(connection) as work:
            back = work.load_sources(o.diaObjectId, 61002.0)
            assert back.psfFlux.tolist() == s.sort_values("diaObjectId").psfFlux.tolist()
            assert len(work.load_objects(REGION)) == 3000
        query = sql.SQL('SELECT "diaSourceId" FROM "DiaSource", generate_series(1, 400)')
        frames = copy_out.stream_frames(connection, query, columns_of("DiaSource")[:1])
        assert len(next(frames)) < 1_200_000
        frames.close()  # the reader goes away
        assert connection.execute("SELECT 1").fetchone() == (1,)
        bad = sql.SQL('SELECT 1 / ("diaSourceId" - %s) FROM "DiaSource" ORDER BY "diaSourceId"')
        with pytest.raises(psycopg.errors.DivisionByZero), connection.transaction():
            list(copy_out.stream_frames(connection, bad, columns_of("DiaSource")[:1], (int(s.diaSourceId[2000]),)))
        assert connection.execute("SELECT 2").fetchone() == (2,)
        with pytest.raises(psycopg.errors.UndefinedColumn):
            list(copy_out.stream_frames(connection, sql.SQL("SELECT nothing"), columns_of("DiaSource")[:1]))
        connection.execute("SET statement_timeout = '50ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            list(
                copy_out.stream_frames(
                    connection, sql.SQL("SELECT pg_sleep(5)::text::bigint"), columns_of("DiaSource")[:1]
                )
            )


def test_a_connection_that_breaks_is_a_typed_error(database):
    """The backend is ended while it answers."""
    query = sql.SQL("SELECT x::bigint FROM generate_series(1, 30000000) x")
    with database.connect() as connection, database.connect() as other:
        frames = copy_out.stream_frames(connection, query, columns_of("DiaSource")[:1])
        next(frames)
        other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            list(frames)
