"""Shared fixtures: one PostgreSQL cluster and one Kafka broker for the whole run, a fresh database for each test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from apdb import Database
from apdb.operate.embedded import EmbeddedPostgres
from migrations.run import migrate
from service.local.embedded_kafka import EmbeddedKafka

pytest.register_assert_rewrite("tests.support")


@pytest.fixture(scope="session")
def server_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the server's own user can reach."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="alertprod-tests-"))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL."""
    with EmbeddedPostgres(server_dir / "with a space" / "postgres") as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """A migrated database that tests copy."""
    migrate(postgres.uri)
    return postgres.uri


@pytest.fixture
def database(postgres: EmbeddedPostgres, template_database: str) -> Iterator[Database]:
    """A fresh, migrated database."""
    name = f"t{uuid4().hex}"
    admin = template_database.rsplit("/", 1)[0] + "/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE alertprod")
    yield Database(template_database.rsplit("/", 1)[0] + f"/{name}")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def kafka(server_dir: Path) -> Iterator[EmbeddedKafka]:
    """A running Kafka broker."""
    with EmbeddedKafka(server_dir / "kafka") as broker:
        yield broker
