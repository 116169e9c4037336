"""Precovery on a real database: injected fluxes on stored differences, once each, ids of their own."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from apdb import VisitUnitOfWork, empty_frame
from apdb.operate.export import all_rows
from apdb.sky.htm import polygon
from apdb.sky.locks import lock_pixels
from apdb.visit.changes import close_objects
from apdb.visit.withdraw import withdraw_visit
from association import precovery
from association.forced_rows import rows_on_difference
from association.precovery import PrecoveryWindow, precover
from exposure import Exposure, PhotoCalib, VisitInfo, load_instrument
from exposure.psf import GaussianPsf
from service.commands.main import app
from service.errors import BadMessage
from service.processing.products import StoredDifferences
from service.product_files import difference_path
from tests.support.alert_inputs import frame_with
from tests.support.exposures import tan

SIZE, NOISE, SCALE = 512, 7.0, 2.5
FIRST = 61010.0  # when the objects were found
VISITS = {71: 61001.0, 72: 61004.0, 73: 61007.0, 74: 61012.0}


@pytest.fixture
def world(database, tmp_path):
    """256 young objects, three differences from before (one more is not kept), one from after."""
    rng = np.random.default_rng(8)
    psf = GaussianPsf(1.7, 25)
    grid = np.stack(np.meshgrid(np.arange(20, 500, 30), np.arange(20, 500, 30)), -1).reshape(-1, 2)
    xy = grid + rng.uniform(-3, 3, grid.shape)
    truth = {}
    wcs = tan()
    ra, dec = wcs.pixel_to_sky(xy[:, 0], xy[:, 1])
    for visit, midpoint in VISITS.items():
        image = rng.normal(0, NOISE, (SIZE, SIZE)).astype(np.float32)
        flux = rng.uniform(-300, 900, len(xy))
        stamps = psf.image_at(xy[:, 0], xy[:, 1])
        for (x, y), f, stamp in zip(np.floor(xy + 0.5).astype(int), flux, stamps, strict=True):
            low_x, low_y = max(x - 12, 0), max(y - 12, 0)
            part = image[low_y : y + 13, low_x : x + 13]
            part += f * stamp[low_y - y + 12 :, low_x - x + 12 :][: part.shape[0], : part.shape[1]]
        truth[visit] = flux * SCALE
        info = VisitInfo(visit, 3, midpoint, 30.0, "simcam")
        exposure = Exposure(
            image,
            np.full_like(image, NOISE**2),
            np.zeros(image.shape, np.int32),
            (0, 0),
            wcs,
            psf,
            PhotoCalib(SCALE),
            info,
            "r",
        )
        if visit != 72:
            exposure.write_fits(difference_path(tmp_path, visit, 3, 1))
    objects = frame_with("DiaObject", len(xy) + 2).assign(
        diaObjectId=np.arange(1, len(xy) + 3),
        ra=np.append(ra, [ra[0], 200.0]),
        dec=np.append(dec, [dec[0], -30.0]),
        firstDiaSourceMjdTai=[*[FIRST] * len(xy), 60900.0, FIRST],
        validityEndMjdTai=np.nan,
    )
    with database.connect() as connection:
        for visit, midpoint in VISITS.items():
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, '
                "\"midpointMjdTai\") VALUES (%s, 3, 'simcam', '{}', 'x', 'done', 1, %s)",
                (visit, midpoint),
            )
        with VisitUnitOfWork(connection) as work:
            work.store(61011.0, objects, empty_frame("DiaSource"), empty_frame("DiaForcedSource"))
            work.commit()
    return tmp_path, truth


def run(database, folder, days=30.0, **more):
    window = PrecoveryWindow(61013.0, days, founded_within_days=5.0)
    return precover(
        database.connect,
        StoredDifferences(folder),
        lambda v: load_instrument("simcam").packer(),
        window,
        61020.0,
        **more,
    )


def test_young_objects_are_measured_before_they_were_found(database, world):
    folder, truth = world
    n = len(truth[71])
    report = run(database, folder, dry_run=True)
    assert (report.objects, report.visits, report.without_difference, report.measured) == (n + 1, 4, 1, 2 * n)
    assert all_rows(database, "DiaForcedSource").empty
    assert run(database, folder) == report
    rows = all_rows(database, "DiaForcedSource").sort_values(["visit", "diaObjectId"], ignore_index=True)
    assert rows.visit.unique().tolist() == [71, 73]  # not the one after, nor the one that is not kept
    assert rows.diaObjectId.max() == n  # the old object, and the one elsewhere, have none
    assert rows.diaForcedSourceId.is_unique
    assert rows.scienceFlux.isna().all()
    pull = (rows.psfFlux - np.concatenate([truth[71], truth[73]])) / rows.psfFluxErr
    assert abs(pull.mean()) < 4 / np.sqrt(2 * n)
    assert abs(pull.std() - 1) < 0.12
    again = run(database, folder)
    assert again.measured == 0
    assert len(all_rows(database, "DiaForcedSource")) == 2 * n


def test_only_differences_of_the_patch_are_opened_and_forced_means_are_made_anew(database, world):
    """Visits elsewhere on the sky stay closed; the objects get means of what was measured, and a repetition changes nothing."""
    folder, truth = world
    n, opened = len(truth[71]), []
    patch = lock_pixels(polygon(*tan_corners()))
    with database.connect() as connection:
        connection.execute('UPDATE "VisitLedger" SET region = %s WHERE visit <> 73', (patch,))
        connection.execute('UPDATE "VisitLedger" SET region = %s WHERE visit = 73', ([8 << 16],))
        o = connection.execute('SELECT "diaObjectId", ra, dec FROM "DiaObject" ORDER BY 1 LIMIT %s', (n,)).fetchall()
        found = frame_with("DiaSource", n).assign(
            diaSourceId=np.arange(1, n + 1),
            diaObjectId=[r[0] for r in o],
            ra=[r[1] for r in o],
            dec=[r[2] for r in o],
            visit=80,
            detector=3,
            midpointMjdTai=FIRST,
            timeWithdrawnMjdTai=np.nan,
            band="r",
            ssObjectId=0,
            reliabilityVersion="1",
        )
        objects = frame_with("DiaObject", n).assign(
            diaObjectId=found.diaObjectId,
            ra=found.ra,
            dec=found.dec,
            firstDiaSourceMjdTai=FIRST,
            lastDiaSourceMjdTai=FIRST,
            nDiaSources=1,
        )
        with VisitUnitOfWork(connection) as work:
            work.store(61012.0, objects, found, empty_frame("DiaForcedSource"))
            work.commit()

    def difference_of(visit):
        opened.append(visit.visit)
        return StoredDifferences(folder)(visit)

    def go():
        window = PrecoveryWindow(61013.0, 30.0, founded_within_days=5.0)
        packer = load_instrument("simcam").packer()
        return precover(database.connect, difference_of, lambda v: packer, window, 61020.0)

    assert go().measured == n
    assert opened == [71, 72]  # not 73, which lies elsewhere, nor 74, which was after
    with database.connect() as connection:
        query = (
            'SELECT o."r_fpFluxMean", f."psfFlux", o."r_fpFluxMeanErr", f."psfFluxErr", o."nDiaSources" FROM "DiaObject" o JOIN '
            '"DiaForcedSource" f USING ("diaObjectId") WHERE o."validityEndMjdTai" IS NULL'
        )
        means = np.array(connection.execute(query).fetchall(), float)
        audit = connection.execute("SELECT sum(count) FROM \"ApdbAudit\" WHERE action = 'precovery'").fetchone()
    assert len(means) == n == audit[0]
    np.testing.assert_allclose(means[:, [0, 2]], means[:, [1, 3]], rtol=1e-6)
    assert (means[:, 4] == 1).all()
    assert go().measured == 0


def tan_corners():
    ra, dec = tan().pixel_to_sky(np.array([0.0, SIZE, SIZE, 0.0]), np.array([0.0, 0.0, SIZE, SIZE]))
    return ra, dec


def test_ids_go_on_after_those_of_the_visit(database, world):
    """The visit measured two objects itself; the job measures the others with the next numbers."""
    folder, truth = world
    packer = load_instrument("simcam").packer()
    own = frame_with("DiaForcedSource", 2).assign(
        diaForcedSourceId=packer.ids(71, 3, 2),
        diaObjectId=[1, 2],
        visit=71,
        detector=3,
        midpointMjdTai=VISITS[71],
        timeWithdrawnMjdTai=np.nan,
        band="r",
        ra=10.0,
        dec=2.0,
    )
    with database.connect() as connection, VisitUnitOfWork(connection) as work:
        work.store(61012.0, empty_frame("DiaObject"), empty_frame("DiaSource"), own)
        work.commit()
    run(database, folder, days=20.0)
    rows = all_rows(database, "DiaForcedSource")
    of_71 = rows[rows.visit == 71].sort_values("diaForcedSourceId")
    assert [packer.unpack(i).counter for i in of_71.diaForcedSourceId] == list(range(1, len(truth[71]) + 1))
    assert pd.Series(of_71.diaObjectId).is_unique


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_visit_that_is_taken_back_after_it_was_listed_gets_nothing(database, world, monkeypatch, moment):
    """Withdrawn while an earlier one is measured, or while it is measured itself."""
    folder, truth = world
    withdrawn = []

    def withdraw(visit, when):
        if (visit, when) == ((71, "before") if moment == "before" else (73, "meanwhile")):
            withdrawn.append(withdraw_visit(database, 73, 3, 61019.0, "bad subtraction"))

    def difference_of(visit):
        withdraw(visit.visit, "before")
        return StoredDifferences(folder)(visit)

    def measured(objects, difference, *rest):
        withdraw(difference.key[0], "meanwhile")
        return rows_on_difference(objects, difference, *rest)

    monkeypatch.setattr(precovery, "rows_on_difference", measured)
    packer, window = load_instrument("simcam").packer(), PrecoveryWindow(61013.0, 30.0, founded_within_days=5.0)
    assert precover(database.connect, difference_of, lambda v: packer, window, 61020.0).measured == len(truth[71])
    assert withdrawn and set(all_rows(database, "DiaForcedSource").visit) == {71}


def test_objects_that_were_closed_after_they_were_listed_get_nothing(database, world):
    """The visit that founded them is withdrawn while an earlier one is measured."""
    folder, truth = world
    gone, objects = [3, 5, 200], range(1, len(truth[71]) + 1)

    def difference_of(visit):
        if visit.visit == 73:
            with database.connect() as connection, connection.transaction():
                assert sorted(close_objects(connection, gone, 61019.5)) == gone
        return StoredDifferences(folder)(visit)

    packer, window = load_instrument("simcam").packer(), PrecoveryWindow(61013.0, 30.0, founded_within_days=5.0)
    report = precover(database.connect, difference_of, lambda v: packer, window, 61020.0)
    rows = all_rows(database, "DiaForcedSource")
    assert set(rows[rows.visit == 71].diaObjectId) == set(objects)
    assert set(rows[rows.visit == 73].diaObjectId) == set(objects) - set(gone)
    assert report.measured == 2 * len(truth[71]) - len(gone)


def test_the_command(database, world, tmp_path):
    folder, truth = world
    arguments = ["apdb", "precover", "--at", "61013", "--founded-within", "5", "--json"]
    environment = {"ALERTPROD_DATABASE_URI": database.uri, "ALERTPROD_PRODUCTS_DIR": str(folder)}
    done = CliRunner().invoke(app, arguments, env=environment)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["measured"] == 2 * len(truth[71])
    done = CliRunner().invoke(app, arguments, env={"ALERTPROD_DATABASE_URI": database.uri})
    assert isinstance(done.exception, BadMessage)
