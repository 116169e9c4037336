"""Duplicate objects on a real database: who stays, whose sources move, counts, statistics, validity, concurrency."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import pytest
from lsst.dax.apdb import DiaSourceId

from apdb import PostgresApdb
from association import find_duplicates
from association.deduplicate import deduplicate
from association.errors import AssociationError
from tasks.lacking import SOURCE_FLAGS
from tests.support.apdb_rows import at, rows

ARCSEC = 1 / 3600


def table(ra, dec, first=None):
    n = len(ra)
    return pd.DataFrame({"diaObjectId": np.arange(1, n + 1), "ra": ra, "dec": dec,
                         "firstDiaSourceMjdTai": np.arange(n, dtype=float) if first is None else first})  # fmt: skip


def test_the_older_stays_and_chains_are_not_drawn_into_one():
    step = 0.4 * ARCSEC
    chain = find_duplicates(table(10 + step * np.arange(4), np.zeros(4)), 0.5)
    assert chain.gone.tolist() == [2, 4]
    assert chain.keep.tolist() == [1, 3]
    young_first = find_duplicates(table([10.0, 10 + 0.1 * ARCSEC], [0.0, 0.0], [5.0, 2.0]), 0.5)
    assert (young_first.gone[0], young_first.keep[0]) == (1, 2)
    wrap = find_duplicates(table([359.99999, 0.00001], [0.0, 0.0]), 0.5)
    assert wrap.separation[0] == pytest.approx(0.072)
    pole = find_duplicates(table([0.0, 180.0], [89.99995, 89.99995]), 0.5)
    assert len(pole) == 1
    star = find_duplicates(table(10 + np.array([0, 0.2, -0.3, 0.1]) * ARCSEC, np.zeros(4)), 0.35)
    assert star.keep.tolist() == [1, 1, 1]
    assert find_duplicates(table([10.0, 10.1], [0.0, 0.0]), 0.5).empty
    assert find_duplicates(table([], []), 0.5).empty
    with pytest.raises(AssociationError, match="radius"):
        find_duplicates(table([10.0], [0.0]), 0.0)
    shuffled = table(10 + step * np.arange(4), np.zeros(4)).sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(find_duplicates(shuffled, 0.5), chain)


@pytest.fixture
def doubled(database):
    """Forty objects, the first ten of which have a younger double 0.2 arcsec off, each with two sources of its own."""
    client = PostgresApdb(database.uri)
    o, _, _ = rows(50)
    ra, dec = np.resize(np.linspace(359.99, 360.01, 40) % 360, 50), np.full(50, 12.0)
    ra[40:], dec[40:] = ra[:10], dec[:10] + 0.2 * ARCSEC
    o = o.assign(
        ra=ra,
        dec=dec,
        nDiaSources=2,
        raErr=0.05 * ARCSEC,
        decErr=0.05 * ARCSEC,
        firstDiaSourceMjdTai=61000.0 + (np.arange(50) >= 40),
        lastDiaSourceMjdTai=61002.0,
    )
    for visit in (1, 2):
        _, s, f = rows(50, visit=visit, seed=visit)
        s = s.assign(
            ra=ra,
            dec=dec,
            diaObjectId=o.diaObjectId,
            ssObjectId=0,
            raErr=0.05 * ARCSEC,
            decErr=0.05 * ARCSEC,
            psfFluxErr=1.0,
            **dict.fromkeys(SOURCE_FLAGS, False),  # drawn ones would take fluxes out of the means
        )
        client.store(at(61000.0 + visit), o, s, f)
    yield client, o
    client.close()


def check(database, client, o):
    with database.connect() as connection:
        opened = dict(
            connection.execute('SELECT "diaObjectId", "nDiaSources" FROM "DiaObject" WHERE "validityEndMjdTai" IS NULL')
        )
        last = dict(connection.execute('SELECT "diaObjectId", "nDiaSources" FROM "DiaObjectLast"'))
        owners = dict(connection.execute('SELECT "diaObjectId", count(*) FROM "DiaSource" GROUP BY 1'))
    want = {int(i): 4 if k < 10 else 2 for k, i in enumerate(o.diaObjectId[:40])}
    assert opened == last == owners == want


def test_doubles_become_one(database, doubled):
    client, o = doubled
    dry = deduplicate(database.connect, 0.5, 61010.0, dry_run=True)
    assert (dry.objects, dry.pairs, dry.closed, dry.moved) == (50, 10, 0, 0)
    assert client.tableRowCount()["DiaObjectLast"] == 50
    report = deduplicate(database.connect, 0.5, 61010.0)
    assert (report.pairs, report.closed, report.moved) == (10, 10, 20)
    check(database, client, o)
    kept = int(o.diaObjectId[0])
    with database.connect() as connection:
        version = connection.execute(
            'SELECT dec, "r_psfFluxNdata", "r_psfFluxMean", "validityStartMjdTai", "lastDiaSourceMjdTai" FROM "DiaObject" '
            'WHERE "diaObjectId" = %s AND "validityEndMjdTai" IS NULL',
            (kept,),
        ).fetchone()
        fluxes = connection.execute(
            'SELECT sum("psfFlux"::float8 / "psfFluxErr"::float8 ^ 2) / sum(1 / "psfFluxErr"::float8 ^ 2) FROM "DiaSource" '
            'WHERE "diaObjectId" = %s',
            (kept,),
        ).fetchone()
        audit = connection.execute('SELECT action, sum(count) FROM "ApdbAudit" GROUP BY 1 ORDER BY 1').fetchall()
        forced = connection.execute('SELECT count(*), count(DISTINCT "diaObjectId") FROM "DiaForcedSource"').fetchone()
        spare = connection.execute('SELECT count(*) FROM "DiaForcedSourceWithdrawn"').fetchone()
    assert (forced, spare) == ((80, 40), (20,))  # both had one of each image: that of the object that stays is kept
    assert version[0] == pytest.approx(12.0 + 0.1 * ARCSEC, abs=1e-3 * ARCSEC)  # the mean of both
    assert version[1] == 4
    assert version[2] == pytest.approx(fluxes[0], rel=1e-5)
    assert version[3] == 61010.0
    assert audit == [("close validity", 10), ("merge objects", 10)]
    again = deduplicate(database.connect, 0.5, 61011.0)
    assert (again.pairs, again.closed) == (0, 0)


@pytest.mark.parametrize(
    ("ra", "dec"),
    [([10.0, 190.0], [90 - 0.2 * ARCSEC] * 2), ([0.0, 90.0], [-90 + 0.3 * ARCSEC] * 2), ([359.99999, 0.00003], [0.0, 0.0]),
     ([100.0, 100 + 0.4 * ARCSEC / np.cos(np.radians(80))], [80.0, 80.0])],
)  # fmt: skip
def test_doubles_at_the_poles_with_forced_sources_and_without_withdrawn_ones(database, ra, dec):
    """The younger has a source of its own, one that is withdrawn, and forced sources of an image that the older lacks."""
    client = PostgresApdb(database.uri)
    o, _, _ = rows(2)
    o = o.assign(
        ra=ra, dec=dec, nDiaSources=[1, 2], firstDiaSourceMjdTai=[61001.1, 61002.1], lastDiaSourceMjdTai=61003.1
    )
    for visit, which in ((1, [0]), (2, [1]), (3, [1])):
        _, s, f = rows(2, visit=visit)
        s = s.assign(ra=ra, dec=dec, raErr=0.05 * ARCSEC, decErr=0.05 * ARCSEC, ssObjectId=0, parentDiaSourceId=0)
        client.store(at(61000.0 + visit), o, s.iloc[which], f.iloc[[0, 1] if visit == 1 else which])
        last = s
    client.withdrawDiaSources([DiaSourceId.from_named_tuple(r) for r in last.iloc[[1]].itertuples()])
    report = deduplicate(database.connect, 1.0, 61010.0)
    assert (report.pairs, report.closed, report.moved) == (1, 1, 1)
    with database.connect() as connection:
        version = connection.execute('SELECT "diaObjectId", "nDiaSources" FROM "DiaObjectLast"').fetchall()
        forced = connection.execute('SELECT "diaObjectId", visit FROM "DiaForcedSource" ORDER BY visit').fetchall()
    kept = int(o.diaObjectId[0])
    assert version == [(kept, 2)]
    assert forced == [(kept, 1), (kept, 2), (kept, 3)]
    assert deduplicate(database.connect, 1.0, 61011.0).pairs == 0
    client.close()


def test_only_what_changed_is_looked_at(database, doubled):
    assert doubled
    assert deduplicate(database.connect, 0.5, 61010.0, since_mjd_tai=61005.0).objects == 0
    assert deduplicate(database.connect, 0.5, 61010.0, since_mjd_tai=61002.0, dry_run=True).pairs == 10


def test_two_runs_and_stores_at_once(database, doubled):
    """Two jobs and a worker on the same patch: each duplicate goes once, nothing is lost."""
    client, o = doubled
    failures, barrier = [], threading.Barrier(3)

    def guarded(work):
        barrier.wait()
        try:
            work()
        except Exception as error:
            failures.append(error)

    def stores():
        for k in range(5):
            client.store(at(61003.0 + k), o.iloc[20:40].assign(nDiaSources=2))

    jobs = [
        lambda: deduplicate(database.connect, 0.5, 61020.0),
        lambda: deduplicate(database.connect, 0.5, 61021.0),
        stores,
    ]
    threads = [threading.Thread(target=guarded, args=(j,)) for j in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert failures == []
    check(database, client, o)


def test_the_command(database, doubled):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "service.commands.main", "apdb", "deduplicate", "--json"],
        env={**os.environ, "ALERTPROD_DATABASE_URI": database.uri}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [{"objects": 50, "pairs": 10, "closed": 10, "moved": 20}]
