"""`DiaPipelineTask` on its own against PostgreSQL: the edge cases and the behaviours that the published task is tested for."""

import numpy as np
import pandas as pd
import pytest
from astropy.wcs import WCS

from alerts import AlertInputs, build_packets
from alerts.archive.container import INDEX
from apdb import columns_of
from apdb.operate.export import all_rows, latest_objects
from apdb.queue.outbox import OutboxEntry, add
from association import DiaPipelineTask
from association.errors import AssociationError, DuplicateRecords, TooManyDiaObjects
from association.forced_rows import forced_rows
from association.metrics import MetricComputationError, run_metrics, total_unassociated_objects
from exposure import Exposure, PhotoCalib, SkyWcs, VisitInfo
from exposure.mask import plane_bits
from exposure.psf import GaussianPsf
from service.processing.explain import _delivery
from tasks import IdGenerator, IdPacker, make_task

SIZE, ARCSEC = 200, 1 / 3600
PACKER = IdPacker(1 << 20, 64)
GRID = np.stack(np.meshgrid(np.arange(20, 181, 40), np.arange(20, 181, 40)), -1).reshape(-1, 2).astype(float)


def image(visit: int, band: str = "g", mjd: float = 61000.0) -> Exposure:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [30.0, -20.0], [100.0, 100.0]
    wcs.wcs.cd = np.array([[-0.2, 0.0], [0.0, 0.2]]) * ARCSEC
    pixels = np.random.default_rng(visit).normal(0, 3, (SIZE, SIZE)).astype(np.float32)
    return Exposure(
        pixels, np.full_like(pixels, 9), np.zeros(pixels.shape, np.int32), (0, 0), SkyWcs(wcs), GaussianPsf(1.8, 21),
        PhotoCalib(1.0), VisitInfo(visit, 3, mjd + visit, 30.0, "test"), band,
    )  # fmt: skip


def sources(e: Exposure, x: np.ndarray, y: np.ndarray, flux: float = 500.0, scatter: float = 0.0) -> pd.DataFrame:
    n, (visit, detector) = len(x), e.key
    values = {}
    for c in columns_of("DiaSource"):
        empty = {"f": np.nan if c.nullable else 0.0, "b": False, "O": e.band}.get(c.dtype.kind, 0)
        values[c.name] = np.full(n, empty).astype(c.dtype)
    ra, dec = e.require_wcs().pixel_to_sky(x, y)
    rng = np.random.default_rng(visit)
    return pd.DataFrame(values).assign(
        diaSourceId=PACKER.ids(visit, detector, n),
        visit=np.int64(visit),
        detector=np.int16(detector),
        ra=ra + rng.normal(0, scatter * ARCSEC, n),
        dec=dec + rng.normal(0, scatter * ARCSEC, n),
        x=x,
        y=y,
        raErr=0.1 * ARCSEC,
        decErr=0.1 * ARCSEC,
        ra_dec_Cov=0.0,
        psfFlux=flux,
        psfFluxErr=25.0,
        apFlux=flux,
        apFluxErr=25.0,
        scienceFlux=flux,
        scienceFluxErr=25.0,
        trailLength=0.1,
        reliability=0.9,
        band=e.band,
        midpointMjdTai=e.visit_info.midpoint_mjd_tai,
        bboxSize=20,
    )


def run(database, e, table, bits=None, config=None, **more):
    task = make_task(DiaPipelineTask, {"apdb_config_url": database.uri, **(config or {})})
    done = task.run(table, e, e, e, bits, **more)
    return done, task.metadata


def test_the_older_form_loads_associates_and_commits(database):
    first, second = image(1), image(2, "r")
    done, metadata = run(database, first, sources(first, *GRID.T), 50)
    assert type(done.apdb_maker).__name__ == "ApdbMarker" and done.apdbMarker is done.apdb_maker
    assert list(done.newDiaSources.diaObjectId) == list(done.newDiaSources.diaSourceId)
    assert len(done.diaForcedSources) == 0  # one detection is not enough
    assert total_unassociated_objects(database) == 25
    for key in (
        "numUpdatedDiaObjects",
        "numUnassociatedDiaObjects",
        "numNewDiaObjects",
        "numTotalSolarSystemObjects",
        "numAssociatedSsObjects",
        "nRejectedNewDiaObjects",
        "loadDiaObjectsDuration",
        "writeToApdbDuration",
    ):
        assert key in metadata
    done, metadata = run(database, second, sources(second, *GRID[:20].T, scatter=0.05), 50)
    assert (metadata["numUpdatedDiaObjects"], metadata["numUnassociatedDiaObjects"]) == (20, 5)
    assert run_metrics(metadata)["fracUpdatedDiaObjects"] == 0.8
    objects = latest_objects(database).set_index("diaObjectId")
    assert len(objects) == 25 and total_unassociated_objects(database) == 5
    seen = objects[objects.nDiaSources == 2]
    assert (
        np.isfinite(seen.g_psfFluxMean).all()
        and np.isfinite(seen.r_psfFluxMean).all()
        and seen.i_psfFluxMean.isna().all()
    )
    assert (seen.g_psfFluxNdata == 1).all() and (seen.i_psfFluxNdata == 0).all()
    forced = all_rows(database, "DiaForcedSource")
    assert len(forced) == 20 and forced.diaForcedSourceId.is_unique and set(forced.visit) == {2}
    assert forced.diaForcedSourceId.min() == ((2 * 1000 + 3) << 13) + 1  # 50 bits of the exposure, 13 of the counter


def test_alerts_wait_for_a_second_detection_where_that_is_asked_for(database):
    """What lasts two visits is an alert at the second; all is stored from the first on."""
    config = {"alertLeastDiaSources": 2}
    first, second = image(1), image(2)
    one, metadata = run(database, first, sources(first, *GRID.T), config=config)
    assert len(one.alertDiaSources) == 0 and len(one.unconfirmedDiaSources) == 25 == metadata["nUnconfirmedDiaSources"]
    assert len(all_rows(database, "DiaSource")) == 25
    extra = np.vstack([GRID[:20], [[33.0, 47.0]]])
    two, metadata = run(database, second, sources(second, *extra.T, scatter=0.05), config=config)
    assert len(two.associatedDiaSources) == 21 and metadata["nUnconfirmedDiaSources"] == 1
    assert set(two.alertDiaSources.diaObjectId) == set(one.associatedDiaSources.diaObjectId[:20])
    assert set(two.unconfirmedDiaSources.diaObjectId) == set(two.newDiaSources.diaObjectId)
    third = image(3)
    three, _ = run(database, third, sources(third, *GRID[:20].T), config=config | {"alertLeastDiaSources": 1})
    assert len(three.alertDiaSources) == 20 and len(three.unconfirmedDiaSources) == 0


def test_the_same_visit_again_changes_nothing(database):
    e = image(1)
    run(database, e, sources(e, *GRID.T))
    before = all_rows(database, "DiaSource"), latest_objects(database)
    with pytest.raises(DuplicateRecords, match="in the APDB already") as failure:
        run(database, e, sources(e, *GRID.T))
    assert (failure.value.visit, failure.value.detector) == (1, 3)
    pd.testing.assert_frame_equal(all_rows(database, "DiaSource"), before[0])
    pd.testing.assert_frame_equal(latest_objects(database), before[1])
    twice = sources(image(2), *GRID.T).assign(diaSourceId=5)
    with pytest.raises(DuplicateRecords, match="twice in the input"):
        run(database, image(2), twice)
    with pytest.raises(AssociationError, match="apdb_config_url"):
        make_task(DiaPipelineTask, {}).run(twice, e, e, e)
    assert len(all_rows(database, "DiaSource")) == 25


def test_a_visit_without_sources_measures_what_is_known(database):
    for visit in (1, 2):
        e = image(visit)
        run(database, e, sources(e, *GRID.T, scatter=0.03))
    e = image(3)
    done, metadata = run(database, e, sources(e, *GRID[:0].T))
    assert (metadata["numNewDiaObjects"], metadata["numUpdatedDiaObjects"]) == (0, 0)
    assert metadata["numUnassociatedDiaObjects"] == 25 and len(done.diaForcedSources) == 25
    assert set(all_rows(database, "DiaForcedSource").visit) == {2, 3} and len(done.associatedDiaSources) == 0


def test_positions_that_are_no_numbers_are_dropped_and_the_rest_goes_on(database, caplog):
    e = image(1)
    table = sources(e, *GRID.T)
    table.loc[3, "ra"] = np.nan
    bodies = pd.DataFrame(
        {"ssObjectId": [77], "designation": ["2026 SA1"], "ephRa": table.ra[:1], "ephDec": table.dec[:1]}
    )
    done, _ = run(database, e, table, solarSystemObjectTable=bodies)
    assert len(done.associatedDiaSources) == 24 and str(table.diaSourceId[3]) in caplog.text
    stored = all_rows(database, "DiaSource").set_index("diaSourceId")
    assert stored.ssObjectId[table.diaSourceId[0]] == 77 and len(latest_objects(database)) == 23


@pytest.mark.parametrize(("limit", "refused"), [(99, True), (100, True), (101, False), (0, False)])
def test_too_many_new_objects(database, limit, refused):
    e = image(1)
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(np.arange(15, 186, 15), np.arange(15, 186, 15)), -1).reshape(-1, 2)[:101]
    table = sources(e, *(places + rng.uniform(-1, 1, places.shape)).T)
    if refused:
        with pytest.raises(TooManyDiaObjects, match="101 new objects"):
            run(database, e, table, config={"maxNewDiaObjects": limit})
        assert all_rows(database, "DiaSource").empty and latest_objects(database).empty
    else:
        assert len(run(database, e, table, config={"maxNewDiaObjects": limit})[0].newDiaSources) == 101


def test_marginal_sources_are_returned_and_not_stored(database):
    e = image(1)
    table = sources(e, *GRID.T)
    table.loc[:4, "pixelFlags_streakCenter"] = True
    table.loc[5:7, "reliability"] = 0.05
    table.loc[8, "reliability"] = np.nan
    done, metadata = run(database, e, table)
    assert len(done.marginalDiaSources) == 8 == metadata["nRejectedNewDiaObjects"]
    assert len(done.newDiaSources) + len(done.marginalDiaSources) == 25
    assert set(all_rows(database, "DiaSource").diaSourceId) == set(table.diaSourceId[8:])
    again = image(2)  # known objects keep their sources, whatever their flags
    flagged = sources(again, *GRID[8:].T, scatter=0.02).assign(pixelFlags_streakCenter=True)
    assert len(run(database, again, flagged)[0].associatedDiaSources) == 17


@pytest.mark.parametrize("switch", ["doSolarSystemAssociation", "doRunForcedMeasurement", "filterUnAssociatedSources"])
def test_parts_can_be_switched_off(database, switch):
    for visit in (1, 2):
        e = image(visit)
        table = sources(e, *GRID.T, scatter=0.02)
        table.loc[24, "pixelFlags_streakCenter"] = True
        bodies = pd.DataFrame(
            {"ssObjectId": [77], "designation": ["x"], "ephRa": table.ra[:1], "ephDec": table.dec[:1]}
        )
        done, metadata = run(database, e, table, config={switch: False}, solarSystemObjectTable=bodies)
    off = switch == "doSolarSystemAssociation"
    assert (metadata["numTotalSolarSystemObjects"], metadata["numAssociatedSsObjects"]) == ((0, 0) if off else (1, 1))
    assert (len(done.diaForcedSources) == 0) == (switch == "doRunForcedMeasurement")
    assert (len(done.marginalDiaSources) == 0) == (switch == "filterUnAssociatedSources")


def test_wrong_configuration_is_refused_at_construction():
    for config in ({"newObjectFluxField": "noFlux"}, {"newObjectBadFlags": ["no_such_flag"]}):
        with pytest.raises(AssociationError, match="no such DiaSource columns"):
            make_task(DiaPipelineTask, config)
    e = image(1)
    for broken, said in (
        ({"band": "w"}, "band"),
        ({"photo_calib": None}, "no photometric calibration"),
        ({"wcs": None}, "no WCS"),
        ({"psf": None}, "no PSF"),
        ({"band": ""}, "no band"),
    ):
        bad = Exposure(**{**e.__dict__, **broken})
        with pytest.raises(AssociationError, match=said):
            make_task(DiaPipelineTask, {"apdb_config_url": "x"}).run(sources(e, *GRID.T), bad, bad, bad)


def test_objects_off_the_image_are_measured_only_when_they_were_updated():
    e = image(1)
    x = np.array([20.0, 60.0, 100.0, 140.0, 180.0, 203.0, 230.0, 300.0])
    ra, dec = e.require_wcs().pixel_to_sky(x, np.full(8, 50.0))
    objects = pd.DataFrame({"diaObjectId": np.arange(1, 9), "ra": ra, "dec": dec})
    rows, flags = forced_rows(objects, np.arange(1, 9), [1, 2, 3, 4, 6], e, e, IdGenerator(PACKER, 1, 3), 61000.0)
    assert list(rows.diaObjectId) == [1, 2, 3, 4, 5, 6] and len(rows.columns) == len(columns_of("DiaForcedSource"))
    assert np.isfinite(rows.psfFlux[:5]).all() and len(flags) == 6


def test_metrics_of_a_run():
    good = {"numUpdatedDiaObjects": 3, "numUnassociatedDiaObjects": 1, "numNewDiaObjects": np.int64(0)}
    assert run_metrics(good) == {
        "numUnassociatedDiaObjects": 1.0,
        "numNewDiaObjects": 0.0,
        "fracUpdatedDiaObjects": 0.75,
    }
    assert "fracUpdatedDiaObjects" not in run_metrics({"numUpdatedDiaObjects": 0, "numUnassociatedDiaObjects": 0})
    for value in ("12", None, True):
        with pytest.raises(MetricComputationError, match="not a number"):
            run_metrics({"numNewDiaObjects": value})


@pytest.mark.parametrize(("issued", "text"), [([5], "waits for the relay"), ([6], "unconfirmed"), ([], "unconfirmed")])
def test_explain_says_which_sources_wait(database, issued, text):
    index = np.zeros(len(issued), INDEX)
    index["diaSourceId"] = issued
    stored = [{"diaSourceId": 5, "diaObjectId": 5, "ssObjectId": 0, "separation": 0.1}]
    with database.connect() as connection:
        add(connection, OutboxEntry(1, 3, 1, "f", len(issued), "c", index=index.tobytes()))
        step = _delivery(connection, 1, 3, stored)[-1]
    assert step.name == "alert" and not step.passed and step.text.startswith(text)


def test_what_is_stored_is_used_once_more_or_replaced(database):
    """A run that was killed after its commit finds its visit stored."""
    for visit in (1, 2):
        e = image(visit)
        first, _ = run(database, e, sources(e, *GRID.T, scatter=0.03), idGenerator=IdGenerator(PACKER, *e.key))
    before = {name: all_rows(database, name) for name in ("DiaSource", "DiaForcedSource")}
    objects, given = latest_objects(database), []
    reuse, table = {"onStored": "reuse"}, sources(e, *GRID.T, scatter=0.03)
    again, _ = run(database, e, table, config=reuse, idGenerator=IdGenerator(PACKER, *e.key), beforeCommit=given.append)
    assert given == [again]
    for name in ("associatedDiaSources", "diaForcedSources", "newDiaSources", "marginalDiaSources"):
        one, two = (getattr(r, name).drop(columns="timeProcessedMjdTai", errors="ignore") for r in (first, again))
        pd.testing.assert_frame_equal(one, two, obj=name)
    for name, rows in before.items():
        pd.testing.assert_frame_equal(all_rows(database, name), rows, obj=name)
    pd.testing.assert_frame_equal(latest_objects(database), objects)
    with pytest.raises(DuplicateRecords, match="onStored=replace"):
        run(database, e, table[:20], config=reuse, idGenerator=IdGenerator(PACKER, *e.key))
    later = IdGenerator(PACKER, *e.key, 1)
    new = table[:20].assign(diaSourceId=PACKER.ids(*e.key, 20, 1))
    replaced, _ = run(database, e, new, config={"onStored": "replace"}, idGenerator=later)
    rows = all_rows(database, "DiaSource")
    valid = rows[(rows.visit == 2) & rows.timeWithdrawnMjdTai.isna()]
    assert set(valid.diaSourceId) == set(new.diaSourceId) and len(replaced.newDiaSources) == 0
    assert len(latest_objects(database)) == 25


def test_what_fails_before_the_commit_leaves_the_database_as_it_was(database):
    def fail(result):
        assert len(result.associatedDiaSources) == 25
        raise OSError("the store of datasets is full")

    e = image(1)
    with pytest.raises(OSError, match="is full"):
        run(database, e, sources(e, *GRID.T), beforeCommit=fail)
    assert len(all_rows(database, "DiaSource")) == 0


def test_fluxes_that_lack_light_are_stored_and_stay_out_of_means_and_packets(database):
    """Beside a hole of the difference 998 +- 10 is measured where 2000 is true: in memory, and as the database renews it."""
    x, y, config = np.array([100.2]), np.array([99.7]), {"onStored": "replace"}
    for visit, release in ((1, 0), (2, 0), (3, 0), (4, 0), (4, 1)):
        e = image(visit)
        light = e.require_psf().image_at(x, y)[0] * (998.0 if visit == 3 else 2000.0)
        e.image[90:111, 90:111] += light
        difference = Exposure(**{**e.__dict__, "image": e.image.copy(), "mask": e.mask.copy()})
        table = sources(e, x, y, 2000.0).assign(diaSourceId=PACKER.ids(*e.key, 1, release))
        if visit == 3:
            difference.image[:, 103:], difference.mask[:, 103:] = np.nan, plane_bits(["NO_DATA"])
            table = table.assign(psfFlux=998.0, psfFluxErr=10.0, pixelFlags_nodata=True)
        task = make_task(DiaPipelineTask, {"apdb_config_url": database.uri, **config})
        done = task.run(table, difference, e, e, idGenerator=IdGenerator(PACKER, *e.key, release))
    row = latest_objects(database).iloc[0]
    assert (row.nDiaSources, row.g_psfFluxNdata) == (4, 3)
    assert row.g_psfFluxMean == pytest.approx(2000.0)
    assert row.g_psfFluxMeanErr == pytest.approx(25 / np.sqrt(3))
    forced = all_rows(database, "DiaForcedSource").set_index("visit").sort_index()
    assert list(forced.index) == [2, 3, 4]
    assert abs(forced.psfFlux[3] - 998) < 5 * forced.psfFluxErr[3]  # the row is as it was measured
    good = forced.loc[[2, 4]]
    weight = 1 / good.psfFluxErr.astype(float) ** 2
    assert row.g_fpFluxMean == pytest.approx((weight * good.psfFlux).sum() / weight.sum(), rel=1e-6)
    assert row.g_fpFluxMeanErr == pytest.approx(weight.sum() ** -0.5, rel=1e-6)
    assert abs(row.g_fpFluxMean - 2000) < 4 * row.g_fpFluxMeanErr
    packet = next(iter(build_packets(_alert_inputs(done, difference, e))))
    sent = {r["visit"]: r for r in packet["prvDiaForcedSources"]}
    assert [sent[v]["psfFlux"] is None for v in (2, 3, 4)] == [False, True, False]
    assert sent[3]["psfFluxErr"] is None
    assert sent[3]["scienceFlux"] == pytest.approx(float(forced.scienceFlux[3]))


def _alert_inputs(done, difference, science):
    return AlertInputs(
        done.alertDiaSources, done.updatedDiaObjects, done.historySources, done.historyForcedSources, done.diaForcedSources,
        done.associatedSsSources, difference, science, science, lacking=done.lackingForcedSources,
    )  # fmt: skip
