"""A database that is empty, older or newer than the program is refused by every role and command, with what to do."""

import json
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from apdb import Ledger
from apdb.errors import SchemaMismatch
from service.commands.main import app
from service.errors import SettingsError
from service.ready import ready_role
from service.settings import load_settings
from tests.support.command_line import run

ROLES = ("serve", "worker", "worker --drain", "relay", "reconcile", "ingest")
COMMANDS = (
    "status", "visits list", "visits show 1 2", "alerts held", "alerts check", "alerts show 1", "alerts validate", "alerts release 1 2",
    "apdb status", "apdb partitions list", "apdb vacuum-advice", "apdb deduplicate", "explain 1 2 3 4",
    "tokens list", "tokens record", "tokens revoke 1", "tokens create x --scope read",
)  # fmt: skip


@pytest.fixture
def empty(postgres):
    name, admin = f"e{uuid4().hex}", f"{postgres.uri.rsplit('/', 1)[0]}/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield f"{postgres.uri.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def refused(uri, lines, tmp_path):
    """Return what each line said; all must end with status 1 and the code of a wrong schema."""
    environment = {"ALERTPROD_DATABASE_URI": uri, "ALERTPROD_KAFKA_BROKERS": "127.0.0.1:1"}
    places = {f"ALERTPROD_{n}_DIR": str(tmp_path / n.lower()) for n in ("UPLOAD", "ARCHIVE", "TEMPLATE")}
    answers = dict(zip(lines, run(*lines, **environment, **places), strict=True))
    wrong = {
        line: answer
        for line, answer in answers.items()
        if answer[0] != "1" or not answer[1].startswith("alertprod: schema_version: ") or answer[1].count("\n") != 1
    }
    assert wrong == {}
    return [said for _, said in answers.values()]


def test_an_empty_database_is_refused_by_all_with_the_command_to_run(empty, tmp_path):
    said = refused(empty, (*ROLES, *COMMANDS), tmp_path)
    assert all("run 'alertprod apdb migrate'" in text for text in said)
    with psycopg.connect(empty) as connection:  # nobody made anything meanwhile
        assert connection.execute(
            "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        ).fetchone() == (0,)


def test_an_older_and_a_newer_one(database, tmp_path):
    def at(version):
        with database.session() as connection:
            connection.execute("UPDATE metadata SET value = %s WHERE name = 'version:alertprod'", (version,))

    at("1")
    with pytest.raises(SchemaMismatch):
        database.check_schema(newer_is_good=True)
    assert all("run 'alertprod apdb migrate'" in t for t in refused(database.uri, ("worker", "status"), tmp_path))
    at("99")
    database.check_schema(newer_is_good=True)  # who began before works on
    with database.session() as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of the future'")
    newer = refused(database.uri, ("relay", "visits list", "apdb migrate", "apdb create"), tmp_path)
    assert all("update alertprod" in text and "run 'alertprod" not in text for text in newer)


def test_a_database_that_does_not_answer_is_waited_for_and_then_named():
    settings, waited = load_settings(database_uri="postgresql://u@127.0.0.1:1/x"), []
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1/x does not answer") as caught:
        ready_role(settings, waited.append, wait_s=1.5)
    assert caught.value.code == "database_unavailable"
    assert len(waited) == 1
    with pytest.raises(SettingsError, match="ALERTPROD_KAFKA_BROKERS"):
        ready_role(settings, waited.append, kafka=True)


@pytest.mark.parametrize(
    "topics",
    [{"visit_topic": "alerts"}, {"alert_topic": "visits.dlq"}, {"visit_topic": "a b"}, {"visit_topic": ".."},
     {"alert_topic": "x" * 250}, {"alert_fan_out": {"visits": "diaSource.snr > 9"}}, {"visit_topic": "alerts.progress"}],
)  # fmt: skip
def test_topics_that_are_one_or_none_are_refused_at_the_start(topics):
    settings = load_settings(database_uri="postgresql://u@127.0.0.1:1/x", kafka_brokers="127.0.0.1:1", **topics)
    with pytest.raises(SettingsError, match="ALERTPROD_ALERT_TOPIC, ALERTPROD_VISIT_TOPIC"):
        ready_role(settings, lambda said: None, kafka=True, wait_s=0.0)


def test_visits_are_listed_and_shown_with_their_errors(database):
    ledger = Ledger(database)
    for visit in (11, 12):
        ledger.submit({"instrument": "cam", "science": f"/{visit}.fits"}, visit, 3)
    claim = ledger.claim("test", 60.0, 0.0)
    ledger.fail(claim, "wcs_missing", "the header has no celestial WCS", retry_in_s=None)
    lines = (
        "visits list --state failed --json",
        "visits show 11 3",
        "visits show 11",
        "visits show 99",
        "visits list -n 1",
    )
    answers = run(*lines, ALERTPROD_DATABASE_URI=database.uri)
    assert [status for status, _ in answers] == ["0", "0", "0", "1", "0"]
    assert answers[3][1].startswith("alertprod: not_found: visit 99: it never came")

    def shown(*words):
        return CliRunner().invoke(app, words, env={"ALERTPROD_DATABASE_URI": database.uri, "COLUMNS": "200"}).stdout

    (failed,) = json.loads(shown("visits", "list", "--state", "failed", "--json"))
    assert (failed["visit"], failed["detector"], failed["state"]) == (11, 3, "failed")
    assert failed["error"] == {
        "code": "wcs_missing",
        "message": "the header has no celestial WCS",
        "help": "docs/errors/wcs_missing.md",
    }
    assert "docs/errors/wcs_missing.md" in shown("visits", "show", "11", "3")
    assert [v["visit"] for v in json.loads(shown("visits", "list", "--json"))] == [12, 11]
    assert json.loads(shown("visits", "show", "12", "3", "--json"))["state"] == "queued"
