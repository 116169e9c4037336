"""What was taken back, and what of it comes again: with months in the archive, by single rows, by other ways than the service's."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psycopg
import pytest
from lsst.dax.apdb import DiaSourceId
from lsst.dax.apdb.apdbAdmin import DiaForcedSourceLocator, DiaObjectLocator, DiaSourceLocator

from alerts import AlertArchive
from apdb import PostgresApdb, VisitUnitOfWork
from apdb.errors import ApdbError, DatabaseUnavailable, NotFound, VisitConflict
from apdb.operate.archive import archive_partition, archived, drop_archived, old_partitions
from apdb.operate.restore import restore_partition
from apdb.queue import outbox
from apdb.schema.partitions import month_bounds
from apdb.visit.repair import renew_marked
from apdb.visit.withdraw import withdraw_visit
from tasks.lacking import SOURCE_FLAGS
from tasks.waiting import wait_until
from tests.integration.test_database_admin import alertprod
from tests.support.apdb_rows import at, rows
from tests.support.histories import Survey

EARLY, GOOD = 60_300.0, 61_200.0  # MJD: a month that is archived, and one that stays
NOW = 61_400.0
BEGIN = 2**60  # the first object


@pytest.fixture
def client(database):
    """A client of an empty database."""
    with_tables = PostgresApdb(database.uri)
    yield with_tables
    with_tables.close()


def frames(visit, mjd, n=2, **objects):
    """Rows of a visit, all valid: n objects, a source and a forced source of each."""
    o, s, f = rows(n, visit=visit, seed=visit)
    flux = np.random.default_rng(visit).normal(900.0, 50.0, n).astype(np.float32)
    when = {"midpointMjdTai": mjd, "timeWithdrawnMjdTai": np.nan, "psfFlux": flux, "psfFluxErr": np.float32(9 + visit)}
    return (
        o.assign(**objects),
        s.assign(ssObjectId=0, parentDiaSourceId=0, **when, **dict.fromkeys(SOURCE_FLAGS, False)),
        f.assign(**when),
    )


def ask(database, query, *values):
    with psycopg.connect(database.uri, autocommit=True) as c:
        cursor = c.execute(query, values)
        return cursor.fetchall() if cursor.description else []


def archive(database, folder, mjd, drop=True):
    """Archive the month of a time."""
    label, done = month_bounds(mjd)[0], []
    with database.connect() as connection:
        for partition in old_partitions(connection, 99_000.0):
            if partition.name.endswith(label):
                done.append(archive_partition(connection, partition, str(folder)))
                if drop:
                    drop_archived(connection, done[-1])
    assert len(done) == 2
    return done


def restore(database):
    with database.connect() as connection:
        for name in {a.partition for a in archived(connection)}:
            restore_partition(connection, next(a for a in archived(connection) if a.partition == name))


def store_history(client, bogus):
    """Two objects seen twice in the early month, once well, and once at another time where nothing was."""
    times = [EARLY, EARLY + 1, GOOD, bogus]
    for k, mjd in enumerate(times, 1):
        seen = times[:k]
        client.store(
            at(mjd), *frames(k, mjd, nDiaSources=k, firstDiaSourceMjdTai=min(seen), lastDiaSourceMjdTai=max(seen))
        )


TIMES = (
    'SELECT "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai" FROM "DiaObjectLast" ORDER BY "diaObjectId"'
)


@pytest.mark.parametrize("bogus", [61_300.0, 60_200.0])
def test_times_of_an_object_are_those_of_its_valid_sources_in_archived_months_too(client, database, tmp_path, bogus):
    store_history(client, bogus)
    for dropped in (False, True):  # detached alone, and dropped after it came back
        archive(database, tmp_path, EARLY, drop=dropped)
        if not dropped:
            restore(database)
    assert withdraw_visit(database, 4, 0, NOW, "a satellite") == 4
    assert ask(database, TIMES) == [(3, EARLY, GOOD)] * 2
    # the window of the means ends at the good source, which is alone in it
    flux, mean, forced = ask(
        database,
        'SELECT s."psfFlux", v."r_psfFluxMean", abs(v."r_fpFluxMean" / f."psfFlux" - 1) FROM "DiaObjectLast" o JOIN "DiaObject" v '
        'USING ("diaObjectId", "validityStartMjdTai") JOIN "DiaSource" s USING ("diaObjectId") JOIN "DiaForcedSource" f USING ("diaObjectId") WHERE s.visit = 3 AND f.visit = 3 LIMIT 1',
    )[0]
    assert mean == flux and forced < 1e-6
    restore(database)
    assert ask(database, 'SELECT * FROM "ArchivedSources"') == []
    assert withdraw_visit(database, 2, 0, NOW + 1, "another") == 4
    assert ask(database, TIMES) == [(2, EARLY, GOOD)] * 2


def test_objects_with_marks_are_made_anew_beside_an_archive_as_without(client, database, tmp_path):
    """Withdrawn sources are no archived ones: a month of another object is in the archive."""
    for k in range(1, 5):
        client.store(at(GOOD), *frames(k, GOOD + k, nDiaSources=k, lastDiaSourceMjdTai=GOOD + k))
    _, s, _ = frames(9, EARLY, n=3)
    client.store(at(NOW), frames(9, EARLY, n=3)[0].iloc[2:], s.iloc[2:])
    archive(database, tmp_path, EARLY)
    ask(database, 'UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = 61300 WHERE visit > 1 OR "diaObjectId" = %s', BEGIN)
    report = renew_marked(database, NOW)
    assert (report.objects, report.closed) == (2, 1)
    assert ask(database, 'SELECT "diaObjectId", "nDiaSources", "lastDiaSourceMjdTai" FROM "DiaObjectLast" ORDER BY 1') == [
        (BEGIN + 1, 1, GOOD + 1), (BEGIN + 2, *ask(database, 'SELECT "nDiaSources", "lastDiaSourceMjdTai" FROM "DiaObject" '
        'WHERE "diaObjectId" = %s', BEGIN + 2)[0])]  # fmt: skip


@pytest.mark.parametrize("long", [False, True])
def test_objects_are_made_anew_from_times_that_can_be_real(client, database, long):
    """One source has a time of the next century, another one is marked as withdrawn."""
    first = GOOD - (500 if long else 50)
    for k, mjd in enumerate((first, GOOD, GOOD + 1, 99_000.0), 1):
        client.store(at(mjd), *frames(k, mjd, nDiaSources=k, firstDiaSourceMjdTai=first, lastDiaSourceMjdTai=mjd))
    ask(database, 'UPDATE "DiaSource" SET "timeWithdrawnMjdTai" = 61300 WHERE visit = 3')
    assert renew_marked(database, NOW, limits=(50_000.0, NOW + 2.0)).renewed == 2
    assert ask(database, TIMES) == [(3, first, GOOD)] * 2
    means = ask(
        database,
        'SELECT "r_psfFluxNdata", "r_psfFluxMean" FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL ORDER BY "diaObjectId"',
    )
    seen = [2] if long else [1, 2]
    flux = np.array([frames(k, GOOD)[1].psfFlux for k in seen])
    weight = np.array([1 / np.float64(9 + k) ** 2 for k in seen])
    assert [n for n, _ in means] == [len(seen)] * 2
    np.testing.assert_allclose([m for _, m in means], weight @ flux / weight.sum(), rtol=1e-6)


def test_a_month_that_an_older_version_archived_is_noted_or_named(client, database, tmp_path):
    """Nothing is taken back while its file cannot be read; then it is noted, under the object that stayed in a merge."""
    store_history(client, 61_300.0)
    items = archive(database, tmp_path, EARLY)
    with database.connect() as connection:
        connection.execute('TRUNCATE "ArchivedSources"')
        connection.execute('UPDATE "ApdbArchive" SET noted = false')
    (file,) = (a.file for a in items if a.table == "DiaSource")
    shutil.move(file, f"{file}.away")
    with pytest.raises(ApdbError, match=r"DiaSource_2023m12 is not known.*'alertprod apdb renew'"):
        withdraw_visit(database, 4, 0, NOW, "a satellite")
    shutil.move(f"{file}.away", file)
    assert alertprod(database.uri, "renew", "--json")[0] == 0
    assert ask(database, 'SELECT "diaObjectId", count, "firstMjdTai", "lastMjdTai" FROM "ArchivedSources" ORDER BY 1') == [
        (BEGIN, 2, EARLY, EARLY + 1), (BEGIN + 1, 2, EARLY, EARLY + 1)]  # fmt: skip
    withdraw_visit(database, 4, 0, NOW, "a satellite")
    assert ask(database, TIMES) == [(3, EARLY, GOOD)] * 2
    with database.connect() as connection:
        connection.execute('TRUNCATE "ArchivedSources"')
        connection.execute('UPDATE "ApdbArchive" SET noted = false')
        connection.execute(
            "INSERT INTO \"ApdbAudit\" (action, \"tableName\", count, detail) VALUES ('merge objects', 'DiaObject', 1, %s::jsonb)",
            (f"[[{BEGIN + 1}, {BEGIN}]]",),
        )
        connection.execute('DELETE FROM "DiaObjectLast" WHERE "diaObjectId" = %s', (BEGIN + 1,))
    renew_marked(database, NOW + 1)
    assert ask(database, 'SELECT "diaObjectId", sum(count) FROM "ArchivedSources" GROUP BY 1') == [(BEGIN, 4)]


VALID = 'SELECT "diaSourceId" FROM "DiaSource" WHERE "timeWithdrawnMjdTai" IS NULL ORDER BY 1'


def ids_of(sources):
    return [(int(i),) for i in sources.diaSourceId]


def test_rows_of_which_one_is_withdrawn_are_no_repetition(client, database):
    o, s, f = frames(1, GOOD, n=4, nDiaSources=1, firstDiaSourceMjdTai=GOOD, lastDiaSourceMjdTai=GOOD)
    client.store(at(GOOD), o, s, f)
    client.withdrawDiaSources([DiaSourceId.from_named_tuple(r) for r in s.iloc[:1].itertuples()])
    with pytest.raises(VisitConflict, match="some of them are withdrawn or deleted since"):
        client.store(at(GOOD), o, s, f)
    client.store(at(GOOD), o, s, f, replace=True)
    assert ask(database, VALID) == ids_of(s)
    versions = 'SELECT count(*) FROM "DiaObject"'
    before = ask(database, versions)
    client.store(at(GOOD), o, s, f, replace=True)  # now they are
    client.store(at(GOOD), o, s, f)
    assert ask(database, versions) == before


def test_deleted_rows_can_be_stored_again(client, database):
    o, s, f = frames(1, GOOD, n=4)
    client.store(at(GOOD), o, s, f)

    def delete(n):
        client.admin.delete_records(
            [DiaObjectLocator(r.diaObjectId, r.ra, r.dec) for r in o[:n].itertuples()],
            [DiaSourceLocator(r.diaSourceId, r.diaObjectId, r.ra, r.dec, GOOD) for r in s[:n].itertuples()],
            [DiaForcedSourceLocator(r.diaObjectId, 1, 0, r.ra, r.dec, GOOD) for r in f[:n].itertuples()],
        )

    delete(1)
    assert client.containsVisitDetector(1, 0)
    with pytest.raises(VisitConflict, match="another content"):
        client.store(at(GOOD), o, s, f)
    client.store(at(GOOD), o, s, f, replace=True)
    assert ask(database, VALID) == ids_of(s)
    delete(4)
    assert not client.containsVisitDetector(1, 0)
    client.store(at(GOOD), o, s, f)
    assert ask(database, VALID) == ids_of(s) and client.containsVisitDetector(1, 0)


def test_a_deleted_row_is_taken_off_the_store_that_it_came_with(client, database):
    """Of two stores of one visit; the ids of the later one lie between those of the earlier one."""
    o, s, f = frames(1, GOOD, n=4)
    for part in ([0, 3], [1, 2]):
        client.store(at(GOOD), *(frame.iloc[part] for frame in (o, s, f)))
    gone = [next(frame.iloc[[1]].itertuples()) for frame in (o, s, f)]
    client.admin.delete_records(
        [DiaObjectLocator(gone[0].diaObjectId, gone[0].ra, gone[0].dec)],
        [DiaSourceLocator(gone[1].diaSourceId, gone[1].diaObjectId, gone[1].ra, gone[1].dec, GOOD)],
        [DiaForcedSourceLocator(gone[2].diaObjectId, 1, 0, gone[2].ra, gone[2].dec, GOOD)],
    )
    numbers = ask(
        database, 'SELECT "nSources", "nForcedSources" FROM "StoreLedger" WHERE visit = 1 ORDER BY "storedAt"'
    )
    assert numbers == [(2, 2), (1, 1)]


@pytest.mark.parametrize("held", ["before", "meanwhile"])
def test_alerts_that_are_held_while_their_visit_is_taken_back_are_dropped(database, tmp_path, held):
    """The relay sets a broken file aside: before the visit is read as it was, or when it is taken back and not committed."""
    survey = Survey(database, archive=AlertArchive(tmp_path))
    for unit in ((0, 0), (1, 0)):
        survey.store(unit)
    with database.connect() as c:
        outbox.assign_order(c)
    ((order,),) = ask(database, 'SELECT "publishOrder" FROM "AlertOutbox" WHERE visit = 1')

    def hold():
        with database.connect() as c:
            outbox.hold(c, order, "broken")

    def take_back(between):
        with database.connect() as connection, VisitUnitOfWork(connection) as work:
            assert work.contains_visit(1, 0)
            if held == "before":
                between()
            work.remove_visit(1, 0, survey.now + 1)
            if held == "meanwhile":
                between()
            work.commit()

    def begin_to_hold():
        holding.append(pool.submit(hold))
        wait_until(lambda: holding[0].done() or ask(database, _WAITS) != [(0,)], 30)

    holding = []
    with ThreadPoolExecutor(1) as pool:
        if held == "before":
            with pytest.raises(DatabaseUnavailable, match="must be repeated"):
                take_back(hold)
            take_back(lambda: None)
        else:
            take_back(begin_to_hold)
            holding[0].result(30)
    assert ask(database, 'SELECT "droppedAt" IS NOT NULL FROM "AlertOutbox" WHERE visit = 1') == [(True,)]
    assert ask(database, 'SELECT count(*) FROM "AlertCorrection" WHERE visit = 1') == [(0,)]


_WAITS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_rows_of_a_visit_that_was_withdrawn_are_stored_again_each_id_once(client, database):
    """Stored by a client: no message ever came of it."""
    o, s, f = frames(1, GOOD, n=4)
    with pytest.raises(NotFound, match="never came"):
        withdraw_visit(database, 1, 0, NOW, "why")
    for later in (0.0, 0.0, 40.0):  # also at a corrected time, in another month
        when = {"midpointMjdTai": GOOD + later}
        s, f = s.assign(**when), f.assign(**when)
        client.store(at(GOOD), o, s, f)
        client.store(at(GOOD), o, s, f)
        found = ask(database, 'SELECT "diaSourceId", "midpointMjdTai" FROM "DiaSource" ORDER BY 1')
        assert found == [(*i, GOOD + later) for i in ids_of(s)]
        assert withdraw_visit(database, 1, 0, NOW + later, "why") == 8
        assert ask(database, VALID) == ask(database, TIMES) == []
        assert not client.containsVisitDetector(1, 0)
    with pytest.raises(VisitConflict, match="that of a source of visit 1"):  # they are no other visit's
        client.store(at(GOOD), o, s.assign(visit=2), f.assign(visit=2, diaForcedSourceId=f.diaForcedSourceId + 50))
    client.store(at(GOOD), o, s, f, replace=True)
    assert ask(database, VALID) == ids_of(s)


def test_what_a_replacement_left_withdrawn_is_stored_again_once(client, database):
    """The ids of the first processing come again after the second one was withdrawn."""
    o, s, f = frames(1, GOOD, n=4)
    client.store(at(GOOD), o, s, f)
    client.store(at(GOOD + 1), o, s.assign(diaSourceId=s.diaSourceId + 1000), f, replace=True)
    withdraw_visit(database, 1, 0, NOW, "why")
    moved = s.assign(midpointMjdTai=GOOD + 0.5)
    client.store(at(GOOD), o, moved, f)
    assert ask(database, VALID) == ids_of(s)
    assert ask(database, 'SELECT count(*) FROM "DiaSource"') == [(8,)]


def test_rows_in_the_archive_are_not_taken_back_for_others_that_are_here(client, database, tmp_path):
    """Stored with a wrong time first, which is here still; replaced; and the month of the replacement archived."""
    o, s, f = frames(1, GOOD)
    client.store(at(GOOD), o, s, f)
    right = {"midpointMjdTai": EARLY}
    now_right = s.assign(diaSourceId=s.diaSourceId + 1000, **right), f.assign(**right)
    client.store(at(GOOD + 1), o, *now_right, replace=True)
    archive(database, tmp_path, EARLY)
    later = s.assign(diaSourceId=s.diaSourceId + 2000), f
    for take_back in (
        lambda: withdraw_visit(database, 1, 0, NOW, "why"),
        lambda: client.store(at(NOW), o, *later, replace=True),
        # the same ids as those in the archive: restored, the later ones would take their place
        lambda: client.store(at(NOW), o, now_right[0].assign(psfFlux=1.0, midpointMjdTai=GOOD), f),
        lambda: client.store(at(NOW), o, now_right[0].assign(psfFlux=1.0), f.assign(**right)),
    ):
        with pytest.raises(
            ApdbError, match=r"4 rows that are stored of it are in the archive.*'alertprod apdb restore'"
        ):
            take_back()
    client.store(at(GOOD + 1), o, *now_right)  # the same again is no error
    restore(database)
    assert ask(database, VALID) == ids_of(now_right[0])
    assert withdraw_visit(database, 1, 0, NOW, "why") == 4
    assert ask(database, VALID) == []


@pytest.mark.parametrize("mjd", [EARLY, GOOD])
def test_a_withdrawn_visit_is_not_stored_anew_while_its_rows_are_in_the_archive(client, database, tmp_path, mjd):
    """Also at a corrected time, in a month that is here."""
    o, s, f = frames(1, EARLY)
    client.store(at(EARLY), o, s, f)
    withdraw_visit(database, 1, 0, NOW, "why")
    archive(database, tmp_path, EARLY)
    again = s.assign(midpointMjdTai=mjd), f.assign(midpointMjdTai=mjd)
    for replace in (False, True):
        with pytest.raises(ApdbError, match=r"in the archive.*'alertprod apdb restore"):
            client.store(at(mjd), o, *again, replace=replace)
    restore(database)
    client.store(at(mjd), o, *again)
    found = ask(database, 'SELECT "diaSourceId", "midpointMjdTai" FROM "DiaSource" ORDER BY 1')
    assert found == [(*i, mjd) for i in ids_of(s)]


def test_a_visit_that_no_store_was_entered_of_is_not_taken_back_from_the_archive(client, database, tmp_path):
    client.store(at(EARLY), *frames(1, EARLY))
    archive(database, tmp_path, EARLY)
    ask(database, 'TRUNCATE "StoreLedger"')
    ask(
        database,
        'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, "midpointMjdTai") VALUES '
        "(1, 0, 'x', '{}', 'x', 'done', %s), (2, 0, 'x', '{}', 'x', 'failed', %s)",
        EARLY,
        EARLY,
    )
    with pytest.raises(ApdbError, match="'alertprod apdb restore DiaForcedSource_2023m12'"):
        withdraw_visit(database, 1, 0, NOW, "why")
    with pytest.raises(ApdbError, match="'alertprod apdb restore DiaForcedSource_2023m12'"):
        client.store(at(NOW), *frames(1, GOOD), replace=True)
    assert withdraw_visit(database, 2, 0, NOW, "why") == 0  # it never stored anything
    restore(database)
    assert withdraw_visit(database, 1, 0, NOW, "why") == 4


def test_objects_follow_their_sources_to_others_and_to_bodies(client, database):
    """Three visits: objects 0 and 1 have three sources each, of which one is withdrawn; object 2 has one."""
    for k in (1, 2, 3):
        o, s, f = frames(k, GOOD + k, n=3, nDiaSources=k, firstDiaSourceMjdTai=GOOD + 1, lastDiaSourceMjdTai=GOOD + k)
        kept = slice(0, 3 if k == 1 else 2)
        client.store(at(GOOD + k), o[kept], s[kept], f[kept])
    _, first, _ = frames(1, GOOD + 1, n=3)
    _, last, _ = frames(3, GOOD + 3, n=3)
    ids = {(k, n): int(t.diaSourceId[n]) for k, t in ((1, first), (3, last)) for n in range(3)}
    named = {int(r.diaSourceId): DiaSourceId.from_named_tuple(r) for t in (first, last) for r in t.itertuples()}
    client.withdrawDiaSources([named[ids[3, 1]]])
    client.reassignDiaSourcesToDiaObjects({named[ids[3, 0]]: BEGIN + 1, named[ids[3, 1]]: BEGIN})
    state = 'SELECT "diaObjectId", "nDiaSources", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai" FROM "DiaObjectLast" ORDER BY 1'
    assert ask(database, state) == [
        (BEGIN, 2, GOOD + 1, GOOD + 2), (BEGIN + 1, 3, GOOD + 1, GOOD + 3), (BEGIN + 2, 1, GOOD + 1, GOOD + 1)]  # fmt: skip
    client.reassignDiaSources({ids[1, 1]: 77, ids[1, 2]: 78, ids[3, 1]: 79})
    assert ask(database, state) == [(BEGIN, 2, GOOD + 1, GOOD + 2), (BEGIN + 1, 2, GOOD + 2, GOOD + 3)]
    assert ask(database, 'SELECT "validityEndMjdTai" IS NULL FROM "DiaObject" WHERE "diaObjectId" = %s', BEGIN + 2) == [
        (False,)
    ]
    assert ask(database, 'SELECT count(*) FROM "DiaForcedSource" WHERE "diaObjectId" = %s', BEGIN + 2) == [(0,)]
    # means by their formula: weights are inverse squares of the errors
    for k, mean in ask(
        database, 'SELECT "diaObjectId", "r_psfFluxMean" FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL ORDER BY 1'
    ):
        flux, err = np.array(
            ask(
                database,
                'SELECT "psfFlux", "psfFluxErr" FROM "DiaSource" WHERE "diaObjectId" = %s AND "timeWithdrawnMjdTai" IS NULL',
                k,
            )
        ).T
        np.testing.assert_allclose(mean, np.sum(flux / err**2) / np.sum(1 / err**2), rtol=1e-6)
