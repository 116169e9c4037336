"""Settings: what is wrong is named by its variable, secrets stay secret, paths are absolute, unknown names are told."""

import json
from pathlib import Path

import pytest

from apdb import Database
from apdb.errors import ApdbError
from service.errors import SettingsError
from service.local.stack import STAY_HERE
from service.ready import prepare_folders
from service.settings import NOT_SETTINGS, Settings, load_settings, unknown_names
from service.subprocesses.children import without_secrets

SECRET = "hunter2-xyz"
WRONG = [
    ("PORT", "abc", "'abc'"), ("PORT", "0", "'0'"), ("PORT", "70000", "'70000'"), ("LEASE_S", "-1", "greater than 0"),
    ("LEASE_S", "nan", "'nan'"), ("JOB_TIMEOUT_S", "inf", "'inf'"), ("WORKERS", "1.5", "'1.5'"),
    ("DATA_ROOTS", "/data", 'JSON such as ["/data"]'), ("DATA_ROOTS", '{"a": 1}', "JSON such as"),
    ("DATA_ROOTS", "[" * 100_000, "JSON such as"), ("ALERT_VETO", '{"diaSources": "many"}', "diaSources"),
    ("ALERT_FAN_OUT", "[1]", "JSON such as"), ("ORBITS", "[1]", "JSON such as"), ("CUTOUT_PSF", "all", "'source'"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "value", "said"), WRONG)
def test_a_wrong_value_is_named_by_its_variable(name, value, said, monkeypatch):
    monkeypatch.setenv(f"ALERTPROD_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert f"ALERTPROD_{name}" in str(caught.value)
    assert said in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(monkeypatch):
    for name in ("PORT", "WORKERS", "DATA_ROOTS"):
        monkeypatch.setenv(f"ALERTPROD_{name}", "x")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert all(f"ALERTPROD_{name}='x'" in str(caught.value) for name in ("PORT", "WORKERS", "DATA_ROOTS"))


def test_no_secret_is_in_an_error(monkeypatch):
    for value in (f'{{"sasl.password": ["{SECRET}"]}}', f'{{"sasl.password": {SECRET}}}'):
        monkeypatch.setenv("ALERTPROD_KAFKA_CLIENT", value)
        with pytest.raises(SettingsError, match="ALERTPROD_KAFKA_CLIENT") as caught:
            load_settings()
        error = caught.value
        assert SECRET not in f"{error!r} {error.__context__!r} {error.__cause__!r}"


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://u:{SECRET}@a@h/db",
        f"postgresql://u:1/{SECRET}@h/db",
        f"postgresql://u:{SECRET}/x@h/db",
        f"postgresql://u:{SECRET}#@h/db",
        f"postgresql://u:{SECRET}%zz@h/db",
        f"postgresql://u:{SECRET}?x@h/db",
        f"postgresql://u:p@h:{SECRET}/db",
        f"postgresql://u:p@h/db?{SECRET}",
        f"{SECRET}",
        f"mysql://u:{SECRET}@h/db",
        f"host=h password={SECRET}",
    ],
)
def test_a_uri_that_cannot_be_read_is_not_shown(uri):
    with pytest.raises(ApdbError, match=r"postgresql://user:password@host:port/name") as caught:
        Database(uri)
    assert SECRET not in str(caught.value)


def test_uris_that_are_right():
    assert Database("postgresql://u:p%40ss@h/db").label == "h:5432/db"
    assert Database("postgresql://u@[::1]:6432/db").label == "[::1]:6432/db"
    assert Database("postgresql://u@a:1,b:2/db").label == "a:1,b:2/db"


def test_names_that_nothing_reads_are_told_with_the_nearest():
    given = [
        "ALERTPROD_LEASE",
        "ALERTPROD_DATABASE_URL",
        "ALERTPROD_FROBNICATE",
        "ALERTPROD_PORT",
        "alertprod_port",
        "PATH",
    ]
    assert unknown_names([*given, *NOT_SETTINGS]) == [
        ("ALERTPROD_DATABASE_URL", "ALERTPROD_DATABASE_URI"),
        ("ALERTPROD_FROBNICATE", None),
        ("ALERTPROD_LEASE", "ALERTPROD_LEASE_S"),
    ]


def test_paths_are_made_absolute_where_the_program_starts(tmp_path, monkeypatch):
    for name, value in (
        ("UPLOAD_DIR", "up"),
        ("TEMPLATE_DIR", "../t"),
        ("DATA_ROOTS", '["x", "/y"]'),
        ("PRODUCTS_DIR", ""),
    ):
        monkeypatch.setenv(f"ALERTPROD_{name}", value)
    settings = load_settings()
    assert settings.upload_dir == tmp_path / "up"
    assert settings.template_dir == tmp_path.parent / "t"
    assert settings.archive_dir == str(tmp_path / "alerts")
    assert settings.data_roots == [tmp_path / "x", Path("/y")]
    assert settings.products_dir is None  # empty stands for the default
    for url in ("s3://bucket/alerts", "memory://alerts", "simplecache::s3://bucket/a"):
        assert load_settings(archive_dir=url).archive_dir == url
    for key, value in settings.environment().items():  # children get the same wherever they run
        monkeypatch.setenv(key, value)
    monkeypatch.chdir("/")
    assert load_settings() == settings


def test_folders_are_made_or_refused_with_the_name_of_the_setting(tmp_path):
    settings = load_settings(archive_dir=str(tmp_path / "a" / "b"), products_dir=tmp_path / "file" / "p")
    prepare_folders(settings, ("archive_dir",))
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"ALERTPROD_PRODUCTS_DIR=.*/file/p.*cannot be made"):
        prepare_folders(settings, ("products_dir",))
    prepare_folders(load_settings(archive_dir="s3://nowhere/x"), ("archive_dir", "products_dir"))


def test_what_is_needed_and_not_set_is_named():
    with pytest.raises(SettingsError, match=r"ALERTPROD_DATABASE_URI .* ALERTPROD_KAFKA_BROKERS") as caught:
        Settings(database_uri="", kafka_brokers="").need("database_uri", "kafka_brokers")
    assert "alertprod up" in str(caught.value)


HIDDEN_PLACES = {
    "database_uri": "postgresql://u:%s@h/d", "schema_registry": "https://u:%s@h", "archive_dir": "s3://key:%s@bucket/alerts",
    "ephemerides_url": "https://h/x?sig=%s&y=1",
    "kafka_client": '{"sasl.jaas.config": "x password=%s;", "sasl.oauthbearer.config": "%s", "ssl.key.pem": "%s", '
    '"sasl.oauthbearer.client.secret": "%s", "ssl.keystore.password": "%s", "sasl.password": "%s", "sasl.username": "relay"}',
}  # fmt: skip


def test_no_secret_is_shown_wherever_it_stands(monkeypatch):
    for name, value in HIDDEN_PLACES.items():
        monkeypatch.setenv(f"ALERTPROD_{name.upper()}", value.replace("%s", SECRET))
    settings = load_settings()
    shown = json.dumps(settings.masked())
    assert SECRET not in shown
    assert "s3://********@bucket/alerts" in shown
    assert '"sasl.username": "relay"' in shown
    assert SECRET in str(settings.environment())  # the processes of the service need it
    text = f"no: {settings.database()}; {settings.archive_dir}; " + " ".join(settings.kafka_client.values())
    assert SECRET not in without_secrets(text, settings)


def test_secrets_are_read_from_files(tmp_path, monkeypatch):
    (tmp_path / "uri").write_text(f"postgresql://u:{SECRET}@h/d\n")
    (tmp_path / "kafka").write_text('{"security.protocol": "SASL_SSL", "sasl.password": "x"}')
    monkeypatch.setenv("ALERTPROD_DATABASE_URI_FILE", str(tmp_path / "uri"))
    monkeypatch.setenv("ALERTPROD_KAFKA_CLIENT_FILE", str(tmp_path / "kafka"))
    settings = load_settings()
    assert settings.database() == f"postgresql://u:{SECRET}@h/d"
    assert settings.kafka_client["security.protocol"] == "SASL_SSL"
    assert unknown_names(["ALERTPROD_DATABASE_URI_FILE", "ALERTPROD_KAFKA_CLIENT_FILE"]) == []
    monkeypatch.setenv("ALERTPROD_DATABASE_URI", "postgresql://other@h/d")  # the variable itself is nearer
    assert load_settings().database() == "postgresql://other@h/d"
    monkeypatch.setenv("ALERTPROD_SCHEMA_REGISTRY_FILE", str(tmp_path / "gone"))
    with pytest.raises(SettingsError, match=r"ALERTPROD_SCHEMA_REGISTRY_FILE=.*gone"):
        load_settings()
    monkeypatch.delenv("ALERTPROD_SCHEMA_REGISTRY_FILE")
    (tmp_path / "kafka").write_text(f'{{"sasl.password": {SECRET}}}')
    with pytest.raises(SettingsError, match="ALERTPROD_KAFKA_CLIENT") as caught:
        load_settings()
    assert SECRET not in str(caught.value)


def test_an_embedded_service_stays_on_this_machine_whatever_the_environment_says(monkeypatch):
    for name, value in {"HOST": "0.0.0.0", "ACCESS": "tokens", "ADMIN_TOKEN_FILE": "/gone", "TLS_CERTIFICATE": "/gone", "TLS_KEY": "/gone",
                        "OIDC_ISSUER": "https://x"}.items():  # fmt: skip
        monkeypatch.setenv(f"ALERTPROD_{name}", value)
    settings = load_settings(**STAY_HERE)
    for key, value in settings.environment().items():  # as its processes read them
        monkeypatch.setenv(key, value)
    for read in (settings, load_settings()):
        assert {name: getattr(read, name) for name in STAY_HERE} == STAY_HERE
