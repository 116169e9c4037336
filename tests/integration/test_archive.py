"""The archive loses nothing: late frames, archives, drops and restores in any order, and a process killed in the middle."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from apdb import Database, PostgresApdb, VisitUnitOfWork
from apdb.copy.decode import select_frame
from apdb.errors import ApdbError, DatabaseUnavailable
from apdb.operate.archive import archive_partition, archived, drop_archived, old_partitions, read_archived
from apdb.operate.archive_files import manifest_of
from apdb.operate.restore import restore_partition
from apdb.schema.columns import columns_of, published_schema
from apdb.schema.partitions import Partition, ensure_months, month_bounds, partitions, waiting_months
from apdb.schema.tables import PARTITIONED
from apdb.visit.merge import follow_merges
from apdb.visit.take_back import take_back
from migrations.run import migrate
from tests.integration.test_database_admin import alertprod
from tests.support.apdb_rows import at, rows
from tests.support.drawn import drawn, tell_seed

HISTORIES_OF_CI = 6
HISTORIES = int(os.environ.get("ALERTPROD_ARCHIVE_HISTORIES", str(HISTORIES_OF_CI)))
KILLS = int(os.environ.get("ALERTPROD_ARCHIVE_KILLS", "3"))
WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
IDS = {"DiaSource": "diaSourceId", "DiaForcedSource": "diaForcedSourceId"}
EVER = 99_000.0


class Survey:
    """Three months of a database: what was stored in them, and what the tables and the archive hold of it."""

    def __init__(self, database, client, folder, first_month, visits):
        self.database, self.client, self.folder, self._visits = database, client, str(folder), visits
        self.months = [month_bounds(first_month, k) for k in range(3)]
        self.names = [f"{t}_{label}" for label, _, _ in self.months for t in PARTITIONED]
        self.stored = {t: [] for t in PARTITIONED}
        objects, sources, forced = rows(4)
        client.store(at(self.months[0][1]), objects, sources.iloc[:0], forced.iloc[:0])

    def store(self, month):
        """A frame of the month, which is read at once."""
        visit = next(self._visits)
        o, s, f = rows(4, visit=visit, seed=visit)
        mjd = self.months[month][1] + 1.0 + visit % 25
        self.client.store(at(mjd), o.iloc[:0], s.assign(midpointMjdTai=mjd), f.assign(midpointMjdTai=mjd))
        with self.database.connect() as connection:
            for table in PARTITIONED:
                held = self.held(connection, table)
                self.stored[table].append(held[held.visit == visit])
                assert len(self.stored[table][-1]) == 4

    def held(self, connection, table):
        rest = sql.SQL('WHERE t."midpointMjdTai" >= %s AND t."midpointMjdTai" < %s')
        bounds = self.months[0][1], self.months[-1][2]
        return select_frame(connection, table, columns_of(table), rest, bounds, nullable=True)

    def ensure(self, month):
        """What a worker does for a frame of the month, also one that then fails."""
        self.database.ensure_partitions(self.months[month][1] + 3.0)

    def archive(self, month):
        del month
        with self.database.connect() as connection:
            for partition in old_partitions(connection, EVER):
                if partition.name in self.names:
                    archive_partition(connection, partition, self.folder)

    def drop(self, month):
        """Drop what is detached of a month."""
        with self.database.connect() as connection:
            for item in archived(connection):
                if item.partition in self.names[2 * month : 2 * month + 2] and item.state == "detached":
                    drop_archived(connection, item)

    def restore(self, month):
        with self.database.connect() as connection:
            items = [a for a in archived(connection) if a.partition in self.names[2 * month : 2 * month + 2]]
            for name in {a.partition for a in items}:
                restore_partition(connection, next(a for a in items if a.partition == name))

    def check(self):
        """Every row is once in a table or once in the archive; nothing else is."""
        with self.database.connect() as connection:
            items = [a for a in archived(connection) if a.partition in self.names]
            for table in PARTITIONED:
                found = Counter(self.held(connection, table)[IDS[table]])
                for item in items:
                    if item.table == table:
                        frames = list(read_archived(item))
                        found.update(i for frame in frames for i in frame[IDS[table]])
                        assert item.rows == sum(map(len, frames))
                assert found == Counter(i for frame in self.stored[table] for i in frame[IDS[table]])

    def check_restored(self):
        """With everything restored the tables are as if there had been no archive; each month can have a partition."""
        for month in range(3):
            self.restore(month)
            self.ensure(month)
        with self.database.connect() as connection:
            assert not {a.partition for a in archived(connection)} & set(self.names)
            assert not {p.name for p in waiting_months(connection)} & set(self.names)
            assert {p.name for p in partitions(connection)} >= set(self.names)
            for table in PARTITIONED:
                held = self.held(connection, table).sort_values(IDS[table], ignore_index=True)
                if self.stored[table]:
                    want = pd.concat(self.stored[table]).sort_values(IDS[table], ignore_index=True)
                    pd.testing.assert_frame_equal(held, want)

    def clear(self):
        with self.database.connect() as connection:
            for name in self.names:
                connection.execute(f'DROP TABLE "{name}"')
                connection.execute('DELETE FROM "ApdbArchive" WHERE partition = %s', (name,))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "ensure", "archive", "drop", "restore"]),
        st.integers(min_value=0, max_value=2),
    ),
    min_size=4,
    max_size=14,
)


@pytest.mark.timeout(900)
def test_any_order_of_late_frames_archives_drops_and_restores_gives_the_truth(database, tmp_path):
    client, visits, starts = PostgresApdb(database.uri), count(1), count(50_010, 100)

    @drawn(HISTORIES, HISTORIES_OF_CI)
    @given(STEPS)
    def histories(steps):
        tell_seed()
        survey = Survey(database, client, tmp_path, float(next(starts)), visits)
        # as the worst begins: a month that was archived and dropped
        for name, month in [("store", 0), ("archive", 0), ("drop", 0), *steps]:
            getattr(survey, name)(month)
        survey.check()
        survey.check_restored()
        survey.clear()

    histories()
    client.close()


def test_late_frames_of_an_archived_month_through_the_commands(database, tmp_path):
    client = PostgresApdb(database.uri)

    def store(visit, mjd):
        o, s, f = rows(5, visit=visit)
        client.store(at(mjd), o, s.assign(midpointMjdTai=mjd), f.assign(midpointMjdTai=mjd))

    def run(*arguments):
        code, out, error = alertprod(database.uri, *arguments, "--json")
        assert code == 0, error
        return json.loads(out)

    def seen():
        with database.connect() as connection:
            return [v for (v,) in connection.execute('SELECT DISTINCT visit FROM "DiaSource" ORDER BY 1')]

    for visit, mjd in enumerate((60680.0, 60681.0, 60710.0, 60740.0), 1):
        store(visit, mjd)
    archive = ("archive", "--to", str(tmp_path), "--drop")
    run(*archive)
    assert seen() == []
    database.ensure_partitions(60685.0)  # a frame that fails, a clock a year behind: nothing is made anew
    assert run(*archive) == []
    files = {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}
    store(5, 60690.0)
    assert seen() == [5]  # late, and read at once
    late = [a["finding"] for a in run("vacuum-advice") if "archived" in a["finding"]]
    assert late == [f"5 late rows of {t}_2025m01, which is archived" for t in ("DiaForcedSource", "DiaSource")]
    assert [a["partition"] for a in run(*archive[:-1])] == ["DiaForcedSource_2025m01", "DiaSource_2025m01"]
    store(6, 60692.0)  # while the second generation is detached
    assert {p: p.read_bytes() for p in files} == files
    assert seen() == [6]
    assert [(a["partition"], a["generation"]) for a in run("status")["archive"] if a["state"] == "detached"] == [
        ("DiaForcedSource_2025m01", 2), ("DiaSource_2025m01", 2)]  # fmt: skip
    for month in ("2025m01", "2025m02", "2025m03"):
        for table in PARTITIONED:
            run("restore", f"{table}_{month}")
    assert seen() == [1, 2, 3, 4, 5, 6]
    assert alertprod(database.uri, "restore", "DiaSource_2025m01")[0] == 1
    run(*archive)  # and again, as a further generation
    assert seen() == []
    run("restore", "DiaSource_2025m01")
    assert seen() == [1, 2, 5, 6]
    client.close()


def test_times_that_are_mistakes_get_no_partition(database):
    with database.connect() as connection:
        before = {p.name for p in partitions(connection)}
        for mjd in (2_461_001.5, 44_244.0, np.nan):
            assert ensure_months(connection, mjd) == []
        assert {p.name for p in partitions(connection)} == before


def test_each_file_has_a_manifest_and_is_never_written_twice(database, tmp_path):
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, tmp_path, 60_000.0, count(1))
    survey.store(0)
    taken = tmp_path / "DiaSource" / f"{survey.names[0]}.parquet"
    taken.parent.mkdir()
    taken.write_bytes(b"of another database")
    survey.archive(0)
    with database.connect() as connection:
        items = archived(connection)
        assert taken.read_bytes() == b"of another database"
        for item in items:
            with open(manifest_of(item.file), encoding="utf-8") as file:
                about = json.load(file)
            assert (about["rows"], about["sha256"], about["generation"]) == (4, item.checksum, 1)
            assert about["file"] == os.path.basename(item.file)
        assert not list(tmp_path.rglob("*.partial"))
        with pytest.raises(ApdbError, match="nothing to archive"):
            archive_partition(connection, _month(survey, connection), str(tmp_path))
        # a file that changed is no source of rows
        drop_archived(connection, items[0])
        with open(items[0].file, "ab") as file:
            file.write(b" ")
        with pytest.raises(ApdbError, match="checksum differs"):
            restore_partition(connection, items[0])
        assert archived(connection)[0].state == "dropped"
    client.close()


def _month(survey, connection):
    """A month of the survey as a partition that has no rows."""
    label, low, high = survey.months[0]
    assert f"DiaSource_{label}" not in {p.name for p in partitions(connection)}
    return Partition("DiaSource", f"DiaSource_{label}", low, high, 0, 0, 0)


def test_rows_of_a_later_generation_replace_those_of_an_earlier(database, tmp_path):
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, tmp_path, 60_000.0, count(1))
    survey.store(0)
    with database.connect() as connection:
        connection.execute('CREATE TABLE kept AS SELECT * FROM "DiaSource"')
        survey.archive(0)
        survey.drop(0)
        connection.execute('UPDATE kept SET snr = 77 WHERE visit = 1 AND "diaSourceId" % 2 = 0')
        connection.execute('INSERT INTO "DiaSource" SELECT * FROM kept')
        survey.restore(0)
        found = connection.execute('SELECT count(*), count(*) FILTER (WHERE snr = 77) FROM "DiaSource"').fetchone()
    assert found == (4, 2)
    client.close()


def test_what_is_archived_is_replaced_after_it_was_restored_only(database, tmp_path):
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, tmp_path, 60_000.0, count(1))
    survey.store(0)
    survey.archive(0)
    o, s, f = rows(4, visit=1)
    mjd = survey.months[0][1] + 2.0
    again = o.iloc[:0], s.assign(diaSourceId=s.diaSourceId + 1000, midpointMjdTai=mjd), f.iloc[:0]
    later = again[0], again[1].assign(midpointMjdTai=survey.months[1][1] + 2.0), again[2]
    for step in (lambda: None, lambda: survey.drop(0)):
        step()
        with pytest.raises(ApdbError, match=f"'alertprod apdb restore {survey.names[0]}'"):
            client.store(at(mjd), *again, replace=True)
        with pytest.raises(ApdbError, match="the 8 rows that are stored of it are in the archive"):  # by another month
            client.store(at(mjd), *later, replace=True)
        with database.connect() as connection, VisitUnitOfWork(connection) as work:
            with pytest.raises(ApdbError, match="the 8 rows that are stored of it are in the archive"):
                work.remove_visit(1, int(s.detector[0]), mjd)
    survey.restore(0)
    client.store(at(mjd), *again, replace=True)
    with database.connect() as connection:
        query = 'SELECT count(*) FROM "DiaSource" WHERE "timeWithdrawnMjdTai" IS NULL'
        assert connection.execute(query).fetchone() == (4,)
    client.close()


@pytest.mark.parametrize("way", ["service", "client"])
def test_who_waits_for_the_end_of_an_archive_knows_that_the_rows_are_gone(database, tmp_path, way):
    """A snapshot from before would show neither the rows nor that they are archived: they would be valid again, restored."""
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, tmp_path, 60_000.0, count(1))
    survey.store(0)

    def replace():
        if way == "client":
            client._transactions.run(lambda c: take_back(c, published_schema(), 1, 0, 60_100.0), repeatable=True)
            return
        with database.connect() as connection, VisitUnitOfWork(connection) as work:
            work.remove_visit(1, 0, 60_100.0)
            work.commit()

    with ThreadPoolExecutor(1) as pool, database.connect() as archiving, database.connect() as looking:
        with archiving.transaction():
            for partition in old_partitions(archiving, EVER):
                if partition.name in survey.names:
                    archive_partition(archiving, partition, str(tmp_path))
            replaced, deadline = pool.submit(replace), time.monotonic() + 30
            while looking.execute(WAITS).fetchone() == (0,):
                assert time.monotonic() < deadline and not replaced.done()
        with pytest.raises(ApdbError, match="the 8 rows that are stored of it are in the archive"):
            replaced.result(30)
    survey.check()
    client.close()


def test_rows_of_objects_that_were_merged_meanwhile_follow_them(database, tmp_path):
    """Three objects for one star, each seen once and measured in both visits of a month that is archived, and merged one after another."""
    client = PostgresApdb(database.uri)
    arcsec = 1 / 3600
    o, _, _ = rows(3)
    dec = 12.0 + np.array([0.0, 0.3, 0.6]) * arcsec
    place = {"ra": 10.0, "dec": dec}
    o = o.assign(**place, nDiaSources=[1, 1, 2], firstDiaSourceMjdTai=60_300.0, lastDiaSourceMjdTai=60_400.0)
    for visit, mjd, which in ((1, 60_300.0, [0, 1]), (2, 60_301.0, [2]), (3, 60_400.0, [2])):
        _, s, f = rows(3, visit=visit)
        both = {**place, "midpointMjdTai": mjd}
        s = s.assign(**both, raErr=0.05 * arcsec, decErr=0.05 * arcsec, ssObjectId=0, parentDiaSourceId=0)
        client.store(at(mjd), o, s.iloc[which], f.assign(**both).iloc[[0, 1, 2] if visit < 3 else which])
    names = [f"{t}_{month_bounds(60_300.0)[0]}" for t in PARTITIONED]
    with database.connect() as connection:
        for partition in old_partitions(connection, EVER):
            if partition.name in names:
                drop_archived(connection, archive_partition(connection, partition, str(tmp_path)))
        with VisitUnitOfWork(connection) as work:
            work.merge_objects({2**60 + 2: 2**60 + 1}, 60_500.0)
            work.commit()
        assert alertprod(database.uri, "restore", names[0], "--json")[0] == 0
        with ThreadPoolExecutor(1) as pool, database.connect() as looking, VisitUnitOfWork(connection) as work:
            assert len(work.positions_of([2**60])) == 1  # its snapshot is from before the rows come back
            restored, deadline = (
                pool.submit(alertprod, database.uri, "restore", names[1], "--json"),
                time.monotonic() + 30,
            )
            while looking.execute(WAITS).fetchone() == (0,):
                assert time.monotonic() < deadline and not restored.done()
            work.merge_objects({2**60 + 1: 2**60}, 60_501.0)
            work.commit()
            assert restored.result(30)[0] == 0
    with database.connect() as connection:
        held = connection.execute('SELECT "diaObjectId", "nDiaSources" FROM "DiaObjectLast"').fetchall()
        sources = connection.execute('SELECT "diaObjectId", count(*) FROM "DiaSource" GROUP BY 1').fetchall()
        forced = connection.execute('SELECT "diaObjectId", visit FROM "DiaForcedSource" ORDER BY visit').fetchall()
        spare = connection.execute('SELECT count(*) FROM "DiaForcedSourceWithdrawn"').fetchone()
        assert follow_merges(connection, published_schema(), names[1], 60_600.0) == 0
    assert held == sources == [(2**60, 4)]
    assert forced == [(2**60, v) for v in (1, 2, 3)]
    assert spare == (4,)
    client.close()


def test_months_that_were_archived_before_there_were_generations_come_back(postgres, tmp_path):
    admin = Database(postgres.uri.rsplit("/", 1)[0] + "/postgres")
    with admin.connect() as connection:
        connection.execute("CREATE DATABASE generations")
    database = Database(postgres.uri.rsplit("/", 1)[0] + "/generations")
    migrate(database.uri)
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, tmp_path, 60_000.0, count(1))
    survey.store(0)
    survey.store(1)
    survey.archive(0)
    survey.drop(0)
    client.close()
    migrate(database.uri, "0003")  # one row for each month, detached tables under the name of their month
    with database.connect() as connection:
        where = "SELECT state, to_regclass('\"DiaSource_' || %s || '\"') IS NOT NULL FROM \"ApdbArchive\" WHERE partition = %s"
        names = [label for label, _, _ in survey.months[:2]]
        found = [connection.execute(where, (label, f"DiaSource_{label}")).fetchone() for label in names]
    assert found == [("dropped", False), ("detached", True)]
    migrate(database.uri)
    survey.client = PostgresApdb(database.uri)
    survey.store(1)  # late
    survey.check()
    survey.check_restored()
    survey.client.close()
    with admin.connect() as connection:
        connection.execute("DROP DATABASE generations WITH (FORCE)")


def test_a_visit_is_looked_for_without_any_partition(database):
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, ".", 60_000.0, count(1))
    survey.store(0)
    with database.connect() as connection, connection.transaction():
        for partition in partitions(connection):
            connection.execute(f'LOCK TABLE "{partition.name}" IN ACCESS EXCLUSIVE MODE')
        # one that had to be opened would be waited for until the statement's time is up
        with Database(database.uri, statement_timeout_s=5).connect() as other, VisitUnitOfWork(other) as work:
            assert work.contains_visit(1, 0)
            assert not work.contains_visit(2, 0)
    o, s, f = rows(4, visit=7)
    client.store(at(60_001.0), o.iloc[:0], s.assign(visit=[7, 7, 8, 9]), f.assign(visit=10))
    assert [client.containsVisitDetector(v, 0) for v in (7, 8, 9, 10, 11)] == [True] * 4 + [False]
    client.close()


# A process that archives and drops, and ends by SIGKILL at a place or after a time.
_CHILD = """
import os, signal, sys, threading, time
from apdb import Database
from apdb.operate import archive
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
uri, folder, names, where, after = sys.argv[1], sys.argv[2], sys.argv[3].split(","), sys.argv[4], float(sys.argv[5])
progress = lambda rows: None
if where == "write": progress = die
elif where == "commit": archive.lock_partitions = die
elif where == "drop":
    check = archive.check_file
    archive.check_file = lambda *a: (check(*a), die())
with Database(uri).connect() as c:
    begun = time.monotonic()
    if where == "time": threading.Timer(after, die).start()
    for p in archive.old_partitions(c, 99000.0):
        if p.name in names: archive.archive_partition(c, p, folder, progress)
    for item in archive.archived(c):
        if item.state == "detached": archive.drop_archived(c, item)
    print(time.monotonic() - begun, flush=True)
os._exit(0)
"""


def _archive_in_a_child(survey, where, after=0.0):
    """Return the exit status and the seconds that it took, where it came to its end."""
    command = [
        sys.executable, "-c", _CHILD, survey.database.uri, survey.folder, ",".join(survey.names), where, str(after)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -9), done.stderr
    return done.returncode, float(done.stdout or "nan")


def _again(work):
    """Do what waits for the server to see that a client is dead."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return work()
        except DatabaseUnavailable:
            assert time.monotonic() < deadline


@pytest.mark.timeout(900)
def test_killed_in_the_middle_of_an_archive(database, tmp_path):
    client = PostgresApdb(database.uri)
    survey = Survey(database, client, tmp_path, 60_000.0, count(1))
    places, rng, seconds, killed = ["write", "commit", "drop"], np.random.default_rng(5), 0.5, 0
    for k in range(KILLS):
        survey.store(k % 3)
        survey.store(0)
        where = places[k] if k < len(places) else "time"
        code, took = _archive_in_a_child(survey, where, float(rng.uniform(0.0, seconds)))
        killed += code != 0
        seconds = seconds if np.isnan(took) else took
        survey.check()
        if k % 2:
            _again(lambda: survey.archive(0))
            survey.check()
            _again(survey.check_restored)
    assert killed >= min(KILLS, len(places))
    _again(survey.check_restored)
    client.close()
