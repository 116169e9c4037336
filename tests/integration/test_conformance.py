"""`PostgresApdb` under the conformance tests that ``lsst.dax.apdb`` ships, with replication off and on.

The published factory compares configuration types exactly and has no hook, so it is replaced here by one that gives our
client. Every test has a namespace of its own in one PostgreSQL database.
"""

import unittest
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from lsst.dax.apdb import ApdbTables, apdb, apdbReplica
from lsst.dax.apdb.pixelization import Pixelization
from lsst.dax.apdb.sql import ApdbSqlConfig
from lsst.dax.apdb.tests import ApdbAdminTest, ApdbSchemaUpdateTest, ApdbTest

from apdb import PostgresApdb

SCHEMA = str(Path(__file__).with_name("conformance_schema.yaml"))
_OPEN: list[PostgresApdb] = []


class OurConfig(ApdbSqlConfig):
    """A configuration of our client; its files read back as those of the published SQL client."""


def _client(config: ApdbSqlConfig) -> PostgresApdb:
    client = PostgresApdb(config)
    _OPEN.append(client)
    return client


@pytest.fixture(autouse=True)
def _ours(request: pytest.FixtureRequest, postgres: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(apdb, "make_apdb", _client)
    monkeypatch.setattr(apdbReplica, "make_apdb_replica", lambda config: _client(config).get_replica())
    monkeypatch.setenv("LSST_DB_AUTH", "/nonexistent")
    request.cls.uri = postgres.uri.rsplit("/", 1)[0] + "/postgres"
    yield
    for client in _OPEN:
        client.close()
    _OPEN.clear()


class _Ours:
    enable_replica = False
    uri: str

    def make_instance(self, **kwargs: Any) -> OurConfig:
        options = {"schema_file": SCHEMA, "enable_replica": self.enable_replica, **kwargs}
        made = PostgresApdb.init_database(self.uri, namespace=f"conformance {uuid4().hex}", **options)
        return OurConfig.model_validate(made.model_dump())


class TestApdb(_Ours, ApdbTest, unittest.TestCase):
    """Replication off."""

    meta_row_count = 4  # the published three and version:alertprod

    def getDiaObjects_table(self) -> ApdbTables:
        return ApdbTables.DiaObjectLast

    def pixelization(self, config: Any) -> Pixelization:
        return Pixelization("htm", config.pixelization.htm_level, config.pixelization.htm_max_ranges)

    def _count_after_reset_dedup(self, count_before: int) -> int:
        return count_before

    def store_update_records(self, apdb: Any, records: Any, chunk: Any) -> None:
        apdb.store_update_records(records, chunk)


class TestApdbReplica(TestApdb):
    """Replication on."""

    enable_replica = True
    meta_row_count = 5


class TestSchemaUpdate(_Ours, ApdbSchemaUpdateTest, unittest.TestCase):
    """Versions of the schema."""

    def make_instance(self, **kwargs: Any) -> OurConfig:
        return super().make_instance(**{"enable_replica": False, **kwargs})


class TestAdmin(_Ours, ApdbAdminTest, unittest.TestCase):
    """Administration (the published class has no tests of its own yet; these are ours)."""

    def test_parts_and_deletion(self) -> None:
        """Parts are pixel and month; a deletion takes an object with all its rows and nothing else."""
        from lsst.dax.apdb.apdbAdmin import DiaForcedSourceLocator, DiaObjectLocator, DiaSourceLocator
        from lsst.dax.apdb.tests.data_factory import makeForcedSourceCatalog, makeObjectCatalog, makeSourceCatalog
        from lsst.sphgeom import LonLat

        client = _client(self.make_instance())
        time, place = TestApdb.visit_time, LonLat.fromDegrees(10.0, 5.0)
        objects = makeObjectCatalog(place, 3)
        client.store(time, objects, makeSourceCatalog(objects, time), makeForcedSourceCatalog(objects, time))
        assert client.admin.apdb_part(10.0, 5.0) > 8 << 40
        assert client.admin.apdb_time_part(time.tai.mjd) == 202101
        client.admin.delete_records(
            [DiaObjectLocator(1, 10, 5)],
            [DiaSourceLocator(0, 1, 10, 5, time.tai.mjd), DiaSourceLocator(1, 2, 10, 5, time.tai.mjd)],
            [DiaForcedSourceLocator(1, 1, 1, 10, 5, time.tai.mjd)],
        )
        assert client.tableRowCount() == {"DiaObject": 2, "DiaObjectLast": 2, "DiaSource": 2, "DiaForcedSource": 2}


for imported in ("ApdbTest", "ApdbSchemaUpdateTest", "ApdbAdminTest"):
    del globals()[imported]  # abstract: not to be collected by themselves
