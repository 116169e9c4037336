"""What the service measures: promtool accepts it, dashboards and rules ask for nothing else, their queries run."""

import json
import re
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
import yaml
from confluent_kafka import Consumer, Producer, TopicPartition
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import BrokerUnavailable
from apdb import Ledger, VisitState
from apdb.operate.readers import make_reader
from apdb.queue.ledger import Outcome, finish
from apdb.queue.outbox import OutboxEntry, add, assign_order, mark
from service.observe.ledger_measures import render_metrics
from service.observe.listener import Listener
from service.observe.measures import (
    BROKER_LAG,
    BROKER_OFFSET,
    DEPENDENCY_UP,
    INGESTED,
    MEASURES,
    count_published,
    count_request,
    count_visit,
)
from service.observe.watch import ask_lag
from service.settings import load_settings
from tasks.local_server import free_port
from tests.support.http import asking
from tests.support.programs import program_or_skip

FILES = Path(__file__).parents[2] / "helm" / "alertprod" / "files"
BOARDS = sorted((FILES / "dashboards").glob("*.json"))
NAME = re.compile(r"\b(?:alertprod|process)_[a-z0-9_]+")


@pytest.fixture
def filled(database):
    """A database with visits that are done, wait, work and failed, and alerts that are out, wait and are held."""
    ledger = Ledger(database)
    for visit in range(6):
        ledger.submit({"instrument": "cam", "science": f"/{visit}.fits", "band": "r"}, visit, 0)
    counts, steps = {"diaSources": 9, "newObjects": 4, "alerts": 9}, {"open": 0.5, "difference": 4.0}
    metrics = {"scaleDiffimVarianceFactor": 1.25, "convolved": "template"}
    with database.connect() as connection:
        for _ in range(3):
            claim = ledger.claim("test", 60.0, 0.0)
            held = "failed the gate" if claim.visit == 2 else None
            add(connection, OutboxEntry(claim.visit, 0, claim.attempt, f"{claim.visit}.avro", 9, "0" * 64, held=held))
            finish(
                connection,
                claim.visit,
                0,
                claim.attempt,
                Outcome(VisitState.DONE, counts, steps, 60300.1, "r", metrics),
            )
        assign_order(connection)
        (first,) = connection.execute('SELECT min("publishOrder") FROM "AlertOutbox"').fetchone()
        mark(connection, first, 9, 42.0, complete=True)
    ledger.fail(ledger.claim("test", 60.0, 0.0), "wcs_missing", "no celestial WCS", retry_in_s=None)
    assert ledger.claim("test", 60.0, 0.0) is not None
    return database


@pytest.fixture(scope="module")
def measured():
    """Counts of every kind in this process."""
    count_visit({"seconds": {"open": 0.5}, "counts": {"alerts": 9}, "band": "r"}, "done")
    count_visit({"code": "wcs_missing"}, "failed")
    count_published({"alerts": 9, "bright": 2}, 42.0)
    count_request("GET", "/v1/visits", 200, 0.01)
    for outcome in ("entered", "dead_letter", "again"):
        INGESTED.labels(outcome).inc()
    for gauge in (BROKER_LAG, BROKER_OFFSET):
        gauge.labels("visits", "0").set(3)
    for name in ("database", "broker"):
        DEPENDENCY_UP.labels(name).set(1)
    return MEASURES


def families(text):
    return {f.name: f for f in text_string_to_metric_families(text)}


def test_promtool_accepts_the_metrics(filled, measured):
    text = render_metrics(filled, "alerts", measured)
    done = subprocess.run(
        [program_or_skip("promtool"), "check", "metrics"], input=text, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_what_the_database_knows_is_told(filled):
    told = families(render_metrics(filled).decode())

    def value(name, **labels):
        (found,) = [s.value for s in told[f"alertprod_{name}"].samples if s.labels == labels and s.name.endswith(name)]
        return found

    assert [value("visits", state=s) for s in ("done", "failed", "running", "queued")] == [3, 1, 1, 1]
    assert (value("queue_ready"), value("lease_overdue_seconds")) == (1, 0)
    assert 0 < value("running_longest_seconds") <= value("queue_oldest_seconds") < 60
    assert (value("outbox_unpublished"), value("alerts_published"), value("alerts_held")) == (9, 9, 9)
    assert value("alert_latency_seconds", quantile="0.5") == 42.0
    assert value("visit_quality_median", metric="scaleDiffimVarianceFactor") == 1.25
    assert value("step_seconds_mean", step="difference") == 4.0


def test_an_overdue_lease_shows(filled):
    with filled.session() as connection:
        connection.execute("UPDATE \"VisitLease\" SET until = now() - interval '90 seconds'")
    told = families(render_metrics(filled).decode())
    assert 89 < told["alertprod_lease_overdue_seconds"].samples[0].value < 100


def test_a_database_that_is_away_is_told_in_time():
    from apdb import Database

    text = render_metrics(Database("postgresql://u@127.0.0.1:1/x"), None, CollectorRegistry())
    assert b"alertprod_up 0.0" in text


def given_names(text):
    return {s.name for f in families(text).values() for s in f.samples}


def queries(board):
    panels = json.loads(board.read_text(encoding="utf-8"))["panels"]
    return [(p["title"], t.get("expr") or t["rawSql"], t.get("format")) for p in panels for t in p["targets"]]


def test_rules_and_dashboards_ask_for_what_there_is(filled, measured):
    names = given_names(render_metrics(filled, "alerts", measured).decode())
    rules = yaml.safe_load((FILES / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    asked = [r["expr"] for r in rules] + [text for b in BOARDS for _, text, form in queries(b) if form is None]
    wanted = {name for text in asked for name in NAME.findall(text)}
    assert wanted - names == set()
    assert len(wanted) > 25


def test_every_query_of_the_dashboard_of_metrics_runs_in_prometheus(filled, measured, tmp_path):
    """A real Prometheus reads a real port twice, and answers every query with something."""
    program, port = program_or_skip("prometheus"), free_port()
    listener = Listener(("127.0.0.1", 0), dict, lambda: render_metrics(filled, "alerts", measured)).start()
    target = f"127.0.0.1:{listener.server_address[1]}"
    jobs = [{"job_name": "alertprod", "static_configs": [{"targets": [target]}]}]
    config = {
        "global": {"scrape_interval": "500ms"},
        "scrape_configs": jobs,
        "rule_files": [str(FILES / "alerts.yaml")],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    server = subprocess.Popen(
        [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
            wait_for_scrapes(client, 4)
            found = {title: ask(client, text) for title, text, form in queries(FILES / "dashboards" / "service.json")}
            rules = client.get("/rules").json()["data"]["groups"][0]["rules"]
    finally:
        server.terminate()
        server.wait(timeout=30)
        listener.shutdown()
        listener.server_close()
    assert {title: f["error"] for title, f in found.items() if f["status"] != "success"} == {}
    assert [title for title, f in found.items() if not f["data"]["result"]] == []
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}


def ask(client, text):
    return client.get("/query", params={"query": text.replace("$__rate_interval", "1m")}).json()


def wait_for_scrapes(client, wanted):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            result = ask(client, "count_over_time(up[1m])")["data"]["result"]
            if result and float(result[0]["value"][1]) >= wanted:
                return
        except (httpx.HTTPError, KeyError, ValueError):  # not there, or 503 in plain text while it starts
            pass
        time.sleep(0.1)
    pytest.fail("Prometheus did not read the port")


MACROS = {
    r"\$__timeFilter\(([^)]+)\)": r"\1 BETWEEN now() - interval '1 day' AND now() + interval '1 day'",
    r"\$__timeGroupAlias\(([^,]+), \$__interval\)": r"date_bin('5 minutes', \1, 'epoch') AS time",
    r"\$object\b": "0",
}


def as_grafana_sends(text):
    for macro, meaning in MACROS.items():
        text = re.sub(macro, meaning, text)
    assert "$" not in text
    return text


def test_every_query_of_the_dashboard_of_the_survey_runs_as_the_reader(filled, postgres):
    role = f"board_{filled.uri.rsplit('/', 1)[1][:12]}"
    with filled.connect() as connection:
        make_reader(connection, role, None)
    try:
        uri = re.sub(r"//[^@]*@", f"//{role}@", filled.uri)
        with psycopg.connect(uri) as reader:
            rows = {t: check(reader, text, form) for t, text, form in queries(FILES / "dashboards" / "survey.json")}
    finally:
        with filled.connect() as connection:
            connection.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')
    assert {t for t, found in rows.items() if not found} <= {"Newest DiaObjects", "Light curve of $object"}
    night = rows["Nights"][0]
    assert night[:4] == (60299, "r", 3, 3)


def check(reader, text, form):
    cursor = reader.execute(as_grafana_sends(text))
    names = [c.name for c in cursor.description]
    assert len(set(names)) == len(names)
    if form == "time_series":
        assert names[0] == "time"
    return cursor.fetchall()


def test_the_api_is_ready_without_a_broker_and_says_so(database, tmp_path):
    def asked(brokers):
        settings = load_settings(database_uri=database.uri, kafka_brokers=brokers, upload_dir=tmp_path)
        answer = asking(settings)("GET", "/readyz")
        return answer.status_code, answer.text

    assert asked("") == (200, "ready\n")
    status, text = asked("127.0.0.1:1")
    assert (status, text.startswith("ready, degraded: no broker answers")) == (200, True)
    assert "127.0.0.1" not in text


def test_every_request_is_a_line_and_a_measure_and_probes_are_none(database, tmp_path, caplog):
    ask = asking(load_settings(database_uri=database.uri, upload_dir=tmp_path))
    with caplog.at_level("INFO", "alertprod.requests"):
        ask("GET", "/healthz")
        missing = ask("GET", "/v1/visits/424242/0?secret=x")
        ask("GET", "/nothing/at/all")
    lines = [r for r in caplog.records if r.name == "alertprod.requests"]
    assert [r.message for r in lines] == ["GET /v1/visits/424242/0 404", "GET /nothing/at/all 404"]
    first = lines[0]
    assert (first.method, first.status, first.principal) == ("GET", 404, "local:anyone")
    assert first.bytes == len(missing.content)
    assert 0 < first.seconds < 10
    counted = {
        (s.labels["route"], s.labels["status"]): s.value
        for f in MEASURES.collect()
        for s in f.samples
        if s.name == "alertprod_http_request_seconds_count"
    }
    assert counted["/v1/visits/{visit}/{detector}", "404"] >= 1
    assert counted["other", "404"] >= 1


def test_the_lag_is_what_the_broker_has_of_the_group(kafka):
    """Four messages, one entered: three are behind, until the group commits; a topic that is not there has none."""
    name = uuid4().hex[:8]
    settings = load_settings(kafka_brokers=kafka.brokers, visit_topic=f"visits-{name}", ingest_group=f"ingest-{name}")
    ask = ask_lag(settings)

    def lag():
        deadline = time.monotonic() + 30
        while True:
            try:
                ask()
                break
            except BrokerUnavailable:  # its coordinator of groups is still loading
                assert time.monotonic() < deadline
        samples = [s for f in BROKER_LAG.collect() for s in f.samples if s.labels["topic"] == settings.visit_topic]
        return sum(s.value for s in samples) if samples else None

    assert lag() is None
    ensure_topics(KafkaTarget(kafka.brokers, settings.visit_topic), 2, progress=False)
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for number in range(4):
        producer.produce(settings.visit_topic, b"{}", partition=number % 2)
    assert producer.flush(30) == 0
    assert lag() == 4
    consumer = Consumer({"bootstrap.servers": kafka.brokers, "group.id": settings.ingest_group})
    consumer.commit(offsets=[TopicPartition(settings.visit_topic, 0, 1)], asynchronous=False)
    consumer.close()
    assert lag() == 3
