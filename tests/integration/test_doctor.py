"""``alertprod doctor``: a sound service has nothing wrong; what is broken is named with what to do."""

import json
import os
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from alerts.delivery.target import KafkaTarget, ensure_topics
from service.commands.main import app
from service.doctor.run import examine
from service.settings import load_settings


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "templates" / "deep" / "v001").mkdir(parents=True)
    (tmp_path / "templates" / "deep" / "v001" / "manifest.json").write_text("{}")
    return {
        "archive_dir": str(tmp_path / "alerts"), "upload_dir": tmp_path / "uploads", "template_dir": tmp_path / "templates",
        "data_roots": [tmp_path / "images"], "template_set": "deep", "workers": 1, "job_memory_gb": 0.5,
    }  # fmt: skip


def found(environment=None, **values):
    """Return state, text and advice by what was looked at."""
    return {f.about.split("=")[0]: f for f in examine(load_settings(**values), environment or {})}


def test_a_sound_service_has_nothing_wrong(database, kafka, folders):
    name = uuid4().hex[:8]
    topics = {"alert_topic": f"alerts-{name}", "visit_topic": f"visits-{name}"}
    ensure_topics(KafkaTarget(kafka.brokers, topics["alert_topic"]))
    findings = found(database_uri=database.uri, kafka_brokers=kafka.brokers, **topics, **folders)
    assert {about: f for about, f in findings.items() if f.state == "wrong"} == {}
    for about in (
        "database",
        "clock",
        "schema",
        "rights",
        "broker",
        f"topic alerts-{name}",
        "images",
        "templates",
        "memory",
    ):
        assert findings[about].state == "ok", findings[about]
    missing = findings[f"topic visits-{name}"]
    assert (missing.state, missing.text) == ("warning", "not there")
    assert "start ingest" in missing.advice
    assert findings["durability"].text.startswith("fsync is off")  # that of the tests
    assert findings["registry"].state == "skipped"


def test_what_is_broken_is_named_with_what_to_do(folders, tmp_path):
    secret = tmp_path / "uri"
    secret.write_text("postgresql://u@127.0.0.1:1/x")
    secret.chmod(0o644)
    (tmp_path / "file").write_text("")
    broken = {
        **folders, "archive_dir": str(tmp_path / "file" / "below"), "data_roots": [tmp_path / "gone"], "template_set": "other",
        "workers": 200, "job_memory_gb": 64.0, "schema_registry": "http://127.0.0.1:1",
    }  # fmt: skip
    environment = {"ALERTPROD_DATABASE_URI_FILE": str(secret), "ALERTPROD_ALERT_TOPICS": "x"}
    findings = found(
        environment, database_uri="postgresql://u:hidden@127.0.0.1:1/x", kafka_brokers="127.0.0.1:1", **broken
    )
    want = {
        "database": ("wrong", "127.0.0.1:1", "ALERTPROD_DATABASE_URI"),
        "broker": ("wrong", "127.0.0.1:1", "ALERTPROD_KAFKA_BROKERS"),
        "registry": ("wrong", "127.0.0.1:1", "ALERTPROD_SCHEMA_REGISTRY"),
        "images": ("wrong", "is not there", "ALERTPROD_DATA_ROOTS"),
        "templates": ("warning", "'other'", "alertprod template build"),
        "memory": ("warning", "64 GiB", "ALERTPROD_JOB_MEMORY_GB"),
        "secrets": ("warning", "read by every user", "chmod o-rwx"),
        "settings": ("warning", "ALERTPROD_ALERT_TOPICS", "did you mean ALERTPROD_ALERT_TOPIC"),
    }
    for about, (state, text, advice) in want.items():
        f = findings[about]
        assert f.state == state and text in f.text and advice in f.advice, f
    assert "hidden" not in json.dumps([str(f) for f in findings.values()])


def test_a_user_without_rights_and_an_old_schema(database, folders):
    role = f"weak_{uuid4().hex[:8]}"
    with database.connect() as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    try:
        uri = f"postgresql://{role}@{database.uri.partition('@')[2]}"
        rights = found(database_uri=uri, **folders)["rights"]
        assert rights.state == "wrong" and "may not write VisitLedger" in rights.text and "GRANT" in rights.advice
        with psycopg.connect(database.uri) as connection:
            connection.execute("UPDATE metadata SET value = '1' WHERE name = 'version:alertprod'")
        old = found(database_uri=database.uri, **folders)["schema"]
        assert (old.state, old.advice) == ("wrong", "alertprod apdb migrate")
    finally:
        with database.connect() as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_command_ends_with_one_where_something_is_wrong(database, folders):
    variables = {f"ALERTPROD_{k.upper()}": json.dumps(list(map(str, v))) if isinstance(v, list) else str(v)
                 for k, v in folders.items()}  # fmt: skip
    variables = {**os.environ, **variables, "ALERTPROD_DATABASE_URI": database.uri, "COLUMNS": "200"}
    done = CliRunner().invoke(app, ["doctor"], env=variables)
    assert done.exit_code == 0, done.stdout
    assert "what to do" in done.stdout and "fsync is off" in done.stdout
    done = CliRunner().invoke(app, ["doctor", "--json"], env={**variables, "ALERTPROD_DATABASE_URI": ""})
    assert done.exit_code == 1
    states = {f["about"]: f["state"] for f in json.loads(done.stdout)}
    assert (states["database"], states["broker"]) == ("wrong", "skipped")
