"""A database for two clients of one interface, and a survey for the whole service."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
from lsst.dax.apdb.sql import ApdbSql, ApdbSqlConfig

from apdb import PostgresApdb
from apdb.operate.embedded import EmbeddedPostgres
from tests.support.databases import copied_database
from tests.support.shared_folder import shared_folder
from tests.support.survey import make_survey


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of a small survey and its template."""
    return shared_folder(tmp_path_factory, "survey", make_survey)


@pytest.fixture(scope="session")
def client_tables(postgres: EmbeddedPostgres) -> ApdbSqlConfig:
    """The configuration of a database with the tables of our client, which tests copy."""
    server = postgres.uri.rsplit("/", 1)[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE clients")
    return PostgresApdb.init_database(_url(f"{server}/clients"))


def _url(uri: str) -> str:
    return uri.replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def server(client_tables: ApdbSqlConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A fresh database with our tables: our client, the published one, and a raw connection."""
    monkeypatch.setenv("LSST_DB_AUTH", "/nonexistent")
    with copied_database(client_tables.db_url.replace("+psycopg2", "")) as uri:
        config = client_tables.model_copy(update={"db_url": _url(uri)})
        ours = PostgresApdb(config)
        # the published client needs psycopg2: it binds untyped NULLs, which psycopg 3 sends as text
        plain = ApdbSqlConfig.model_validate({**config.model_dump(), "dia_object_index": "baseline"})
        plain.connection_config.connection_pool = False
        with psycopg.connect(uri, autocommit=True) as raw:
            yield SimpleNamespace(ours=ours, theirs=ApdbSql(plain), raw=raw, uri=uri, config=config)
        ours.close()
