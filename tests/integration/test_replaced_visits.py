"""Visits replaced through `DiaPipelineTask`: counts, means and objects as if the first processing had never been."""

import numpy as np
import pytest

from apdb import PostgresApdb, VisitUnitOfWork
from apdb.id_layouts import note_instrument
from apdb.labels import store_label
from apdb.operate.export import all_rows, latest_objects
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels, sky_locks
from association import DiaPipelineTask
from tasks import IdGenerator, make_task
from tests.integration.test_dia_pipeline import GRID, PACKER, image, sources
from tests.support.apdb_rows import at, rows


def process(database, e, table, now, release=0, replace=False):
    """Process a visit as the worker does; ids of its sources are those of the release."""
    table = table.assign(diaSourceId=PACKER.ids(*e.key, len(table), release))
    pixels = lock_pixels(polygon(*e.sky_corners(30)))
    with database.connect() as connection, sky_locks(connection, pixels), VisitUnitOfWork(connection) as work:
        if replace:
            work.remove_visit(*e.key, now)
        ids = IdGenerator(PACKER, *e.key, release)
        done = make_task(DiaPipelineTask, {}).run(table, e, e, e, unitOfWork=work, idGenerator=ids, processedMjdTai=now)
        work.commit()
    return done


def valid(database):
    rows = all_rows(database, "DiaSource")
    return rows[rows.timeWithdrawnMjdTai.isna()]


def test_a_founding_visit_replaced_twice(database):
    """Each time the objects have one source, of the newest processing; those of the processings before are closed."""
    e = image(1)
    process(database, e, sources(e, *GRID.T), 61400.0)
    for release in (1, 2):
        process(database, e, sources(e, *GRID.T), 61500.0 + release, release, True)
        objects = latest_objects(database)
        assert (objects.nDiaSources == 1).all() and len(objects) == 25
        assert set(objects.diaObjectId) == set(valid(database).diaObjectId)
        assert {PACKER.unpack(i).release for i in valid(database).diaSourceId} == {release}


def test_a_visit_with_forced_sources_replaced(database):
    """Forced sources have the keys of those before; with the same ids again, and with fewer detections, too."""
    first, second = image(1), image(2, "r")
    process(database, first, sources(first, *GRID.T), 61400.0)
    once = process(database, second, sources(second, *GRID.T, scatter=0.05), 61401.0)
    assert len(once.diaForcedSources) == 25
    for release, seen in ((1, 25), (2, 20), (2, 20)):
        done = process(
            database, second, sources(second, *GRID[:seen].T, scatter=0.05), 61500.0 + release, release, True
        )
        assert len(done.diaForcedSources) == seen
        objects = latest_objects(database).sort_values("firstDiaSourceMjdTai")
        assert sorted(objects.nDiaSources) == [1] * (25 - seen) + [2] * seen
        assert objects.r_psfFluxNdata.sum() == seen and (objects.g_psfFluxNdata == 1).all()
        forced = all_rows(database, "DiaForcedSource")
        assert len(forced) == seen and not forced.duplicated(["diaObjectId", "visit", "detector"]).any()
        assert {PACKER.unpack(i).release for i in forced.diaForcedSourceId} == {release}


def test_a_false_flux_that_is_replaced_leaves_no_mark(database):
    first, second = image(1), image(2, "r")
    process(database, first, sources(first, *GRID.T), 61400.0)
    before = latest_objects(database)
    process(database, second, sources(second, *GRID.T, flux=9e5, scatter=0.05), 61401.0)
    assert latest_objects(database).r_psfFluxMean.min() == 9e5
    done = process(database, second, sources(second, *GRID[:0].T), 61501.0, 1, True)
    assert len(done.associatedDiaSources) == 0
    after = latest_objects(database)
    names = [c for c in before.columns if not c.startswith("validity")]
    assert after[names].equals(before[names])
    assert all_rows(database, "DiaForcedSource").empty


def test_a_founding_visit_replaced_by_one_without_detections(database):
    e = image(1)
    process(database, e, sources(e, *GRID.T), 61400.0)
    process(database, e, sources(e, *GRID[:0].T), 61501.0, 1, True)
    assert latest_objects(database).empty and valid(database).empty
    with database.connect() as connection:
        assert connection.execute('SELECT count(*) FROM "DiaObjectLast"').fetchone() == (0,)
        closed = connection.execute('SELECT count(*), max("validityEndMjdTai") FROM "DiaObject"').fetchone()
        audit = connection.execute('SELECT action, count FROM "ApdbAudit" ORDER BY id').fetchall()
    assert closed == (25, 61501.0)
    assert audit == [("close validity", 25), ("replace visit", 25)]


@pytest.mark.parametrize("seen", [25, 10])
def test_replication_is_told(server, seen):
    """Withdrawn sources and closed objects as update records, new versions and forced sources as rows."""
    client = PostgresApdb(PostgresApdb.init_database(server.config.db_url, namespace="told", enable_replica=True))
    database, first, second = client.database, image(1), image(2)
    process(database, first, sources(first, *GRID.T), 61400.0)
    process(database, second, sources(second, *GRID.T), 61400.1)
    process(database, second, sources(second, *GRID[:seen].T), 61401.0, 1, True)
    replica = client.get_replica()
    chunks = [c.id for c in replica.getReplicaChunks()]
    records = [r.update_type for r in replica.getUpdateRecordChunks(chunks)]
    assert records.count("withdraw_diasource") == 25
    assert records.count("withdraw_diaforcedsource") == 25 - seen
    with database.connect() as connection:
        listed = connection.execute('SELECT count(*) FROM "DiaForcedSourceChunks"').fetchone()
        opened = connection.execute(
            'SELECT count(*) FROM "DiaObjectChunks" JOIN "DiaObject" USING ("diaObjectId", "validityStartMjdTai") WHERE '
            '"validityEndMjdTai" IS NULL'
        ).fetchone()
    assert (listed, opened) == ((seen,), (25,))
    client.close()


def test_a_replacement_sees_the_sky_without_the_visit(database):
    """A false detection beside a star drew its source away; replaced, the star gets it back."""
    first, second, third = image(1), image(2), image(3)
    x, y = GRID[:1].T
    process(database, first, sources(first, x, y), 61400.0)
    off = sources(second, np.array([x[0], x[0] + 3.5]), np.array([y[0], y[0]]))
    process(database, second, off, 61401.0)
    near = sources(third, np.array([x[0] + 2.0]), y)  # 0.4 arcsec from the star, 0.3 from the false detection
    process(database, third, near, 61402.0)
    process(database, second, sources(second, x, y), 61403.0, 1, True)
    process(database, third, near, 61404.0, 1, True)
    (star,) = latest_objects(database).itertuples()
    assert star.nDiaSources == 3


def test_a_label_stays_with_what_was_seen(database):
    """An id that comes again at the same place keeps its label, one that comes elsewhere does not, nor is that of a withdrawn source lost."""
    client = PostgresApdb(database.uri)
    o, s, f = rows(3)
    client.store(at(61001.0), o, s, f)
    with database.connect() as connection:
        for source in s.diaSourceId:
            store_label(connection, int(source), "somebody", "bogus")
    again = s.iloc[:2].assign(dec=s.dec + np.array([0.5, 1.5, 0.0]) / 3600)
    client.store(at(61002.0), o, again, f.assign(psfFlux=5.0), replace=True)
    with database.connect() as connection:
        kept = connection.execute('SELECT "diaSourceId" FROM "SourceLabel" ORDER BY 1').fetchall()
    assert kept == [(s.diaSourceId[0],), (s.diaSourceId[2],)]
    client.close()


def test_a_replacement_by_the_client_leaves_the_camera_as_noted(database):
    client = PostgresApdb(database.uri)
    o, s, f = rows(3)
    client.store(at(61001.0), o, s, f)
    with database.session() as connection:
        note_instrument(connection, 1, 0, "one")
    client.store(at(61001.0), o, s, f.assign(psfFlux=5.0), replace=True)
    with database.session() as connection:
        noted = connection.execute('SELECT instrument FROM "StoreLedger" WHERE visit = 1').fetchall()
        plan = connection.execute(
            'SET enable_seqscan = off; EXPLAIN SELECT 1 FROM "DiaForcedSourceWithdrawn" WHERE visit = 1 AND detector = 0'
        )
        assert plan.nextset() and "IDX_DiaForcedSourceWithdrawn_visit" in str(plan.fetchall())
    assert noted == [("one",)]
    client.close()
