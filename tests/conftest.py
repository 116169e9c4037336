"""Shared fixtures: one PostgreSQL cluster and one Kafka broker for the whole run, a fresh database for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apdb import Database
from apdb.operate.embedded import EmbeddedPostgres
from migrations.run import migrate
from service.local.embedded_kafka import EmbeddedKafka

pytest.register_assert_rewrite("tests.support")

# Files that take longest come first, so that no worker is alone with one in the end; those that mostly wait and those that
# compute by turns, so that they run beside each other. The others keep their order.
LONGEST_FIRST = (
    "real/test_real_images.py",
    "integration/test_night.py",
    "integration/test_take_back.py",
    "integration/test_middleware.py",
    "unit/service/test_other_cpus.py",
    "integration/test_pages_browser.py",
    "unit/service/test_any_image.py",
    "integration/test_service.py",
    "integration/test_worker_faults.py",
    "integration/test_middleware_drp.py",
    "integration/test_delivery_faults.py",
    "e2e/test_survey.py",
    "integration/test_up.py",
    "contract/test_documentation.py",
    "integration/test_alert_stream.py",
    "unit/alertprod/test_public_docs.py",
    "integration/test_restore.py",
    "integration/test_overlap.py",
    "faults/test_workers.py",
    "integration/test_archive.py",
    "integration/test_stream_security.py",
    "integration/test_diff_outputs.py",
    "integration/test_database_kills.py",
    "unit/diffim/test_diffim.py",
    "integration/test_relay.py",
    "real/test_real_association.py",
    "integration/test_database_admin.py",
    "real/test_real_orbits.py",
    "integration/test_postgres_apdb.py",
    "integration/test_client.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files; how many a worker has had does not matter (``--no-loadscope-reorder``)."""
    tests = Path(__file__).parent
    place = {tests / name: number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session")
def server_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that the server's own user can reach."""
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="alertprod-tests-"))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def postgres(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    """A running PostgreSQL. It need not outlive the machine: tests of kills have servers of their own."""
    with EmbeddedPostgres(server_dir / "with a space" / "postgres", settings={"fsync": "off"}) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """A migrated database that tests copy."""
    migrate(postgres.uri)
    return postgres.uri


@pytest.fixture
def database(postgres: EmbeddedPostgres, template_database: str) -> Iterator[Database]:
    """A fresh, migrated database."""
    from tests.support.databases import copied_database  # after its asserts are registered

    with copied_database(template_database) as uri:
        yield Database(uri)


@pytest.fixture(scope="session")
def kafka(server_dir: Path) -> Iterator[EmbeddedKafka]:
    """A running Kafka broker."""
    with EmbeddedKafka(server_dir / "kafka") as broker:
        yield broker
