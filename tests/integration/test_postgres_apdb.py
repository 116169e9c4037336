"""`PostgresApdb` beside the published SQL client on the same tables, and the traps that client falls into."""

import itertools
import threading

import numpy as np
import pandas as pd
import psycopg
import pytest
from lsst.dax.apdb import ApdbTables, DiaForcedSourceId, DiaObjectId, DiaSourceId, IncompatibleVersionError
from lsst.dax.apdb.sql import ApdbSql, ApdbSqlConfig
from lsst.sphgeom import Angle, Circle, HtmPixelization, LonLat, UnitVector3d

import apdb
from apdb import Database, PostgresApdb, VisitConflict, VisitUnitOfWork, columns_of
from apdb.client.base import FROZEN, InconsistentSchemaError
from apdb.errors import ApdbError, SchemaMismatch
from apdb.schema.setup import APDB_REPLICA_VERSION, APDB_SQL_VERSION
from apdb.sky.htm import polygon
from apdb.transactions import Transactions
from tests.support.apdb_rows import REGION, at, rows


def with_holes(frame, seed):
    """Put NULLs into a third of what may be NULL, with the nullable types that catalogues have."""
    rng, out = np.random.default_rng(seed), frame.copy()
    for c in columns_of(
        {"diaSourceId": "DiaSource", "validityStartMjdTai": "DiaObject"}.get(frame.columns[0], "DiaForcedSource")
    ):
        if (
            not c.nullable
            or c.name in ("diaObjectId", "validityEndMjdTai", "timeWithdrawnMjdTai", "ssObjectId")
            or c.name not in out
        ):
            continue
        hole = rng.random(len(out)) < 0.33
        if c.datatype in ("long", "int", "short"):
            out[c.name] = out[c.name].astype("Int64").mask(hole)
        elif c.datatype == "boolean":
            out[c.name] = out[c.name].astype("boolean").mask(hole)
        else:
            out[c.name] = out[c.name].mask(hole)
    return out


def equal(a, b, key):
    """Compare frames of the two clients: values and NULLs, whatever the types."""
    assert set(a.columns) == set(b.columns)
    a, b = (f.sort_values(key, ignore_index=True)[sorted(f.columns)] for f in (a, b))
    for name in a.columns:
        x, y = a[name], b[name]
        assert (x.isna().to_numpy() == y.isna().to_numpy()).all(), name
        held = ~x.isna().to_numpy()
        assert (x[held].astype(object).to_numpy() == y[held].astype(object).to_numpy()).all(), name


@pytest.mark.parametrize("writer", ["ours", "theirs"])
def test_both_clients_read_what_either_has_written(server, writer):
    o, s, f = rows(60)
    o, s, f = with_holes(o, 1), with_holes(s, 2), with_holes(f, 3)
    s["parentDiaSourceId"] = s["parentDiaSourceId"].replace(0, 7)  # 0 stands for none in our frames
    s["ssObjectId"] = pd.NA
    first = getattr(server, writer)
    first.store(at(61001.0), o.copy(), s.copy(), f.copy())
    first.store(at(61002.0), o.assign(nDiaSources=9).copy())
    ids = o.diaObjectId.tolist()
    for read, key in (
        (lambda c: c.getDiaObjects(REGION), "diaObjectId"),
        (lambda c: c.getDiaSources(REGION, ids, at(61002.0)), "diaSourceId"),
        (lambda c: c.getDiaSources(REGION, None, at(61002.0)), "diaSourceId"),
        (lambda c: c.getDiaForcedSources(REGION, ids, at(61002.0)), "diaObjectId"),
        (lambda c: c.getDiaObjectsForDedup(), "diaObjectId"),
    ):
        mine, other = read(server.ours), read(server.theirs)
        assert len(mine) == 60
        equal(mine, other, key)
        assert (mine.dtypes.astype(str) == other.dtypes.reindex(mine.columns).astype(str)).mean() > 0.5
    equal(
        server.ours.getDiaSources(REGION, ids, at(61002.0)), s[[c.name for c in columns_of("DiaSource")]], "diaSourceId"
    )
    for client in (server.ours, server.theirs):
        assert client.containsVisitDetector(1, 0)
        assert not client.containsVisitDetector(2, 0)
        assert client.countUnassociatedObjects() == 0
        assert (client.getDiaObjects(REGION).nDiaSources == 9).all()
    # each goes on where the other stopped
    second = server.theirs if writer == "ours" else server.ours
    second.store(at(61003.0), o.assign(nDiaSources=10).copy())
    assert (first.getDiaObjects(REGION).nDiaSources == 10).all()
    opened = server.raw.execute('SELECT count(*) FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL').fetchone()
    assert opened == (60,)
    second.withdrawDiaSources(
        [DiaSourceId.from_named_tuple(r) for r in s.iloc[:2].itertuples()], timeWithdrawn=at(61004.0)
    )
    assert (first.getDiaSources(REGION, ids, at(61002.0)).timeWithdrawnMjdTai == 61004.0).sum() == 2


def test_versions_are_those_of_the_published_client(server):
    assert str(ApdbSql.apdbImplementationVersion()) == APDB_SQL_VERSION
    assert str(server.ours.get_replica().apdbReplicaImplementationVersion()) == APDB_REPLICA_VERSION
    assert server.theirs.config.dia_object_index == "last_object_table"
    assert ApdbSql._frozen_parameters == FROZEN


def test_only_one_layout_of_tables_is_made(server):
    url = server.config.db_url
    same = PostgresApdb.init_database(
        url, namespace="same", dia_object_index="last_object_table", htm_level=20, prefix=None
    )
    assert same.dia_object_index == "last_object_table"
    with pytest.raises(ApdbError, match="baseline"):
        PostgresApdb.init_database(url, namespace="other", dia_object_index="baseline")
    with pytest.raises(ApdbError, match="no argument 'colour'"):
        PostgresApdb.init_database(url, namespace="other", colour=1)


def test_open_takes_uris_and_saved_configurations(server, tmp_path):
    server.config.save(str(tmp_path / "apdb.yaml"))
    for uri in (server.uri, str(tmp_path / "apdb.yaml")):
        client = apdb.open(uri)
        assert isinstance(client, PostgresApdb)
        client.close()
    lite = ApdbSql.init_database(f"sqlite:///{tmp_path}/a.sqlite3")
    lite.save(str(tmp_path / "lite.yaml"))
    assert isinstance(apdb.open(str(tmp_path / "lite.yaml")), ApdbSql)


def test_a_database_of_another_make_is_refused(server, tmp_path):
    with pytest.raises(SchemaMismatch, match="alertprod apdb create"):
        PostgresApdb(ApdbSqlConfig(db_url=server.uri, namespace="nothing here"))
    other = ApdbSql.init_database(server.config.db_url, namespace="theirs")
    with pytest.raises(SchemaMismatch, match="another client"):
        PostgresApdb(other)
    server.raw.execute("UPDATE metadata SET value = '11.0.0' WHERE name = 'version:schema'")
    with pytest.raises(IncompatibleVersionError, match=r"11\.0\.0"):
        PostgresApdb(server.config)


# The traps of the published SQL client, by number.


def test_trap_1_old_versions_are_closed_and_not_counted(server):
    o, _s, _f = rows(10)
    for step in range(3):
        server.ours.store(at(61001.0 + step), o.assign(nDiaSources=1))
    assert server.ours.countUnassociatedObjects() == 10
    ids = [DiaObjectId.from_named_tuple(r) for r in o.iloc[:4].itertuples()]
    assert server.ours.setValidityEnd(ids, at(61009.0), raise_on_missing_id=True) == 4
    assert server.ours.countUnassociatedObjects() == 6
    assert server.raw.execute('SELECT count(*) FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL').fetchone() == (6,)
    assert len(server.ours.getDiaObjects(REGION)) == 6


def test_trap_2_reassigned_sources_belong_to_no_object(server):
    o, s, _f = rows(10)
    server.ours.store(at(61001.0), o.assign(nDiaSources=1), s)
    server.ours.reassignDiaSources({int(s.diaSourceId[3]): 77})
    row = server.raw.execute('SELECT "diaObjectId", "ssObjectId" FROM "DiaSource" WHERE "ssObjectId" = 77').fetchone()
    assert row == (None, 77)
    assert server.ours.getDiaSources(REGION, [0], at(61001.0)).empty
    # the object has no source left: it is closed
    assert sorted(server.ours.getDiaObjects(REGION).diaObjectId) == o.diaObjectId.drop(3).tolist()
    back = server.ours.getDiaSources(REGION, None, at(61001.0)).set_index("diaSourceId")
    assert back.diaObjectId.isna().sum() == 1


def test_trap_3_no_store_scans_the_table_of_objects(server):
    """Plans on a table of 30 000 objects, as the planner chooses them (nothing switched off)."""
    o, _s, _f = rows(30_000)
    server.ours.store(at(61001.0), o)
    server.raw.execute("ANALYZE")
    ids = o.diaObjectId[:300].tolist()
    for query in (
        'SELECT * FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s)',
        'UPDATE "DiaObject" SET "validityEndMjdTai" = 1 WHERE "diaObjectId" = ANY(%s) AND "validityEndMjdTai" IS NULL',
        'DELETE FROM "DiaObjectLast" WHERE "diaObjectId" = ANY(%s)',
    ):
        plan = "\n".join(r[0] for r in psycopg.ClientCursor(server.raw).execute("EXPLAIN " + query, (ids,)))
        assert "Seq Scan" not in plan, plan
        assert "Index" in plan


def test_trap_4_the_same_visit_again_is_no_error_and_another_one_is_a_typed_error(server):
    o, s, f = rows(20)
    server.ours.store(at(61001.0), o, s, f)
    before = server.ours.tableRowCount()
    server.ours.store(at(61001.0), o, s, f)
    # order of rows and time of processing are not content
    server.ours.store(
        at(61001.0), o[::-1], s[::-1].assign(timeProcessedMjdTai=61005.0), f.sample(frac=1, random_state=1)
    )
    assert server.ours.tableRowCount() == before
    changed = s.assign(psfFlux=s.psfFlux + 1)
    with pytest.raises(VisitConflict, match="visit 1, detector 0"):
        server.ours.store(at(61001.0), o, changed, f)
    with pytest.raises(VisitConflict):  # also when the ids come with another time, hence in another partition
        server.ours.store(at(61051.0), o.iloc[:0], s.assign(midpointMjdTai=61050.0))
    assert server.ours.tableRowCount() == before
    server.ours.store(at(61003.0), o, changed.iloc[:15], f, replace=True)
    back = server.ours.getDiaSources(REGION, o.diaObjectId, at(61001.0)).sort_values("diaSourceId", ignore_index=True)
    assert back.psfFlux[:15].tolist() == changed.psfFlux[:15].tolist()
    assert back.timeWithdrawnMjdTai.notna().tolist() == [False] * 15 + [True] * 5
    # the five whose only source is withdrawn are closed, and their forced sources leave with them
    assert server.ours.tableRowCount() == {**before, "DiaObject": 35, "DiaObjectLast": 15, "DiaForcedSource": 15}
    assert (server.ours.getDiaObjects(REGION).nDiaSources == 1).all()
    audit = server.raw.execute('SELECT action, count FROM "ApdbAudit" ORDER BY id').fetchall()
    assert audit == [("close validity", 5), ("replace visit", 20)]


def test_trap_5_update_records_are_in_the_transaction_of_the_change(server):
    config = PostgresApdb.init_database(server.config.db_url, namespace="replicated", enable_replica=True)
    client = PostgresApdb(config)
    o, s, f = rows(5)
    client.store(at(61001.0), o, s, f)
    ids = [DiaObjectId.from_named_tuple(r) for r in o.itertuples()]
    server.raw.execute('ALTER TABLE replicated."ApdbUpdateRecordChunks" ADD CONSTRAINT never CHECK (update_order < 0)')
    with pytest.raises(psycopg.errors.CheckViolation):
        client.setValidityEnd(ids, at(61002.0))
    assert len(client.getDiaObjects(REGION)) == 5  # neither happened
    server.raw.execute('ALTER TABLE replicated."ApdbUpdateRecordChunks" DROP CONSTRAINT never')
    assert client.setValidityEnd(ids, at(61002.0)) == 5
    chunks = client.get_replica().getReplicaChunks()
    assert len(client.get_replica().getUpdateRecordChunks(c.id for c in chunks)) == 5
    client.close()


def test_trap_6_the_start_of_the_window_is_included_in_both_reads(server):
    o, s, f = rows(10)
    server.ours.store(at(61001.0), o, s, f)
    start = at(float(s.midpointMjdTai[0]))
    assert len(server.ours.getDiaSources(REGION, None, at(61500.0), start)) == 10
    assert len(server.ours.getDiaSources(REGION, o.diaObjectId, at(61500.0), start)) == 10
    assert len(server.ours.getDiaForcedSources(REGION, o.diaObjectId, at(61500.0), start)) == 10
    assert len(server.ours.getDiaForcedSources(REGION, None, at(61500.0), start)) == 10
    later = at(float(s.midpointMjdTai[0]) + 1e-6)
    assert server.ours.getDiaSources(REGION, None, at(61500.0), later).empty
    assert server.ours.getDiaSources(REGION, o.diaObjectId, at(61500.0), later).empty


@pytest.mark.parametrize("radius_deg", [0.001, 0.05, 2.0, 60.0])
def test_trap_7_a_cover_misses_nothing_and_has_at_most_64_ranges(server, radius_deg):
    rng = np.random.default_rng(3)
    o, _s, _f = rows(2000)
    ra, dec = rng.uniform(0, 360, 2000), np.degrees(np.arcsin(rng.uniform(-1, 1, 2000)))
    ra[:200], dec[:200] = rng.uniform(0, 360, 200), 90 - rng.uniform(0, 1.5 * radius_deg, 200)  # around the pole
    server.ours.store(at(61001.0), o.assign(ra=ra, dec=dec))
    center = UnitVector3d(LonLat.fromDegrees(0.0, 90.0))
    region = Circle(center, Angle.fromDegrees(radius_deg))
    inside = [
        region.contains(UnitVector3d(LonLat.fromDegrees(float(a), float(d)))) for a, d in zip(ra, dec, strict=True)
    ]
    found = server.ours.getDiaObjects(region)
    assert set(o.diaObjectId[inside]) <= set(found.diaObjectId)
    assert not found.diaObjectId.duplicated().any()
    assert len(HtmPixelization(20).envelope(region, 64)) <= 64


def test_trap_8_missing_numbers_are_null_and_come_back_with_nullable_types(server):
    o, s, _f = rows(4)
    s["diaObjectId"] = s["diaObjectId"].astype("Int64")
    s.loc[0, "diaObjectId"] = pd.NA
    s["psfFlux"] = [np.nan, 1.0, 2.0, 3.0]
    s["centroid_flag"] = pd.array([None, True, False, None], "boolean")
    server.ours.store(at(61001.0), o, s)
    raw = server.raw.execute(
        'SELECT count("diaObjectId"), count("psfFlux"), count(centroid_flag) FROM "DiaSource"'
    ).fetchone()
    assert raw == (3, 3, 2)
    back = server.ours.getDiaSources(REGION, None, at(61001.0)).sort_values("diaSourceId", ignore_index=True)
    assert back.diaObjectId.dtype == pd.Int64Dtype()
    assert back.centroid_flag.dtype == pd.BooleanDtype()
    assert back.centroid_flag.tolist() == [pd.NA, True, False, pd.NA]
    assert back.diaObjectId[1:].tolist() == s.diaObjectId[1:].tolist()  # beyond 2**53: no way through a float
    with pytest.raises(ApdbError, match=r"DiaSource\.ra must not be NULL; 1 of 4"):
        server.ours.store(at(61002.0), o, s.assign(ra=[1.0, 2.0, np.nan, 4.0]))
    with pytest.raises(ApdbError, match="does not fit short"):
        server.ours.store(at(61002.0), o, s.assign(detector=40_000))
    with pytest.raises(ApdbError, match="longer than 1 characters"):
        server.ours.store(at(61002.0), o, s.assign(band="rr"))


def test_trap_9_a_moving_object_is_where_it_is_now(server):
    o, _s, _f = rows(1)
    here, there = (
        polygon([149.98, 150.02, 150.02, 149.98], [1.98, 1.98, 2.02, 2.02]),
        polygon([150.03, 150.07, 150.07, 150.03], [1.93, 1.93, 1.97, 1.97]),
    )
    server.ours.store(at(61001.0), o.assign(ra=150.0, dec=2.0))
    server.ours.store(at(61002.0), o.assign(ra=150.05, dec=1.95))
    assert server.ours.getDiaObjects(here).empty
    assert len(server.ours.getDiaObjects(there)) == 1


# Order, concurrency, changes.


def test_visits_out_of_order_keep_intervals_right(server):
    o, _s, _f = rows(20)
    for k, mjd in enumerate((61005.0, 61001.0, 61003.0, 61001.0, 61009.0)):
        server.ours.store(at(mjd), o.assign(nDiaSources=k))
    versions = server.raw.execute(
        'SELECT "validityStartMjdTai", "validityEndMjdTai", "nDiaSources" FROM "DiaObject" WHERE "diaObjectId" = %s '
        'ORDER BY "nDiaSources"',
        (int(o.diaObjectId[0]),),
    ).fetchall()
    assert [v[2] for v in versions] == [0, 1, 2, 3, 4]
    assert versions[-1][:2] == (61009.0, None)
    for (start, end, _), (after, _, _) in itertools.pairwise(versions):
        assert start < end == after
    last = server.ours.getDiaObjects(REGION)
    assert (last.nDiaSources == 4).all()
    assert (last.validityStartMjdTai == 61009.0).all()


def test_moving_sources_keeps_the_counts_of_the_open_versions(server):
    o, s, _f = rows(4)
    server.ours.store(at(61001.0), o.assign(nDiaSources=1), s)
    server.ours.store(at(61002.0), o.assign(nDiaSources=1))
    move = {DiaSourceId.from_named_tuple(r): int(o.diaObjectId[0]) for r in s.iloc[1:3].itertuples()}
    server.ours.reassignDiaSourcesToDiaObjects(move)
    assert server.ours.getDiaObjects(REGION).nDiaSources.tolist() == [3, 1]  # two have none left, and are closed
    versions = server.raw.execute(
        'SELECT "validityEndMjdTai" IS NULL, array_agg("nDiaSources" ORDER BY "diaObjectId") '
        'FROM "DiaObject" GROUP BY 1 ORDER BY 1'
    ).fetchall()
    assert versions == [(False, [1] * 7), (True, [3, 1])]
    ghost = DiaSourceId(diaSourceId=5, ra=0.0, dec=0.0, midpointMjdTai=0.0)
    with pytest.raises(LookupError, match="5"):
        server.ours.reassignDiaSourcesToDiaObjects({ghost: int(o.diaObjectId[0])})
    with pytest.raises(LookupError, match="99"):
        server.ours.reassignDiaSourcesToDiaObjects(dict.fromkeys(move, 99))
    assert server.ours.getDiaObjects(REGION).nDiaSources.tolist() == [3, 1]
    lost = DiaForcedSourceId(diaObjectId=1, visit=1, detector=0, ra=0.0, dec=0.0, midpointMjdTai=0.0)
    with pytest.raises(LookupError):
        server.ours.withdrawDiaForcedSources([lost])


def test_rows_that_do_not_fit_leave_nothing_of_the_tables_before_them(server):
    o, s, f = rows(4)
    with pytest.raises(ApdbError, match=r"DiaForcedSource\.ra must not be NULL"):
        server.ours.store(at(61001.0), o, s, f.assign(ra=np.nan))
    assert set(server.ours.tableRowCount().values()) == {0}
    server.ours.store(at(61001.0), o, s, f)
    assert len(server.ours.getDiaObjects(REGION)) == 4


def test_new_months_get_their_partitions_and_rows_that_waited_move_there(server):
    o, s, _f = rows(10)
    server.raw.execute('ALTER TABLE "DiaSource" DETACH PARTITION "DiaSource_default"')
    server.raw.execute('ALTER TABLE "DiaSource" ATTACH PARTITION "DiaSource_default" DEFAULT')
    server.theirs.store(at(61001.0), o.copy(), s.copy())  # the published client makes no partitions
    where = 'SELECT DISTINCT tableoid::regclass::text FROM "DiaSource" ORDER BY 1'
    assert server.raw.execute(where).fetchall() == [('"DiaSource_default"',)]
    _, s2, f2 = rows(10, visit=2)
    server.ours.store(at(61002.0), o, s2, f2)
    assert server.raw.execute(where).fetchall() == [('"DiaSource_2025m11"',)]
    assert len(server.ours.getDiaSources(REGION, o.diaObjectId, at(61002.0))) == 20


def test_a_deadlock_is_tried_again(server):
    """Two transactions that take rows in opposite order: PostgreSQL ends one, which is then repeated."""
    server.raw.execute("CREATE TABLE pair (id int PRIMARY KEY, n int); INSERT INTO pair VALUES (1, 0), (2, 0)")
    work, first = Transactions(Database(server.uri)), threading.Barrier(2)
    waited, failures = set(), []

    def add(order):
        def both(connection):
            for k, row in enumerate(order):
                connection.execute("UPDATE pair SET n = n + 1 WHERE id = %s", (row,))
                if k == 0 and order not in waited:
                    waited.add(order)
                    first.wait(10)

        try:
            work.run(both)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=add, args=(o,)) for o in ((1, 2), (2, 1))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    work.close()
    assert failures == []
    assert server.raw.execute("SELECT n FROM pair ORDER BY id").fetchall() == [(2,), (2,)]
    row = server.raw.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None


def test_ids_that_are_missing_are_named(server):
    o, s, f = rows(4)
    ids = pd.array([int(s.diaSourceId[0]), None, *s.diaSourceId[2:].tolist()], dtype="Int64")
    for missing in (ids, ids.astype(object), ids.to_numpy(float, na_value=np.nan)):
        with pytest.raises(ApdbError, match=r"DiaSource.diaSourceId must not be NULL; 1 of 4"):
            server.ours.store(at(61001.0), o, s.assign(diaSourceId=missing), f)


def test_cassandra_configurations_go_to_the_published_client(tmp_path, monkeypatch):
    """No Cassandra runs here: that its configuration reaches the published factory is all that is shown."""
    pytest.importorskip("cassandra", reason="the Cassandra driver is not installed")
    from lsst.dax.apdb.cassandra import ApdbCassandraConfig

    ApdbCassandraConfig(contact_points=["127.0.0.1"], keyspace="x").save(str(tmp_path / "c.yaml"))
    seen = []
    monkeypatch.setattr("lsst.dax.apdb.apdb.make_apdb", lambda config: seen.append(config) or "theirs")
    assert apdb.open(str(tmp_path / "c.yaml")) == "theirs"
    assert isinstance(seen[0], ApdbCassandraConfig)


def test_what_the_service_stores_and_merges_is_replicated(server):
    """A unit of work enters keys and update records as the published interface does."""
    config = PostgresApdb.init_database(server.config.db_url, namespace="copied", enable_replica=True)
    client = PostgresApdb(config)
    o, s, f = rows(6)
    o = o.assign(nDiaSources=1)
    with Database(server.uri, namespace="copied").connect() as connection:
        with VisitUnitOfWork(connection) as work:
            work.store(61001.0, o, s, f)
            work.commit()
        ids = o.diaObjectId.tolist()
        with VisitUnitOfWork(connection) as work:
            assert work.merge_objects({ids[1]: ids[0], ids[2]: ids[0], 5: ids[0]}, 61002.0) == {ids[0]: 2}
            work.commit()
    replica = client.get_replica()
    chunks = [c.id for c in replica.getReplicaChunks()]
    assert len(chunks) == 2
    # the object that stays has a new version; of three forced sources of one image its own is left
    for table, count in ((ApdbTables.DiaObject, 7), (ApdbTables.DiaSource, 6), (ApdbTables.DiaForcedSource, 4)):
        assert len(replica.getTableDataChunks(table, chunks).rows()) == count
    kinds = [type(r).__name__ for r in replica.getUpdateRecordChunks(chunks)]
    assert (
        kinds
        == ["ApdbReassignDiaSourceToDiaObjectRecord"] * 2
        + ["ApdbWithdrawDiaForcedSourceRecord"] * 2
        + ["ApdbCloseDiaObjectValidityRecord"] * 2
    )
    assert client.getDiaObjects(REGION).nDiaSources.tolist() == [3, 1, 1, 1]
    client.close()


def test_tables_that_are_not_those_of_the_schema_are_refused_when_they_are_opened(server):
    def refused(match):
        with pytest.raises(InconsistentSchemaError, match=match) as caught:
            PostgresApdb(server.config)
        assert isinstance(caught.value, SchemaMismatch)
        return caught.value.code

    server.raw.execute('ALTER TABLE "DiaObject" RENAME COLUMN "g_psfFluxMean" TO other')
    assert refused(r"no column DiaObject\.g_psfFluxMean\.") == "schema_inconsistent"
    server.raw.execute('ALTER TABLE "DiaObject" RENAME COLUMN other TO "g_psfFluxMean"')
    server.raw.execute('ALTER TABLE "StoreLedger" ALTER COLUMN visit TYPE TEXT')
    refused(r"StoreLedger\.visit is text, not bigint\.")
    server.raw.execute('ALTER TABLE "StoreLedger" ALTER COLUMN visit TYPE BIGINT USING visit::bigint')
    PostgresApdb(server.config).close()
    server.raw.execute('DROP TABLE "DiaForcedSource" CASCADE')
    refused("no table DiaForcedSource")
    with pytest.raises(SchemaMismatch, match="no table DiaForcedSource"):
        Database(server.uri).check_schema()
    server.raw.execute("DELETE FROM metadata WHERE name = 'version:schema'")
    refused("version:schema")
