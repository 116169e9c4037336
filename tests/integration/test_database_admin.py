"""Partitions, archive, advice, migrations and the ``alertprod apdb`` commands on a real database."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
import pytest
from typer.testing import CliRunner

from apdb import PostgresApdb
from apdb.errors import ApdbError, DatabaseUnavailable, VisitConflict
from apdb.operate.archive import (
    archive_partition,
    archived,
    drop_archived,
    old_partitions,
    read_archived,
)
from apdb.operate.health import advice
from apdb.operate.restore import restore_partition
from apdb.schema.partitions import ensure_months, missing_months, mjd_of, month_bounds, partitions
from migrations.run import migrate, pending
from service.commands.main import app
from tasks.errors import AlertProdError
from tests.support.apdb_rows import REGION, at, rows
from tests.support.databases import copied_database


@pytest.fixture
def three_months(database):
    """Three visits, each in a month of its own."""
    client = PostgresApdb(database.uri)
    o, _, _ = rows(50)
    for k in range(3):
        mjd = 61000.0 + 31 * k
        _, s, f = rows(50, visit=k + 1, seed=k)
        s.loc[3, "psfFlux"], s["glint_trail"] = np.nan, s.glint_trail.astype("boolean").mask(s.index == 5)
        client.store(at(mjd), o, s.assign(midpointMjdTai=mjd), f.assign(midpointMjdTai=mjd))
    yield client, o
    client.close()


def alertprod(uri, *arguments):
    """Run a command in this process: exit status, standard output, standard error."""
    done = CliRunner().invoke(app, ["apdb", *arguments], env={"ALERTPROD_DATABASE_URI": uri})
    if isinstance(done.exception, AlertProdError):
        return 1, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


def test_an_archived_month_comes_back_as_it_was(database, three_months, tmp_path):
    client, o = three_months
    before = client.getDiaSources(REGION, o.diaObjectId, at(61070.0)).sort_values("diaSourceId", ignore_index=True)
    with database.connect() as connection:
        old = [p for p in old_partitions(connection, 61010.0) if p.table == "DiaSource"]
        assert [p.name for p in old] == ["DiaSource_2025m11"]
        steps = []
        item = archive_partition(connection, old[0], str(tmp_path), steps.append)
        assert (item.rows, steps[-1]) == (50, 50)
        assert len(client.getDiaSources(REGION, o.diaObjectId, at(61070.0))) == 100  # detached
        kept = pd.concat(read_archived(item)).sort_values("diaSourceId", ignore_index=True)
        month = before[before.midpointMjdTai < 61010.0].reset_index(drop=True)
        for name in month.columns:
            pd.testing.assert_series_equal(kept[name], month[name], check_dtype=False)
        # a file that is not the one that was written costs no table
        file = Path(item.file)
        assert file.parent == tmp_path / "DiaSource"
        whole = file.read_bytes()
        file.write_bytes(whole[:-100])
        with pytest.raises(ApdbError, match="checksum"):
            drop_archived(connection, item)
        file.write_bytes(whole)
        drop_archived(connection, item)
        assert [a.state for a in archived(connection)] == ["dropped"]
        with pytest.raises(ApdbError, match="not detached"):
            drop_archived(connection, archived(connection)[0])
        assert restore_partition(connection, archived(connection)[0]) == 50
        assert archived(connection) == []
    after = client.getDiaSources(REGION, o.diaObjectId, at(61070.0)).sort_values("diaSourceId", ignore_index=True)
    pd.testing.assert_frame_equal(after, before)


def test_a_month_in_use_is_left_alone(database, three_months, tmp_path):
    with database.connect() as connection, database.connect(autocommit=False) as other:
        other.execute('UPDATE "DiaSource" SET snr = 1 WHERE visit = 1')
        old = next(p for p in old_partitions(connection, 61010.0) if p.table == "DiaSource")
        with pytest.raises(DatabaseUnavailable, match="in use"):
            archive_partition(connection, old, str(tmp_path))
        other.rollback()
        assert old.name in {p.name for p in partitions(connection)}
        assert archived(connection) == []


def test_partitions_are_listed_with_bounds_and_sizes(database, three_months):
    with database.connect() as connection:
        found = [p for p in partitions(connection) if p.table == "DiaForcedSource"]
    label, begin, end = month_bounds(61000.0)
    assert (found[0].name, found[0].begin_mjd, found[0].end_mjd) == (f"DiaForcedSource_{label}", begin, end)
    assert math.isnan(found[-1].begin_mjd)
    assert all(p.table_bytes + p.index_bytes > 0 for p in found)
    assert [a.end_mjd for a in found[:-2]] == [b.begin_mjd for b in found[1:-1]]  # no gap between months


def test_advice_names_what_is_wrong_and_what_helps(database):
    client = PostgresApdb(database.uri)
    o, _, _ = rows(12_000)
    for k in range(3):
        client.store(at(61000.0 + k), o)
    client.close()
    with database.connect() as connection:
        ensure_months(connection, 61000.0, 0)
        connection.execute("SELECT pg_stat_force_next_flush()")
        now = datetime(2031, 5, 20, tzinfo=UTC)
        missing = "no partition for this month (2031m05) and next month (2031m06)"
        assert {a.finding for a in advice(connection, now) if a.table == "DiaSource"} == {missing}
        ensure_months(connection, mjd_of(now), 0)
        assert {a.finding for a in advice(connection, now) if a.table == "DiaSource"} == {
            "no partition for next month (2031m06)"
        }
        found = {(a.table, a.command.split(" ")[0]) for a in advice(connection)}
        assert ("DiaObject", "VACUUM") in found
        connection.execute('VACUUM ANALYZE "DiaObject"')
        connection.execute('VACUUM ANALYZE "DiaObjectLast"')
        connection.execute("SELECT pg_stat_force_next_flush()")
        left = {(a.table, a.command.split(" ")[0]) for a in advice(connection)}
        assert ("DiaObject", "VACUUM") not in left


def test_the_commands(database, tmp_path):
    code, out, _ = alertprod(database.uri, "create", "--json")
    assert code == 0
    assert json.loads(out)[0]["partitionsMade"] == 8
    assert alertprod(database.uri, "create")[0] == 0  # again is fine
    code, out, _ = alertprod(
        database.uri, "partitions", "create", "--at", "61000", "--ahead", "1", "--dry-run", "--json"
    )
    assert [r["partition"] for r in json.loads(out)][:2] == ["DiaSource_2025m11", "DiaForcedSource_2025m11"]
    with database.connect() as connection:
        assert missing_months(connection, 61000.0, 0) == ["DiaSource_2025m11", "DiaForcedSource_2025m11"]
    client = PostgresApdb(database.uri)
    o, s, f = rows(20)
    client.store(at(58000.0), o, s.assign(midpointMjdTai=58000.0), f.assign(midpointMjdTai=58000.0))
    client.close()
    code, out, _ = alertprod(database.uri, "archive", "--to", str(tmp_path), "--dry-run", "--json")
    assert sorted(r["partition"] for r in json.loads(out)) == ["DiaForcedSource_2017m09", "DiaSource_2017m09"]
    assert list(tmp_path.iterdir()) == []
    code, out, _ = alertprod(database.uri, "archive", "--to", str(tmp_path), "--drop", "--json")
    assert [r["action"] for r in json.loads(out)] == ["archived"] * 2 + ["dropped"] * 2
    code, out, _ = alertprod(database.uri, "status", "--json")
    found = json.loads(out)
    assert found["versions"]["version:schema"] == "10.0.0"
    assert {a["state"] for a in found["archive"]} == {"dropped"}
    assert {t["table"] for t in found["tables"]} >= {"DiaObject", "DiaSource", "VisitLedger"}
    code, out, _ = alertprod(database.uri, "restore", "DiaSource_2017m09", "--json")
    assert json.loads(out) == [{"partition": "DiaSource_2017m09", "rows": 20}]
    code, out, err = alertprod(database.uri, "restore", "DiaSource_1999m01")
    assert code != 0
    assert "not in the archive" in err
    assert "Traceback" not in err
    code, out, _ = alertprod(database.uri, "vacuum-advice", "--json")
    assert code == 0
    assert isinstance(json.loads(out), list)
    code, out, _ = alertprod(database.uri, "partitions", "list", "--json")
    assert len(json.loads(out)) >= 10
    code, out, _ = alertprod(database.uri, "migrate", "--dry-run", "--json")
    assert json.loads(out) == []


@pytest.fixture
def empty_database(postgres):
    """The URI of a database without tables."""
    with copied_database(f"{postgres.uri.rsplit('/', 1)[0]}/template1") as uri:
        yield uri


def test_migrations_say_what_they_will_do_and_give_way_to_work(empty_database):
    every = [
        "0001",
        "0002",
        "0003",
        "0004",
        "0005",
        "0006",
        "0007",
        "0008",
        "0009",
        "0010",
        "0011",
        "0012",
        "0013",
        "0014",
        "0015",
    ]
    assert [(s["revision"], s["direction"]) for s in pending(empty_database)] == [(r, "up") for r in every]
    migrate(empty_database, "0001")
    assert [s["revision"] for s in pending(empty_database)] == every[1:]
    with psycopg.connect(empty_database) as busy:
        busy.execute('SELECT count(*) FROM "DiaSource"')  # a reader that stays
        with pytest.raises(Exception, match="lock timeout"):
            migrate(empty_database)
    assert [s["revision"] for s in pending(empty_database)] == every[1:]  # nothing half done
    migrate(empty_database)
    assert pending(empty_database) == []
    assert [(s["revision"], s["direction"]) for s in pending(empty_database, "0001")] == [
        (r, "down") for r in every[:0:-1]
    ]
    migrate(empty_database, "0001")
    migrate(empty_database)


def test_a_visit_that_was_withdrawn_before_the_migration_can_be_replaced_after_it(empty_database):
    """Rows of the old schema: forced sources marked as withdrawn hold their keys; going back puts them there again."""
    migrate(empty_database)
    client = PostgresApdb(empty_database)
    o, s, f = rows(10)
    client.store(at(61001.0), o, s, f)
    migrate(empty_database, "0003")
    with psycopg.connect(empty_database, autocommit=True) as c:
        c.execute('UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = 61002')
        c.execute('UPDATE "DiaForcedSource" SET "timeWithdrawnMjdTai" = 61002')
    migrate(empty_database)
    again = s.assign(diaSourceId=s.diaSourceId + 500)
    client.store(at(61003.0), o, again, f.assign(psfFlux=5.0), replace=True)
    with psycopg.connect(empty_database, autocommit=True) as c:
        count = 'SELECT count(*) FROM "{}" WHERE "psfFlux" {} 5'
        assert c.execute(count.format("DiaForcedSource", "=")).fetchone() == (10,)
        assert c.execute(count.format("DiaForcedSourceWithdrawn", "<>")).fetchone() == (10,)
        assert c.execute('SELECT count(*) FROM "DiaSource" WHERE "timeWithdrawnMjdTai" IS NULL').fetchone() == (10,)
    client.close()
    migrate(empty_database, "0003")
    with psycopg.connect(empty_database, autocommit=True) as c:
        assert c.execute('SELECT count(*) FROM "DiaForcedSource"').fetchone() == (10,)
        c.execute('TRUNCATE "StoreLedger"')  # rows that no ledger knows: there is a mark for them, which stays
    for revision in ("head", "0003", "head"):
        migrate(empty_database, revision)


def test_an_id_that_was_stored_before_the_migration_is_stored_once(empty_database):
    """A doubled id at another time, which no key of the tables refuses; also of rows that no entry of the ledger knows."""
    migrate(empty_database)
    client = PostgresApdb(empty_database)
    o, s, f = rows(10)
    client.store(at(61001.0), o, s, f)
    migrate(empty_database, "0003")  # without the ranges
    migrate(empty_database)
    _, s2, f2 = rows(10, visit=2, seed=2)
    s2, f2 = s2.assign(midpointMjdTai=61002.5), f2.assign(midpointMjdTai=61002.5)
    free = f2.assign(diaForcedSourceId=f2.diaForcedSourceId + 10**6)
    doubled = free.assign(diaForcedSourceId=free.diaForcedSourceId.where(free.index != 4, f.diaForcedSourceId[4]))
    mixed = s2.assign(diaSourceId=s2.diaSourceId.where(s2.index != 3, s.diaSourceId[3]))
    for sources, forced, name in ((mixed, free, "DiaSource"), (s2, doubled, "DiaForcedSource")):
        with pytest.raises(VisitConflict, match=f"{name}.*which is that of a source of visit 1, detector"):
            client.store(at(61003.0), o, sources, forced)
    migrate(empty_database, "0003")
    with psycopg.connect(empty_database, autocommit=True) as c:
        c.execute('TRUNCATE "StoreLedger"')
    for revision in ("head", "0012", "head"):
        migrate(empty_database, revision)
    with pytest.raises(VisitConflict, match="which is that of a source of visit 1, detector"):
        client.store(at(61003.0), o, mixed, free)
    client.store(at(61003.0), o, s2, free)
    client.close()
    with psycopg.connect(empty_database, autocommit=True) as c:
        ids = 'SELECT count(*), count(DISTINCT "diaSourceId") FROM "DiaSource"'
        assert c.execute(ids).fetchone() == (20, 20)
