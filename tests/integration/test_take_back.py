"""Histories of visits, replacements, withdrawals and merges: what is valid is as if nothing else had ever been."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import numpy as np
import pandas as pd
import psycopg
import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st
from lsst.dax.apdb import DiaSourceId
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d

from apdb import Database, PostgresApdb, VisitUnitOfWork
from apdb.errors import NotFound, VisitRunning
from apdb.sky.locks import lock_pixels, sky_locks
from apdb.visit.repair import renew_marked
from apdb.visit.withdraw import withdraw_visit
from tests.support.drawn import drawn, tell_seed
from tests.support.histories import BODY, PACKER, Survey, contents, dump, midpoint

KILLS = int(os.environ.get("ALERTPROD_REPLACE_KILLS", "3"))
HISTORIES_OF_CI = 40
HISTORIES = int(os.environ.get("ALERTPROD_HISTORIES", str(HISTORIES_OF_CI)))
BASE = ((0, 0), (1, 0))  # always there: star 0 is seen in them
REST = [(v, d) for v in range(2, 16) for d in (0, 1)]
STEP = st.tuples(
    st.sampled_from(("visit", "visit", "visit", "replace", "replace", "client", "withdraw", "merge")),
    st.integers(0, 2**16),
    st.integers(0, 3),
)


@pytest.fixture(scope="module")
def pair(postgres):
    """Two empty databases, made with the tables of replication."""
    admin, names = postgres.uri.rsplit("/", 1)[0], [f"h{uuid4().hex}" for _ in range(2)]
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        for name in names:
            c.execute(f"CREATE DATABASE {name}")
    databases = [Database(f"{admin}/{name}") for name in names]
    for database in databases:
        database.create(replica=True)
    yield [Survey(d) for d in databases]
    with psycopg.connect(f"{admin}/postgres", autocommit=True) as c:
        for name in names:
            c.execute(f"DROP DATABASE {name} WITH (FORCE)")


def play(survey, steps):
    """Do the steps of a history that begins with the units of the base."""
    left = list(REST)
    for what, number, version in steps:
        stored = sorted(survey.units)
        removable = [u for u in stored if u not in BASE]
        if what == "visit" and left:
            survey.store(left.pop(number % len(left)), version)
        elif what in ("replace", "client"):
            survey.store(stored[number % len(stored)], version, by_client=what == "client")
        elif what == "withdraw" and removable:
            survey.withdraw(removable[number % len(removable)])
        elif what == "merge":
            survey.merge()
    survey.merge()


def build(survey, units):
    """Build a database from the valid visits alone, in order of time."""
    is_base = all(units.get(u) is not None and (units[u].version, units[u].by_client) == (0, False) for u in BASE)
    if is_base:  # their rows are those of the first time
        survey.begin(BASE, replicated=False)
    else:
        survey.reset(replicated=False)
    for unit in sorted(units.keys() - survey.units.keys()):
        survey.store(unit, units[unit].version, by_client=units[unit].by_client)
    survey.merge()
    return dump(survey.database)


_BROKEN = """
SELECT 'newest versions', count(*) FROM "DiaObjectLast" l FULL JOIN
    (SELECT * FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL) o USING ("diaObjectId")
    WHERE (l.ra, l.dec, l."nDiaSources", l."validityStartMjdTai", l."lastDiaSourceMjdTai", l."pixelId") IS DISTINCT FROM
          (o.ra, o.dec, o."nDiaSources", o."validityStartMjdTai", o."lastDiaSourceMjdTai", o."pixelId")
UNION ALL SELECT 'sources without object', count(*) FROM "DiaSource" s WHERE "timeWithdrawnMjdTai" IS NULL AND
    "diaObjectId" IS NOT NULL AND NOT EXISTS (SELECT 1 FROM "DiaObjectLast" l WHERE l."diaObjectId" = s."diaObjectId")
UNION ALL SELECT 'forced without object', count(*) FROM "DiaForcedSource" s WHERE
    NOT EXISTS (SELECT 1 FROM "DiaObjectLast" l WHERE l."diaObjectId" = s."diaObjectId")
UNION ALL SELECT 'counts', count(*) FROM "DiaObjectLast" l WHERE "nDiaSources" <> (SELECT count(*) FROM "DiaSource" s WHERE
    s."diaObjectId" = l."diaObjectId" AND s."timeWithdrawnMjdTai" IS NULL)
UNION ALL SELECT 'validity that ends before it begins', count(*) FROM "DiaObject" WHERE "validityEndMjdTai" < "validityStartMjdTai"
UNION ALL SELECT 'overlapping versions', count(*) FROM "DiaObject" a JOIN "DiaObject" b USING ("diaObjectId") WHERE
    a."validityStartMjdTai" < b."validityStartMjdTai" AND
    coalesce(a."validityEndMjdTai", 'infinity') > b."validityStartMjdTai"
"""
_UNTOLD = """
SELECT 'versions', count(*) FROM "DiaObject" o WHERE "validityEndMjdTai" IS NULL AND NOT EXISTS (SELECT 1 FROM "DiaObjectChunks" k
    WHERE k."diaObjectId" = o."diaObjectId" AND k."validityStartMjdTai" = o."validityStartMjdTai")
UNION ALL SELECT 'forced sources', count(*) FROM "DiaForcedSource" f WHERE NOT EXISTS (SELECT 1 FROM "DiaForcedSourceChunks" k
    WHERE k."diaObjectId" = f."diaObjectId" AND k.visit = f.visit AND k.detector = f.detector)
UNION ALL SELECT 'sources', count(*) FROM "DiaSource" s WHERE NOT EXISTS (SELECT 1 FROM "DiaSourceChunks" k
    WHERE k."diaSourceId" = s."diaSourceId")
UNION ALL SELECT 'withdrawn sources', count(*) FROM "DiaSource" s WHERE "timeWithdrawnMjdTai" IS NOT NULL AND NOT EXISTS (SELECT 1
    FROM "ApdbUpdateRecordChunks" u WHERE (u.update_payload::jsonb ->> 'diaSourceId')::bigint = s."diaSourceId" AND
    u.update_payload LIKE '%withdraw%')
UNION ALL SELECT 'closed objects', count(*) FROM (SELECT "diaObjectId" FROM "DiaObject" GROUP BY 1
    HAVING bool_and("validityEndMjdTai" IS NOT NULL)) o WHERE NOT EXISTS (SELECT 1 FROM "ApdbUpdateRecordChunks" u WHERE
    (u.update_payload::jsonb ->> 'diaObjectId')::bigint = o."diaObjectId" AND u.update_payload LIKE '%validityEnd%')
"""


def rows_of(database, query):
    with psycopg.connect(database.uri) as c:
        return c.execute(query).fetchall()


@drawn(HISTORIES, HISTORIES_OF_CI, phases=[Phase.generate])
@given(st.lists(STEP, min_size=2, max_size=5 if HISTORIES <= HISTORIES_OF_CI else 9), st.booleans())
@pytest.mark.timeout(1800)
def test_the_database_is_that_of_the_valid_visits_alone(pair, steps, replicated):
    tell_seed()
    survey, other = pair
    survey.begin(BASE, replicated=replicated)
    play(survey, steps)
    found, wanted = dump(survey.database), build(other, survey.units)
    for name in wanted:
        pd.testing.assert_frame_equal(found[name], wanted[name], check_exact=True, obj=name)
    assert [r for r in rows_of(survey.database, _BROKEN) if r[1]] == []
    if replicated:
        assert [r for r in rows_of(survey.database, _UNTOLD) if r[1]] == []


def test_a_withdrawn_visit_leaves_no_mark(pair):
    """Alone: what it founded is closed, its rows and those of its body are gone, ledger and audit say so."""
    survey, _ = pair
    survey.reset(replicated=False)
    for unit in (*BASE, (5, 0)):
        survey.store(unit, 1)
    before = dump(survey.database)
    survey.store((6, 0), next(v for v in range(20) if contents(6, 0, v).body))
    bodies = 'SELECT count(*) FROM "SSSource" b JOIN "DiaSource" s USING ("diaSourceId") WHERE s.visit = 6'
    assert rows_of(survey.database, bodies) == [(1,)]
    survey.withdraw((6, 0))
    after = dump(survey.database)
    for name in before:
        pd.testing.assert_frame_equal(after[name], before[name], check_exact=True, obj=name)
    (state,) = rows_of(survey.database, 'SELECT state FROM "VisitLedger" WHERE visit = 6')
    audit = rows_of(survey.database, "SELECT detail FROM \"ApdbAudit\" WHERE action = 'withdraw visit'")
    assert state == ("withdrawn",)
    assert audit[0][0]["visit"] == 6 and audit[0][0]["reason"] == "bad subtraction"
    kept = rows_of(
        survey.database, 'SELECT count(*), count("sideFlags") FROM "DiaForcedSourceWithdrawn" WHERE visit = 6'
    )
    assert kept[0][0] == kept[0][1] > 0
    assert rows_of(survey.database, bodies) == [(0,)]
    valid = f'SELECT "timeWithdrawnMjdTai" IS NULL FROM "DiaSource" WHERE "ssObjectId" = {BODY} AND visit = 6'
    assert rows_of(survey.database, valid) == [(False,)]


def _star_0(seen, units):
    """The first of (unit, version) in which star 0 is or is not seen."""
    return next((u, v) for u in units for v in range(20) if (0 in contents(*u, v).stars) == seen)


@pytest.mark.parametrize("by_client", [False, True])
@pytest.mark.parametrize("last", ["measured", "seen", "withdrawn"])
def test_what_was_only_measured_follows_too(pair, by_client, last):
    """Star 0 is measured in a visit that does not see it, and seen later: its forced means go with the visit and come with it."""
    survey, other = pair
    survey.reset(replicated=True)
    unit, later = (4, 0), [(6, d) for d in (0, 1)]
    for one, version in (*((u, 0) for u in BASE), _star_0(False, [unit]), _star_0(True, later)):
        survey.store(one, version)
    first = dump(survey.database)
    if last == "withdrawn":
        survey.withdraw(unit)
    else:
        seen = [v for v in range(20) if (0 in contents(*unit, v).stars) == (last == "seen")]
        survey.store(unit, seen[-1], by_client=by_client)
    survey.merge()
    found, wanted = dump(survey.database), build(other, survey.units)
    assert not first["objects"].equals(wanted["objects"])
    for name in wanted:
        pd.testing.assert_frame_equal(found[name], wanted[name], check_exact=True, obj=name)
    assert [r for r in (*rows_of(survey.database, _BROKEN), *rows_of(survey.database, _UNTOLD)) if r[1]] == []


def test_objects_with_marks_of_an_older_version_are_made_anew(pair):
    """Sources marked as withdrawn, and nothing else done, as older versions did."""
    survey, _ = pair
    survey.reset(replicated=True)
    for unit in (*BASE, (5, 0)):
        survey.store(unit, 1)
    before = dump(survey.database)
    survey.store((6, 0), 1)
    with psycopg.connect(survey.database.uri, autocommit=True) as c:
        for table in ("DiaSource", "DiaForcedSource"):
            c.execute(f'UPDATE "{table}" SET "timeWithdrawnMjdTai" = 62000 WHERE visit = 6')
        c.execute('DELETE FROM "DiaForcedSourceFlags" WHERE visit = 6')
        c.execute(
            'DELETE FROM "SSSource" WHERE "diaSourceId" IN (SELECT "diaSourceId" FROM "DiaSource" WHERE visit = 6)'
        )
    dry = renew_marked(survey.database, 62100.0, dry_run=True)
    report = renew_marked(survey.database, 62100.0)
    assert (report.objects, dry.renewed) == (dry.objects, 0) and report.renewed > 0
    after = dump(survey.database)
    for name in before:
        pd.testing.assert_frame_equal(after[name], before[name], check_exact=True, obj=name)
    assert renew_marked(survey.database, 62101.0).closed == 0


def test_what_cannot_be_withdrawn(database):
    with pytest.raises(NotFound, match="never came"):
        withdraw_visit(database, 9, 0, 61000.0, "why")
    with database.connect() as c:
        c.execute(
            'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state) VALUES '
            "(9, 0, 'x', '{}', 'x', 'running')"
        )
    with pytest.raises(VisitRunning, match="visit 9, detector 0"):
        withdraw_visit(database, 9, 0, 61000.0, "why")


def test_sources_in_archived_months_are_counted_still(pair, tmp_path):
    """A month that is elsewhere: its sources are no rows here, and part of counts and times."""
    survey, _ = pair
    survey.reset(replicated=False)
    for unit in (*BASE, (4, 0), (5, 0)):
        survey.store(unit, 2)
    counts = 'SELECT "diaObjectId", "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai" FROM "DiaObjectLast" ORDER BY 1'
    wanted = rows_of(
        survey.database,
        'SELECT "diaObjectId", count(*), min("midpointMjdTai"), max("midpointMjdTai") FROM "DiaSource" WHERE visit <> 5 AND '
        '"diaObjectId" IS NOT NULL GROUP BY 1 ORDER BY 1',
    )
    survey.send_away(midpoint(0), tmp_path)
    assert rows_of(survey.database, 'SELECT DISTINCT visit FROM "DiaSource" ORDER BY 1') == [(4,), (5,)]
    survey.withdraw((5, 0))
    assert rows_of(survey.database, counts) == wanted
    survey.bring_back()
    assert rows_of(survey.database, counts) == wanted
    assert [r for r in rows_of(survey.database, _BROKEN) if r[1]] == []


def equal(one, other):
    return all(one[name].equals(other[name]) for name in one)


def test_a_source_is_withdrawn_while_another_visit_is_stored(pair):
    """Its object gets a new version by another transaction: the withdrawal begins anew, and neither is lost."""
    survey, _ = pair
    survey.reset(replicated=False)
    for unit in BASE:
        survey.store(unit)
    late, version = next(((10, 0), v) for v in range(40) if 0 in contents(10, 0, v).stars)
    (withdrawn,) = rows_of(
        survey.database, 'SELECT min("diaSourceId") FROM "DiaSource" WHERE visit = 1 AND detector = 0'
    )[0]

    def withdraw():
        client = PostgresApdb(survey.database.uri)
        source = DiaSourceId(diaSourceId=withdrawn, ra=0.0, dec=12.0, midpointMjdTai=midpoint(1))
        client.withdrawDiaSources([source])
        client.close()

    with ThreadPoolExecutor(1) as pool, survey.database.connect() as connection, VisitUnitOfWork(connection) as work:
        frames = survey._frames(work, late, 0, contents(*late, version), False)
        work.store(survey.now + 0.5, *frames)
        withdrawing = pool.submit(withdraw)
        deadline = time.monotonic() + 30
        while not rows_of(survey.database, _WAITS)[0][0]:
            assert time.monotonic() < deadline
            assert not withdrawing.done(), withdrawing.result()
        work.commit()
        withdrawing.result(30)
    assert [r for r in rows_of(survey.database, _BROKEN) if r[1]] == []
    gone = f'SELECT "timeWithdrawnMjdTai" IS NOT NULL FROM "DiaSource" WHERE "diaSourceId" = {withdrawn}'
    assert rows_of(survey.database, gone) == [(True,)]


@pytest.mark.parametrize("how", ["withdrawn", "reassigned", "to bodies"])
def test_sources_leave_while_a_visit_measures_their_object(pair, how):
    """It makes no version of the object, and no row of its conflicts: the change waits for the sky, and closes what it left."""
    survey, _ = pair
    survey.reset(replicated=False)
    for unit in BASE:
        survey.store(unit)
    late, version = _star_0(False, [(10, 0)])
    owner, ids = rows_of(
        survey.database,
        'SELECT l."diaObjectId", array_agg("diaSourceId") FROM "DiaObjectLast" l JOIN "DiaSource" s USING ("diaObjectId") WHERE '
        "l.dec BETWEEN 11.9995 AND 12.0005 GROUP BY 1",
    )[0]

    def withdraw():
        client = PostgresApdb(survey.database.uri)
        sources = [DiaSourceId(diaSourceId=i, ra=0.0, dec=12.0, midpointMjdTai=midpoint(0)) for i in ids]
        if how == "withdrawn":
            client.withdrawDiaSources(sources)
        elif how == "reassigned":
            client.reassignDiaSourcesToDiaObjects(dict.fromkeys(sources, other))
        else:
            client.reassignDiaSources(dict.fromkeys(ids, 7))
        client.close()

    query = f'SELECT min("diaObjectId") FROM "DiaObjectLast" WHERE "diaObjectId" <> {owner}'
    ((other,),) = rows_of(survey.database, query)
    pixels = lock_pixels(Circle(UnitVector3d(LonLat.fromDegrees(0.0, 12.0)), Angle.fromDegrees(0.01)))
    with ThreadPoolExecutor(1) as pool, survey.database.connect() as connection:
        with sky_locks(connection, pixels), VisitUnitOfWork(connection) as work:
            frames = survey._frames(work, late, 0, contents(*late, version), False)
            assert owner in set(frames[2].diaObjectId) - set(frames[0].diaObjectId)
            withdrawing = pool.submit(withdraw)
            deadline = time.monotonic() + 30
            while not (rows_of(survey.database, _WAITS)[0][0] or withdrawing.done()):
                assert time.monotonic() < deadline
            work.store(survey.now + 0.5, *frames)
            work.commit()
        withdrawing.result(30)
    assert [r for r in rows_of(survey.database, _BROKEN) if r[1]] == []
    assert rows_of(survey.database, f'SELECT 1 FROM "DiaObjectLast" WHERE "diaObjectId" = {owner}') == []
    moved = f'SELECT count(*) FROM "DiaForcedSourceWithdrawn" WHERE "diaObjectId" = {owner} AND visit = {late[0]}'
    assert rows_of(survey.database, moved) == [(1,)]


_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def _writing(database):
    """Return whether a session has written something; None where there is no other session."""
    query = (
        "SELECT bool_or(backend_xid IS NOT NULL) FROM pg_stat_activity WHERE datname = current_database() AND "
        "pid <> pg_backend_pid() AND application_name = 'alertprod'"
    )
    return rows_of(database, query)[0][0]


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_in_the_middle_of_a_replacement(pair):
    """kill -9 while it writes: the visit is as before or as after, never anything between."""
    survey, other = pair
    survey.reset(replicated=True)
    units = [*BASE, (4, 0), (4, 1), (6, 0)]
    for unit in units:
        survey.store(unit)
    wanted = {}
    for version in (0, 1):
        other.reset(replicated=False)
        for unit in units:
            other.store(unit, version if unit == (4, 0) else 0)
        wanted[version] = dump(other.database)
    assert not equal(wanted[0], wanted[1])
    rng, version, midway = np.random.default_rng(4), 0, 0
    context = multiprocessing.get_context("fork")
    for _ in range(KILLS):
        child = context.Process(target=survey.store, args=((4, 0), 1 - version))
        child.start()
        deadline = time.monotonic() + 60
        while child.is_alive() and not _writing(survey.database):
            assert time.monotonic() < deadline
        child.join(float(rng.uniform(0, 0.15)))
        with_luck = child.is_alive()
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        while _writing(survey.database) is not None:  # its session ends when the server sees it
            assert time.monotonic() < deadline + 60
        found = dump(survey.database)
        assert equal(found, wanted[0]) or equal(found, wanted[1])
        version, midway = int(equal(found, wanted[1])), midway + with_luck
        stored = rows_of(survey.database, 'SELECT max("diaSourceId") FROM "DiaSource" WHERE visit = 4 AND detector = 0')
        survey.releases[4, 0] = PACKER.unpack(stored[0][0]).release
        survey.now += 1.0
        assert [r for r in (*rows_of(survey.database, _BROKEN), *rows_of(survey.database, _UNTOLD)) if r[1]] == []
    assert midway >= 1
    print(f"{KILLS} kills, {midway} of them while it was at work")
