"""alertprod.open_apdb on a real database: by URI, by configuration, by the settings."""

import numpy as np
import pytest
from astropy.time import Time
from lsst.dax.apdb import Apdb
from lsst.dax.apdb.sql import ApdbSqlConfig
from lsst.sphgeom import Angle, Circle, LonLat, UnitVector3d

import alertprod
from apdb import columns_of, empty_frame
from tasks.errors import AlertProdError


def test_the_database_is_opened_by_uri_configuration_and_settings(database, monkeypatch):
    monkeypatch.setenv("ALERTPROD_DATABASE_URI", database.uri)
    here = Circle(UnitVector3d(LonLat.fromDegrees(150.0, 2.0)), Angle.fromDegrees(0.1))
    for where in (database.uri, ApdbSqlConfig(db_url=database.uri), None):
        client = alertprod.open_apdb(where)
        assert isinstance(client, Apdb)
        assert len(client.getDiaObjects(here)) == 0
    frame = empty_frame("DiaObject").reindex([0])
    whole = [c.name for c in columns_of("DiaObject") if np.dtype(c.dtype).kind in "iu"]
    frame[whole] = 0
    frame = frame.assign(diaObjectId=7, ra=150.0, dec=2.0, nDiaSources=1, validityStartMjdTai=61000.0)
    frame = frame.astype(dict.fromkeys(whole, np.int64))
    client.store(Time(61000.0, format="mjd", scale="tai"), frame)
    found = client.getDiaObjects(here)
    pairs = alertprod.match(found, ([150.0], [2.0]))
    assert found.diaObjectId.tolist() == [7]
    assert np.array_equal(pairs[["a", "b"]], [[0, 0]])


def test_an_empty_database_names_the_command_to_run(database):
    with database.session() as connection:
        connection.execute("DROP TABLE metadata CASCADE")
    with pytest.raises(AlertProdError, match=r"alertprod apdb (create|migrate)"):
        alertprod.open_apdb(database.uri)
