"""Two cameras, or two layouts of ids, in one database: what is stored without the service is told apart as well."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from apdb.errors import IdLayoutConflict, VisitConflict
from apdb.id_layouts import claim_layout, layouts, refuse_other_camera
from apdb.operate.export import all_rows, latest_objects
from apdb.queue.claims import Claim
from apdb.sky.htm import htm_ids
from apdb.sky.locks import LEVELS
from association.errors import DuplicateRecords
from service.processing.visit import Processor, _Run, _Subtracted
from service.settings import Settings
from tasks import IdFactory, IdGenerator, IdPacker
from tests.integration.test_dia_pipeline import GRID, PACKER, image, run, sources
from tests.integration.test_precovery import run as precover
from tests.integration.test_precovery import world  # noqa: F401

SIZES = (PACKER.n_visits, PACKER.n_detectors, PACKER.n_releases)


def of_camera(name, visit=42, flux=500.0, **more):
    e = image(visit)
    e.visit_info = replace(e.visit_info, instrument=name)
    return e, sources(e, *GRID.T, flux=flux, **more)


def ids(e, release=0):
    return IdGenerator(PACKER, *e.key, release)


def stored(database):
    return [all_rows(database, "DiaSource"), latest_objects(database)]


@pytest.mark.parametrize("what", ["replace", "reuse", "error"])
@pytest.mark.parametrize("number", [25, 0])
def test_a_visit_of_another_camera_is_left_as_it_is(database, what, number):
    """Both have a visit 42 with as many sources: their ids are the same."""
    e, table = of_camera("one")
    run(database, e, table[:number], idGenerator=ids(e))
    before = stored(database)
    other, rows = of_camera("two")
    with pytest.raises((VisitConflict, DuplicateRecords), match=r"of instrument one, not two|in the APDB already"):
        run(database, other, rows[:number], config={"onStored": what}, idGenerator=ids(other))
    for one, two in zip(before, stored(database), strict=True):
        pd.testing.assert_frame_equal(one, two)
    run(database, e, table[:number], config={"onStored": "reuse"}, idGenerator=ids(e))
    with database.connect() as connection:
        refuse_other_camera(connection, *e.key, "one")
        with pytest.raises(VisitConflict, match="of instrument one, not two"):
            refuse_other_camera(connection, *e.key, "two")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.assign(ra=t.ra + np.where(t.index == 7, 0.02, 0) / 3600), "row 7 .* ra"),
        (lambda t: t.assign(psfFlux=t.psfFlux + np.where(t.index == 3, 2.0, 0)), "row 3 .* psfFlux"),
        (lambda t: t.assign(apFlux=t.apFlux.where(t.index != 5)), "row 5 .* apFlux"),
        (lambda t: t[:24], "24 would be stored"),
    ],
    ids=["position", "flux", "no flux", "number"],
)
def test_other_sources_of_as_many_ids_are_not_what_is_stored(database, change, text):
    e, table = of_camera("one")
    run(database, e, table, idGenerator=ids(e))
    before = stored(database)
    with pytest.raises(DuplicateRecords, match=f"{text}.*onStored=replace"):
        run(database, e, change(table), config={"onStored": "reuse"}, idGenerator=ids(e))
    for one, two in zip(before, stored(database), strict=True):
        pd.testing.assert_frame_equal(one, two)
    again, _ = run(database, e, table, config={"onStored": "reuse"}, idGenerator=ids(e))
    assert len(again.associatedDiaSources) == 25


def test_a_run_without_the_service_notes_and_compares_layouts(database):
    e, table = of_camera("one")
    run(database, e, table, idGenerator=ids(e))
    with database.connect() as connection:
        assert layouts(connection) == {"one": SIZES}
    other, rows = of_camera("two", 43)
    packer = IdPacker(1 << 24, 16)
    with pytest.raises(IdLayoutConflict, match=r"instrument two has ids .* instrument one .* could meet"):
        run(database, other, rows, idGenerator=IdGenerator(packer, *other.key))
    with pytest.raises(IdLayoutConflict, match="instrument two"):  # no file, no ids of the caller's: the common layout
        run(database, other, rows)
    run(database, other, rows, idGenerator=IdFactory(430003, 40))  # a caller's own scheme, which no instrument has
    run(database, *of_camera("two", 44), idGenerator=ids(image(44)))
    with database.connect() as connection:
        assert layouts(connection) == {"one": SIZES, "two": SIZES}
    assert set(all_rows(database, "DiaSource").visit) == {42, 43, 44}


def test_precovery_notes_and_compares_layouts(database, world):  # noqa: F811
    with database.connect() as connection:
        claim_layout(connection, "one", SIZES)
    with pytest.raises(IdLayoutConflict, match=r"instrument simcam .* instrument one"):
        precover(database, world[0])
    assert all_rows(database, "DiaForcedSource").empty
    with database.connect() as connection:
        connection.execute("DELETE FROM metadata WHERE name = 'ids:one'")
    assert precover(database, world[0]).measured
    with database.connect() as connection:
        assert list(layouts(connection)) == ["simcam"]


def test_a_worker_leaves_what_a_pipeline_stored_of_another_camera(database, tmp_path, monkeypatch):
    """No message of it was ever queued: the queue, which asks first, does not know it."""
    e, table = of_camera("one")
    run(database, e, table, idGenerator=ids(e))
    before = stored(database)
    worker = Processor(Settings(database_uri=database.uri, archive_dir=str(tmp_path), upload_dir=tmp_path))
    claim = Claim(*e.key, 1, 1, 0, {"reprocess": "replace"})
    reached = []

    def associate(run, subtracted, work):
        reached.append(run.rules.name)
        raise InterruptedError

    monkeypatch.setattr(worker, "_associate_and_write", associate)
    subtracted = _Subtracted(e, e, e, table, 0, 0, {})
    with pytest.raises(VisitConflict, match="of instrument one, not two"):
        worker._store(_Run(claim, SimpleNamespace(name="two")), subtracted)
    with pytest.raises(InterruptedError):
        worker._store(_Run(claim, SimpleNamespace(name="One")), subtracted)
    assert reached == ["One"]
    for one, two in zip(before, stored(database), strict=True):
        pd.testing.assert_frame_equal(one, two)


def test_what_is_taken_back_is_locked_where_it_lies(database, monkeypatch):
    """The image was calibrated anew, 20 degrees away."""
    from association import own_transaction
    from tests.integration.test_trusted_input import replace_centre

    e, table = of_camera("one")
    run(database, e, table, idGenerator=ids(e))
    locked = []
    plain = own_transaction.sky_locks
    monkeypatch.setattr(own_transaction, "sky_locks", lambda c, pixels: locked.extend(pixels) or plain(c, pixels))
    moved, _ = of_camera("one")
    moved.wcs = replace_centre(moved)
    rows = sources(moved, *GRID.T).assign(diaSourceId=PACKER.ids(*moved.key, 25, 1))
    run(database, moved, rows, config={"onStored": "replace"}, idGenerator=ids(moved, 1))
    places = stored(database)[0]
    assert set(htm_ids(places.ra, places.dec, LEVELS[0])) <= set(locked) and len(set(places.ra.round(-1))) == 2
