"""A database for two clients of one interface, and a survey for the whole service."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from lsst.dax.apdb.sql import ApdbSqlConfig

from apdb import PostgresApdb
from apdb.operate.embedded import EmbeddedPostgres
from tests.support.databases import copied_database
from tests.support.shared_folder import shared_folder
from tests.support.two_clients import TwoClients, client_url


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of a small survey and its template."""
    from tests.support.survey import make_survey  # loads all of the processing

    return shared_folder(tmp_path_factory, "survey", make_survey)


@pytest.fixture(scope="session")
def client_tables(postgres: EmbeddedPostgres) -> ApdbSqlConfig:
    """The configuration of a database with the tables of our client, which tests copy."""
    server = postgres.uri.rsplit("/", 1)[0]
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE clients")
    return PostgresApdb.init_database(client_url(f"{server}/clients"))


@pytest.fixture
def server(client_tables: ApdbSqlConfig, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoClients]:
    """A fresh database with our tables: our client, the published one, and a raw connection."""
    monkeypatch.setenv("LSST_DB_AUTH", "/nonexistent")
    with copied_database(client_tables.db_url.replace("+psycopg2", "")) as uri:
        config = client_tables.model_copy(update={"db_url": client_url(uri)})
        ours = PostgresApdb(config)
        with psycopg.connect(uri, autocommit=True) as raw:
            yield TwoClients(uri, config, ours, raw)
        ours.close()
