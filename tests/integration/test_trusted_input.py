"""What comes to `DiaPipelineTask` is not trusted blindly: times, ids of other cameras, tables, pointing, sources without scores."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from astropy.time import Time

from apdb import columns_of
from apdb.errors import IdLayoutConflict, VisitConflict
from apdb.id_layouts import claim_layout, layouts
from apdb.operate.export import all_rows, latest_objects
from association.errors import AssociationError, DuplicateRecords, TimeRefused
from association.times import TimeLimits, check_midpoint
from tasks import IdPacker
from tests.integration.test_dia_pipeline import GRID, image, run, sources

LAST_TIMES = ["firstDiaSourceMjdTai", "lastDiaSourceMjdTai"]


def at(visit, mjd, band="g"):
    return image(visit, band, mjd - visit)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [(2461001.5, "year 8597.*days after now.*futureDays"), (44244.0, "year 1980.*before MJD 49718.*earliestMjdTai"),
     (float(Time.now().tai.mjd) + 1001, "days after now, at most 1000")],
    ids=["julian date", "clock of 1980", "in three years"],
)  # fmt: skip
def test_a_time_that_cannot_be_is_refused_and_leaves_nothing(database, wrong, text):
    e = at(1, wrong)
    with pytest.raises(TimeRefused, match=text) as caught:
        run(database, e, sources(e, *GRID.T))
    assert (caught.value.visit, caught.value.detector) == (1, 3)
    assert all_rows(database, "DiaSource").empty
    assert latest_objects(database).empty


def test_a_time_that_was_stored_wrong_is_in_no_statistics(database):
    now = float(Time.now().tai.mjd)
    for visit, mjd, flux in ((1, now - 9, 500.0), (2, now + 900, 90_000.0), (3, now - 8, 500.0)):
        e = at(visit, mjd)
        limit = {"futureDays": 1000.0 if visit == 2 else 1.0}
        done, _ = run(database, e, sources(e, *GRID[:3].T, flux=flux), config=limit, processedMjdTai=now)
    objects = latest_objects(database)
    assert objects.g_psfFluxMean.to_numpy() == pytest.approx(500.0)
    assert (objects.g_psfFluxNdata == 2).all()
    assert objects[LAST_TIMES].to_numpy() == pytest.approx(np.array([[now - 9, now - 8]] * 3))
    assert set(done.historySources.visit) == {1}


def test_limits_are_named_by_the_settings_that_move_them():
    limits = TimeLimits(50_000.0, 2.0, ("EARLIEST", "FUTURE"))
    check_midpoint(60_002.0, limits, 60_000.0, 1, 2)
    check_midpoint(50_000.0, limits, 60_000.0, 1, 2)
    for mjd, name in ((60_002.1, "FUTURE"), (49_999.9, "EARLIEST"), (np.nan, "EARLIEST")):
        with pytest.raises(TimeRefused, match=rf"visit 1, detector 2: .*\({name}\)"):
            check_midpoint(mjd, limits, 60_000.0, 1, 2)


def test_two_layouts_of_ids_cannot_share_a_database(database):
    with database.connect() as connection:
        claim_layout(connection, "one", (10**11, 63, 64))
        claim_layout(connection, "one", (10**11, 63, 64))
        claim_layout(connection, "two", (10**11, 63, 64))
        with pytest.raises(
            IdLayoutConflict, match=r"instrument one has ids of n_visits 1000, .* later visits would get"
        ):
            claim_layout(connection, "one", (1000, 63, 64))
        with pytest.raises(
            IdLayoutConflict, match=r"instrument three .* and instrument one of this database .* could meet"
        ):
            claim_layout(connection, "three", (10**11, 4, 64))
        assert layouts(connection) == {"one": (10**11, 63, 64), "two": (10**11, 63, 64)}


def test_the_id_of_an_object_elsewhere_is_no_id_of_a_new_one(database):
    """Visit 5000, detector 16 of one camera and visit 80001, detector 0 of another have the same ids."""
    one, two = IdPacker(1 << 20, 256).ids(5000, 16, 2), IdPacker(1 << 24, 16).ids(80001, 0, 2)
    assert one.tolist() == two.tolist()
    a, b = image(1), image(2, "r")
    b.wcs = replace_centre(b)
    run(database, a, sources(a, *GRID[:2].T).assign(diaSourceId=one))
    with pytest.raises((DuplicateRecords, VisitConflict), match=r"two cameras, or two layouts of ids"):
        run(database, b, sources(b, *GRID[:2].T).assign(diaSourceId=two))
    assert len(all_rows(database, "DiaSource")) == len(latest_objects(database)) == 2
    # a source id alone, of a source that founds nothing
    c = image(3, "i")
    table = sources(c, *GRID[:2].T)
    table.loc[0, "diaSourceId"] = all_rows(database, "DiaSource").diaSourceId.max()
    with pytest.raises((DuplicateRecords, VisitConflict)):
        run(database, c, table)


def replace_centre(e):
    from astropy.wcs import WCS

    from exposure import SkyWcs

    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [200.0, 40.0], [100.0, 100.0]
    wcs.wcs.cd = np.array([[-0.2, 0.0], [0.0, 0.2]]) / 3600
    return SkyWcs(wcs)


def test_sources_and_images_are_of_one_visit(database):
    one, two = image(1), image(2)
    with pytest.raises(AssociationError, match=r"25 of 25 sources are of another visit than the images .*first of 2"):
        run(database, one, sources(two, *GRID.T))
    with pytest.raises(AssociationError, match="1 of 25 sources are of another detector"):
        run(database, one, sources(one, *GRID.T).assign(detector=[3] * 24 + [4]))


def test_pointing_must_be_a_number_or_not_known(database):
    for wrong, text in (
        ({"rotation": np.nan}, "rotation nan"),
        ({"boresight_ra": 10.0}, "boresight 10.0, nan"),
        ({"boresight_ra": np.inf, "boresight_dec": 1.0}, "boresight inf"),
    ):
        e = image(1)
        e.visit_info = replace(e.visit_info, **wrong)
        with pytest.raises(AssociationError, match=f"science image has {text}"):
            run(database, e, sources(e, *GRID.T))


@pytest.mark.parametrize(
    "absent", [["ra_dec_Cov"], ["reliability"], ["raErr", "decErr"], ["ssObjectId", "diaObjectId"]]
)
def test_optional_columns_that_are_absent_are_null(database, absent):
    for visit in (1, 2):
        e = image(visit, "i")
        _, metadata = run(database, e, sources(e, *GRID.T).drop(columns=absent))
    assert metadata["numUpdatedDiaObjects"] == 25
    stored = all_rows(database, "DiaSource")
    assert stored[[c for c in absent if c not in ("diaObjectId", "ssObjectId")]].isna().all().all()
    for name in ("loadDiaObjectsDuration", "loadDiaSourcesDuration", "loadDiaForcedSourcesDuration"):
        assert metadata[name] >= 0


@pytest.mark.parametrize(
    "absent", [["band"], [c.name for c in columns_of("DiaSource") if c.nullable]], ids=["band", "all"]
)
def test_sources_without_a_band_are_of_that_of_the_image(database, absent):
    """Also where an object has a history: its mean is that of both visits."""
    for visit, flux in ((1, 500.0), (2, 700.0)):
        e = image(visit, "i")
        table = sources(e, *GRID.T, flux=flux)
        run(database, e, table.drop(columns=absent) if visit == 1 else table.assign(band=[None, *"i" * 24]))
    assert (all_rows(database, "DiaSource").band == "i").all()
    objects = latest_objects(database)
    number, mean = (2, 600.0) if absent == ["band"] else (1, 700.0)  # all: the first has no flux
    assert (objects.i_psfFluxNdata == number).all() and len(objects) == 25
    np.testing.assert_allclose(objects.i_psfFluxMean, mean, rtol=1e-6)


def test_a_band_other_than_that_of_the_image_is_refused(database):
    e = image(1, "i")
    table = sources(e, *GRID.T)
    with pytest.raises(AssociationError, match="the band asked for is 'g', that of the difference image 'i'"):
        run(database, e, table, band="g")
    with pytest.raises(AssociationError, match="1 of 25 sources are of another band"):
        run(database, e, table.assign(band=[*"i" * 24, "g"]))
    assert len(all_rows(database, "DiaSource")) == 0
    run(database, e, table, band="i")
    assert len(all_rows(database, "DiaSource")) == 25


def test_a_body_without_a_place_is_nowhere_and_a_band_must_be_known(database):
    e = image(1)
    table = sources(e, *GRID.T).astype({"diaSourceId": np.uint64, "diaObjectId": np.uint64})
    bodies = pd.DataFrame({"ssObjectId": [777, 778], "designation": ["2026 SA1", "2026 SB1"]}).assign(
        ephRa=[table.ra[10], np.nan], ephDec=[table.dec[10], table.dec[11]]
    )
    with pytest.raises(AssociationError, match="band 'Clear' is none of ugrizy"):
        run(database, image(1, "Clear"), table)
    _, metadata = run(database, e, table, solarSystemObjectTable=bodies)
    assert metadata["numAssociatedSsObjects"] == 1
    stored = all_rows(database, "DiaSource").set_index("diaSourceId")
    assert len(stored) == 25 and set(stored.ssObjectId) == {0, 777}
    assert stored.diaObjectId[stored.ssObjectId == 777].tolist() == [0]


def test_a_source_of_an_object_is_of_no_body(database):
    one, two = image(1), image(2)
    run(database, one, sources(one, *GRID.T))
    done, _ = run(database, two, sources(two, *GRID.T).assign(ssObjectId=77))
    assert (done.associatedDiaSources.ssObjectId == 0).all()
    assert (all_rows(database, "DiaSource").ssObjectId.fillna(0) == 0).all()


def test_one_scored_source_switches_nothing_off(database):
    for visit in range(1, 4):
        e = image(visit)
        table = sources(e, *GRID.T).assign(reliability=np.float32(np.nan))
        if visit == 3:
            table.loc[0, "reliability"] = np.float32(0.9)
        done, _ = run(database, e, table)
    assert len(done.diaForcedSources) == 25
    e = image(4)
    table = sources(e, *GRID.T).assign(reliability=np.float32(np.nan))
    done, _ = run(database, e, table, config={"forcedNeedsReliability": True})
    assert len(done.diaForcedSources) == 0


def test_two_detectors_of_one_exposure_are_one_epoch(database):
    """The overlap of two detectors: stored twice, and neither measured nor alerted before another visit sees it."""
    config = {"alertLeastDiaSources": 2}
    for detector in (3, 4):
        e = image(1)
        e.visit_info = replace(e.visit_info, detector=detector)
        done, _ = run(database, e, sources(e, *GRID.T), config=config)
    assert (latest_objects(database).nDiaSources == 2).all()
    assert len(done.diaForcedSources) == len(done.alertDiaSources) == 0
    e = image(2)
    done, _ = run(database, e, sources(e, *GRID.T), config=config)
    assert len(done.diaForcedSources) == len(done.alertDiaSources) == 25


def test_two_detectors_of_an_exposure_long_ago_are_one_epoch_too(database):
    """Seen by two detectors, then 500 days later: that is the second visit, not the third."""
    config = {"alertLeastDiaSources": 3}
    for detector in (3, 4):
        e = image(1, mjd=60400.0)
        e.visit_info = replace(e.visit_info, detector=detector)
        run(database, e, sources(e, *GRID.T), config=config)
    for visit, alerts in ((2, 0), (3, 25)):
        e = image(visit, mjd=60900.0)
        done, _ = run(database, e, sources(e, *GRID.T), config=config)
        assert (latest_objects(database).nDiaSources == visit + 1).all()
        assert len(done.alertDiaSources) == alerts


@pytest.mark.parametrize(("visit", "detector"), [(2026112800123, 3), (17122009979, 0), (7, 1000)])
def test_ids_of_a_run_on_its_own_fit(database, visit, detector):
    """Long visit numbers, detectors beyond 999 and many forced sources, of a camera without an instrument file."""
    grid = np.stack(np.meshgrid(np.arange(4, 197, 7.5), np.arange(4, 197, 7.5)), -1).reshape(-1, 2)[:600]
    ids = set()
    for shift in (0, 1):
        e = at(1 + shift, 61001.0 + shift)
        e.visit_info = replace(e.visit_info, visit=visit + shift, detector=detector)
        table = sources(image(1 + shift), *grid.T)
        done, _ = run(database, e, table.assign(visit=visit + shift, detector=np.int16(detector)))
        ids |= set(done.diaForcedSources.diaForcedSourceId)
    assert len(done.diaForcedSources) == len(ids) == 600
    if detector >= 1000:
        e.visit_info = replace(e.visit_info, visit=visit + 2)
        with pytest.raises(AssociationError, match="detectors below 1000"):
            run(database, e, table.assign(visit=visit + 2, detector=np.int16(detector)), 50)


def test_a_table_is_left_as_it_was(database):
    e = image(1)
    table = sources(e, *GRID.T).drop(columns=["ra_dec_Cov"])
    before = table.copy()
    run(database, e, table)
    pd.testing.assert_frame_equal(table, before)


def test_a_detector_without_sources_leaves_its_mark(database):
    for detector in (3, 4):
        e = image(1)
        e.visit_info = replace(e.visit_info, detector=detector)
        run(database, e, sources(e, *GRID.T).iloc[:0], processedMjdTai=61001.0)
        with pytest.raises(DuplicateRecords, match="in the APDB already"):
            run(database, e, sources(e, *GRID.T))
