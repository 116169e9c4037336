"""The alert stream as its users meet it: registry facade, consumer, commands, replay, export, reconciler, sweep."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from uuid import uuid4

import fastavro
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import uvicorn
from astropy.time import Time
from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from lsst.alert.packet import SchemaRegistry as PublishedSchemas
from typer.testing import CliRunner

from alertprod_client import learn_schemas
from alerts import Alert, AlertArchive, decode, schema_ids
from alerts.consumer import AlertConsumer
from alerts.delivery.reconcile import Reconciler
from alerts.delivery.registry import SchemaRegistry, learn_wire_id
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import AlertError, BrokerUnavailable, SchemaRefused
from alerts.packets.schemas import schema
from alerts.packets.trim import trim
from alerts.packets.wire import decode_body, encode_body
from apdb import Database, VisitUnitOfWork
from apdb.queue import outbox
from service.api.app import create_app
from service.commands.main import app
from service.delivery import sweep_orphans
from service.local.campaign import read_alerts
from service.observe.ledger_measures import render_metrics
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError
from tasks.local_server import free_port
from tasks.waiting import wait_until
from tests.support.alert_inputs import frame_with
from tests.support.databases import copied_database
from tests.support.outbox_rows import PACKET, fill, patient

ROOT = Path(__file__).parents[2]
MIDPOINT = {1: 61000.1, 2: 61000.6, 3: 61001.2}


def alert_of(source, size=0):
    """The alert of a row of DiaSource."""
    trigger = {**PACKET["diaSource"], "diaSourceId": int(source.diaSourceId), "diaObjectId": int(source.diaObjectId),
               "visit": int(source.visit), "snr": float(source.snr), "band": "r", "midpointMjdTai": source.midpointMjdTai}  # fmt: skip
    packet = {**PACKET, "diaSourceId": int(source.diaSourceId), "diaSource": trigger}
    if size:
        packet["cutoutScience"] = bytes(size)
    return Alert(int(source.diaSourceId), int(source.diaObjectId), encode_body(packet))


@pytest.fixture(scope="module")
def world(template_database, kafka, tmp_path_factory):
    """Three visits for tests that read alone."""
    with copied_database(template_database) as uri:
        yield make_world(Database(uri), kafka, tmp_path_factory.mktemp("world"))


@pytest.fixture
def own_world(database, kafka, tmp_path):
    """Three visits for a test that changes them."""
    return make_world(database, kafka, tmp_path)


def make_world(database, kafka, folder):
    """Three visits with 20 sources of 10 objects each: rows, alert files, outbox, topic."""
    settings = Settings(
        database_uri=database.uri,
        kafka_brokers=kafka.brokers,
        archive_dir=str(folder / "alerts"),
        upload_dir=folder / "u",
        alert_topic=f"alerts-{uuid4().hex[:8]}",
    )
    archive = AlertArchive(settings.archive_dir)
    now = 61100.0
    for visit, midpoint in MIDPOINT.items():
        n = 20
        ids = visit * 1000 + np.arange(n)
        sources = frame_with("DiaSource", n).assign(
            diaSourceId=ids,
            diaObjectId=1 + np.arange(n) % 10,
            ssObjectId=0,
            visit=visit,
            detector=0,
            midpointMjdTai=midpoint,
            snr=np.arange(n).astype(float),
            timeWithdrawnMjdTai=np.nan,
            band="r",
            ra=10.0,
            dec=2.0,
        )
        objects = frame_with("DiaObject", 10).assign(
            diaObjectId=1 + np.arange(10), ra=10.0, dec=2.0, validityEndMjdTai=np.nan
        )
        forced = frame_with("DiaForcedSource", 0)
        file = archive.write(visit, 0, 1, map(alert_of, sources.itertuples()))
        with database.connect() as connection:
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, '
                "\"midpointMjdTai\") VALUES (%s, 0, 'simcam', '{}', 'x', 'done', 1, %s)",
                (visit, midpoint),
            )
            with VisitUnitOfWork(connection) as work:
                work.store(now + visit, objects, sources, forced)
                trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                work.add_outbox(
                    outbox.OutboxEntry(
                        visit,
                        0,
                        1,
                        file.name,
                        file.count,
                        file.checksum,
                        index=file.index,
                        id_xor=file.id_xor(),
                        traceparent=trace,
                        shutter_close=midpoint + 1e-4,
                    )
                )
                work.commit()
    target = KafkaTarget(kafka.brokers, settings.alert_topic, transactional_id=settings.alert_topic)
    ensure_topics(target)
    relay = Relay(database, archive, target)
    assert patient(relay) == 60
    relay.close()
    assert len(read_alerts(kafka.brokers, target.topic, 60)) == 60
    return settings, archive, target


def alertprod(settings, *arguments):
    """Run a command in this process: exit status, standard output, standard error."""
    done = CliRunner().invoke(app, ["alerts", *arguments], env=settings.environment())
    if isinstance(done.exception, AlertProdError):
        return 1, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def facade(world):
    """The API process of the service, over HTTP."""
    settings = world[0].model_copy(update={"port": free_port()})
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=settings.port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    assert wait_until(lambda: server.started, 30.0)
    yield f"http://127.0.0.1:{settings.port}"
    server.should_exit = True
    thread.join()


def test_the_confluent_deserializer_reads_alerts_through_the_facade(world, facade):
    settings, _, target = world
    client = SchemaRegistryClient({"url": facade})
    assert client.get_subjects() == sorted(["alert-corrections", "alert-packet", f"{settings.alert_topic}-value"])
    assert client.get_versions("alert-packet") == list(range(1, len(schema_ids()) + 1))
    latest = client.get_latest_version("alert-packet")
    assert (latest.schema_id, latest.version) == (1101, len(schema_ids()))
    for number in schema_ids():
        fastavro.parse_schema(json.loads(client.get_schema(number).schema_str))
    with pytest.raises(Exception, match="4040"):
        client.get_schema(4711)
    with pytest.raises(Exception, match="40401"):
        client.get_versions("nothing")
    read = AvroDeserializer(client)
    consumer = Consumer(
        {
            "bootstrap.servers": target.brokers,
            "group.id": uuid4().hex,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    consumer.subscribe([target.topic])
    found = []
    while len(found) < 60:
        message = consumer.poll(10)
        assert message is not None
        if message.error() is None:
            packet = read(message.value(), SerializationContext(target.topic, MessageField.VALUE))
            assert packet == decode(message.value())
            found.append(packet["diaSourceId"])
    consumer.close()
    assert sorted(found) == [v * 1000 + k for v in (1, 2, 3) for k in range(20)]


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (apt-get install kcat)")
def test_kcat_reads_alerts(world):
    """Keys, headers and values as they are."""
    _, _, target = world
    common = ["kcat", "-C", "-q", "-e", "-b", target.brokers, "-t", target.topic, "-o", "beginning"]
    done = subprocess.run([*common, "-f", "%k|%S|%h\\n"], capture_output=True, text=True, timeout=60, check=True)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert len(lines) == 60
    assert {key for key, _, _ in lines} == {str(k) for k in range(1, 11)}
    assert all(
        "visit=" in headers and "detector=0" in headers and "traceparent=00-" in headers for _, _, headers in lines
    )
    for partition in range(4):
        program = [*common, "-p", str(partition), "-c", "1", "-f", "%s"]
        done = subprocess.run(program, capture_output=True, timeout=60, check=True)
        if done.stdout:  # not every partition has a key
            packet = decode(done.stdout)
            assert packet["diaSourceId"] // 1000 == packet["diaSource"]["visit"]


def test_the_published_package_reads_our_alerts(world):
    """lsst-alert-packet, by its newest schema, and the container file by its own reader."""
    settings, archive, target = world
    published = PublishedSchemas.from_filesystem()
    number = max(n for n in published.known_ids if n <= 1101)
    own = published.get_by_id(number).definition
    with AlertConsumer(target.brokers, target.topic, uuid4().hex, until_end=True) as consumer:
        alert = next(iter(consumer))
    assert alert.packet["diaSource"]["visit"] in MIDPOINT
    with archive.open("0/1_0_1.avro") as data:
        packets = list(fastavro.reader(data))
    assert [p["diaSourceId"] for p in packets] == list(range(1000, 1020))
    # a reader of an older schema sees the older fields
    import io

    body = next(archive.stream(_file(settings, archive))).body
    older = fastavro.schemaless_reader(io.BytesIO(body), schema(), fastavro.parse_schema(own))
    assert older["diaSource"]["diaSourceId"] == 1000


def _file(settings, archive):
    from alerts.archive.selection import AlertSelection, alert_file

    return alert_file(AlertSelection(visit=1).rows(Database(settings.database()))[0])


def test_the_examples_run(world, facade, tmp_path):
    _, _, target = world
    program = [
        sys.executable,
        "-m",
        "examples.read_alerts",
        target.brokers,
        target.topic,
        str(tmp_path / "out"),
        "diaSource.snr > 17",
    ]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (0, "6 alerts\n"), done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        f"{v * 1000 + k}.{kind}" for v in MIDPOINT for k in (18, 19) for kind in ("csv", "png")
    )
    curve = pd.read_csv(tmp_path / "out" / "2019.csv")
    assert list(curve.columns) == ["time", "band", "flux", "fluxErr", "kind"]
    program = [sys.executable, "examples/plain_consumer.py", target.brokers, target.topic, facade]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 60), done.stderr


def test_the_client_learns_the_schemas_of_a_service(facade):
    assert learn_schemas(facade) == list(schema_ids())
    with pytest.raises(AlertError, match="404"):
        learn_schemas(facade, subject="nothing")
    with pytest.raises(TransientError, match="cannot be read"):
        learn_schemas(f"http://127.0.0.1:{free_port()}")


def test_alerts_become_notices_and_targets(world, facade):
    _, _, target = world
    program = [sys.executable, "examples/gcn_notices.py", target.brokers, target.topic, "diaSource.snr > 17"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    notices = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(n["id"] for n in notices) == sorted([str(v * 1000 + k)] for v in MIDPOINT for k in (18, 19))
    one = next(n for n in notices if n["id"] == ["1018"])
    utc = Time(one["trigger_time"].rstrip("Z"), scale="utc")
    assert abs(utc.tai.mjd - MIDPOINT[1]) * 86400 < 0.01
    program = [sys.executable, "examples/tom_data_service.py", facade, "10.0", "2.0", "5"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert {int(line.split()[0]) for line in done.stdout.splitlines() if not line.startswith(" ")} == set(range(1, 11))


@pytest.mark.parametrize("name", ["first_alert", "light_curves", "your_images"])
def test_the_notebooks_run(world, facade, name, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra `docs` is not installed")
    _, _, target = world
    given = {"ALERTPROD_KAFKA_BROKERS": target.brokers, "ALERTPROD_ALERT_TOPIC": target.topic, "ALERTPROD_API_URL": facade,
             "RA": "10.0", "DEC": "2.0", "MPLBACKEND": "Agg"}  # fmt: skip
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    book = nbformat.read(ROOT / "examples" / "notebooks" / f"{name}.ipynb", as_version=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the notebook packages
        nbclient.NotebookClient(book, timeout=120).execute(cwd=str(ROOT))
    shown = "".join(str(o.get("data", "")) for c in book.cells if c.cell_type == "code" for o in c.outputs)
    assert {"first_alert": "<svg", "light_curves": "diaObjectId", "your_images": "data:image/png"}[name] in shown


def test_headers_say_where_an_alert_comes_from(world):
    _, _, target = world
    with AlertConsumer(target.brokers, target.topic, uuid4().hex, until_end=True) as consumer:
        alerts = list(consumer)
    assert len(alerts) == 60
    for alert in alerts:
        assert int(alert.headers["visit"]) == alert.packet["diaSource"]["visit"]
        assert alert.headers["detector"] == "0"
        assert alert.headers["traceparent"].startswith("00-0af7651916cd43dd")
        assert abs(int(alert.headers["producer_timestamp"]) / 1000 - time.time()) < 600
        assert alert.key == str(alert.packet["diaSource"]["diaObjectId"])


def test_a_consumer_that_fails_gets_the_alert_again(world):
    settings, _, target = world
    group, seen = uuid4().hex, []
    with pytest.raises(RuntimeError, match="mine"), AlertConsumer(target.brokers, target.topic, group) as consumer:
        for alert in consumer:
            seen.append(alert.packet["diaSourceId"])
            if len(seen) == 25:
                raise RuntimeError("mine")
    again = []
    with AlertConsumer(target.brokers, target.topic, group, until_end=True) as consumer:
        for alert in consumer:
            again.append(alert.packet["diaSourceId"])

        # offsets are committed at intervals; transaction markers count
        assert wait_until(lambda: all(lag <= 10 for lag in consumer.lag().values()), 20.0)
        code, out, _ = alertprod(settings, "lag", "--json")
        (own,) = [g for g in json.loads(out) if g["group"] == group]
        assert (code, own["state"], own["members"]) == (0, "stable", 1)
        assert 0 <= own["lag"] <= 40
    assert seen[-1] == again[0] or seen[-1] in again
    assert sorted([*seen[:-1], *again]) == [v * 1000 + k for v in (1, 2, 3) for k in range(20)]


def test_filters_of_consumers(world):
    _, _, target = world
    text = "diaSource.snr >= 15 and diaSource.visit == 2"
    consumer = AlertConsumer(target.brokers, target.topic, uuid4().hex, filter=text, until_end=True)
    assert sorted(a.packet["diaSourceId"] for a in consumer) == [2015, 2016, 2017, 2018, 2019]  # outside a context, too
    consumer.close()


def test_what_is_no_alert_is_named_with_its_place(world, kafka):
    from confluent_kafka import Producer

    topic = f"junk-{uuid4().hex[:8]}"
    ensure_topics(KafkaTarget(kafka.brokers, topic), 1, progress=False)
    producer = Producer({"bootstrap.servers": kafka.brokers})
    producer.produce(topic, b"\x00\x00\x00\x04\x4dnonsense")
    producer.flush(10)
    for text in (None, "diaSource.snr > 1"):
        with AlertConsumer(kafka.brokers, topic, uuid4().hex, filter=text, until_end=True) as consumer:
            with pytest.raises(AlertError, match=rf"{topic} \[0\] at offset 0: the message is cut short or broken"):
                list(consumer)


def test_the_commands_of_the_archive(own_world, database, tmp_path):
    settings, _, target = own_world
    code, out, err = alertprod(
        settings, "tail", "--from-beginning", "--until-end", "--filter", "diaSource.snr > 18", "--json"
    )
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted(line["diaSourceId"] for line in lines) == [1019, 2019, 3019]
    code, out, err = alertprod(settings, "tail", "--from-beginning", "-n", "3")
    assert (code, len(out.splitlines())) == (0, 3)

    code, out, err = alertprod(
        settings, "show", "2003", "--json", "--png", str(tmp_path / "a.png"), "--fits", str(tmp_path / "f")
    )
    assert code == 0, err
    assert json.loads(out)["diaSource"]["diaSourceId"] == 2003
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [
        f"2003_{n}.fits" for n in ("difference", "science", "template")
    ]
    code, out, err = alertprod(settings, "show", "2003")
    assert (code, "diaObjectId" in out) == (0, True)
    program = [sys.executable, "-P", "-m", "service.commands.main", "alerts", "show", "99"]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **settings.environment()}
    )
    assert (done.returncode, done.stderr) == (1, "alertprod: alert: no alert 99 in the archive\n")

    code, out, err = alertprod(settings, "validate", "--json")
    assert (code, json.loads(out)) == (0, {"files": 3, "alerts": 60, "problems": []}), err
    with database.connect() as connection:
        connection.execute('DELETE FROM "DiaSource" WHERE "diaSourceId" = 3007')
    code, out, err = alertprod(settings, "validate", "--since", "61001", "--json")
    assert code == 1
    assert [p["problem"] for p in json.loads(out)["problems"]] == ["1 alerts have no stored source (first: 3007)"]

    code, out, err = alertprod(
        settings, "export", "--out", str(tmp_path / "x.parquet"), "--object", "4", "--no-cutouts", "--json"
    )
    assert (code, json.loads(out)["alerts"]) == (0, 6), err
    table = pq.read_table(tmp_path / "x.parquet")
    assert sorted(table["diaSourceId"].to_pylist()) == [1003, 1013, 2003, 2013, 3003, 3013]
    assert table["cutoutScience"].null_count == 6
    assert table["diaObject"].to_pylist()[0]["nDiaSources"] == PACKET["diaObject"]["nDiaSources"]
    code, out, err = alertprod(settings, "export", "--out", str(tmp_path / "y.parquet"))
    assert (code, "say which alerts" in err) == (1, True)

    code, out, err = alertprod(settings, "replay", "--to", target.topic, "--visit", "2")
    assert (code, "which the relay writes" in err) == (1, True)
    to = f"again-{uuid4().hex[:8]}"
    code, out, err = alertprod(settings, "replay", "--to", to, "--visit", "2", "--dry-run", "--json")
    assert json.loads(out) == {"visits": 1, "alerts": 20, "topic": to, "dryRun": True}, err
    code, out, err = alertprod(
        settings, "replay", "--to", to, "--since", "2025-11-21T12:00:00", "--until", "61001", "--json"
    )
    assert (code, json.loads(out)["alerts"]) == (0, 20), err
    again = read_alerts(target.brokers, to, 20)
    assert sorted(a.packet["diaSourceId"] for a in again) == list(range(2000, 2020))
    assert all("replayed" in a.headers and a.headers["visit"] == "2" for a in again)
    with AlertConsumer(target.brokers, target.topic, uuid4().hex, until_end=True) as consumer:
        first = {a.packet["diaSourceId"]: a for a in consumer}
    assert all(first[a.packet["diaSourceId"]].packet == a.packet for a in again)


def test_the_reconciler_finds_what_is_missing_or_twice(own_world, database):
    settings, _, target = own_world
    reconciler = Reconciler(database, target)
    count = 0
    while count < 60:
        count += reconciler.step(2.0)
    with database.connect() as connection:
        while connection.execute('SELECT min("caughtUpAt") FROM "AlertTopicOffset"').fetchone() == (None,):
            assert reconciler.step(1.0) == 0
        assert outbox.discrepancies(connection, target.topic) == []
        connection.execute('UPDATE "AlertOutbox" SET "publishedAt" = now() - interval \'1 hour\'')
        assert outbox.discrepancies(connection, target.topic) == []
        row = connection.execute('SELECT "secondsSinceShutterClose" FROM "AlertOutbox" WHERE visit = 1').fetchone()
        assert row[0] == pytest.approx((time.time() / 86400 + 40587 + 37 / 86400 - MIDPOINT[1] - 1e-4) * 86400, abs=600)
        connection.execute('UPDATE "AlertOutbox" SET "topicCount" = 19 WHERE visit = 1')  # one alert is not there
        connection.execute(
            'UPDATE "AlertOutbox" SET "topicXor" = "topicXor" # 5 WHERE visit = 3'
        )  # one lost, one twice
        found = outbox.discrepancies(connection, target.topic)
    assert [(d["visit"], d["nAlerts"], d["nInTopic"]) for d in found] == [(1, 20, 19), (3, 20, 20)]
    metrics = render_metrics(database, target.topic).decode()
    assert "alertprod_alert_visits_discrepant 2.0" in metrics
    assert "alertprod_relay_leads 0.0" in metrics
    assert 'alertprod_alert_latency_seconds{quantile="0.5"}' in metrics
    again = Reconciler(database, target)  # goes on where the last one stood
    assert again.step(2.0) == 0
    again.close()
    reconciler.close()
    code, out, err = alertprod(settings, "check", "--json")
    assert (code, len(json.loads(out))) == (1, 2), err


def test_orphaned_files_are_swept_and_no_others(database, tmp_path):
    archive = AlertArchive(tmp_path)
    fill(database, tmp_path, [1, 2], 3)
    for visit, attempt in ((1, 2), (1, 3), (2, 2), (3, 1), (3, 2)):
        archive.write(visit, 0, attempt, iter([]))
    (tmp_path / "0" / "3_0_1.avro.part").touch()
    with database.connect() as connection:
        for visit, state, attempt in ((1, "done", 3), (2, "running", 2), (3, "failed", 1), (4, "queued", 0)):
            connection.execute(
                'INSERT INTO "VisitLedger" (visit, detector, instrument, message, "messageHash", state, attempt, '
                "\"updatedAt\") VALUES (%s, 0, 'simcam', '{}', 'x', %s, %s, now() - interval '2 hours')",
                (visit, state, attempt),
            )
    assert sweep_orphans(database, archive, older_than_s=3 * 3600) == 0  # too young
    assert sweep_orphans(database, archive) == 4
    left = sorted(p.name for p in (tmp_path / "0").iterdir())
    assert left == ["1_0_1.avro", "2_0_1.avro", "2_0_2.avro", "3_0_2.avro"]  # what runs now, and what nobody knows of


def test_a_broken_file_is_held_and_the_others_go_on(database, kafka, tmp_path):
    target = KafkaTarget(kafka.brokers, f"alerts-{uuid4().hex[:8]}", transactional_id=uuid4().hex)
    ensure_topics(target)
    fill(database, tmp_path, [1, 2, 3], 40)
    path = tmp_path / "0" / "2_0_1.avro"
    good = path.read_bytes()
    path.write_bytes(good[:-2000] + bytes(2000))
    relay = Relay(database, AlertArchive(tmp_path), target)
    deadline = time.monotonic() + 60
    sent = 0
    while sent < 80:
        assert time.monotonic() < deadline
        try:
            sent += relay.step()
        except BrokerUnavailable:
            continue
        sent = database_sum(database)
    with database.connect() as connection:
        reason = connection.execute('SELECT "heldReason" FROM "AlertOutbox" WHERE visit = 2').fetchone()[0]
        assert "differs from what was written at alert" in reason
        path.write_bytes(good)  # restored from a backup
        from apdb.queue.holds import release_held

        assert release_held(connection, 2, 0) == 40
    while database_sum(database) < 120:
        assert time.monotonic() < deadline
        patient(relay)
    relay.close()
    ids = sorted(a.packet["diaSourceId"] for a in read_alerts(target.brokers, target.topic, 120))
    assert ids == [v * 1000 + k for v in (1, 2, 3) for k in range(40)]


def database_sum(database):
    with database.connect() as connection:
        return (
            connection.execute('SELECT sum(count) FROM "AlertOutbox" WHERE "publishedAt" IS NOT NULL').fetchone()[0]
            or 0
        )


def test_oversized_packets_are_trimmed_and_say_so(database, kafka, tmp_path):
    from confluent_kafka.admin import AdminClient, NewTopic

    target = KafkaTarget(kafka.brokers, f"alerts-{uuid4().hex[:8]}", transactional_id=uuid4().hex)
    admin = AdminClient(target.settings())
    for future in admin.create_topics([NewTopic(target.topic, 1, 1, config={"max.message.bytes": "150000"})]).values():
        future.result()
    ensure_topics(target)
    row = pd.Series({"diaSourceId": 7, "diaObjectId": 3, "visit": 5, "snr": 3.0, "midpointMjdTai": 61000.0})
    archive = AlertArchive(tmp_path)
    big = alert_of(row)
    packet = decode_body(big.body)
    packet["prvDiaForcedSources"] = packet["prvDiaForcedSources"] * 1000
    big = Alert(7, 3, encode_body(packet))
    file = archive.write(5, 0, 1, [alert_of(row), big])
    assert len(big.body) > 150_000 > len(alert_of(row).body)
    with database.connect() as connection:
        outbox.add(connection, outbox.OutboxEntry(5, 0, 1, file.name, 2, file.checksum, index=file.index))
    relay = Relay(database, archive, target)
    assert patient(relay) == 2
    relay.close()
    whole, trimmed = read_alerts(target.brokers, target.topic, 2)
    assert "trimmed" not in whole.headers
    want, steps = trim(big.body, 150_000 - 1024)
    assert trimmed.headers["trimmed"] == steps
    assert trimmed.packet == decode_body(want)


def test_a_small_topic_gets_batches_of_its_size_and_no_packet_that_cannot_be_cropped_stands_in_the_way(
    database, kafka, tmp_path
):
    topic = f"alerts-{uuid4().hex[:8]}"
    target = KafkaTarget(kafka.brokers, topic, transactional_id=f"relay-{topic}")
    ensure_topics(target, 1, largest=100_000)
    noise = np.random.default_rng(1)
    sizes = [30_000] * 9 + [200_000]  # bytes of a cutout that is no FITS, and does not compress
    packets = [{**PACKET, "diaSourceId": k, "cutoutScience": noise.bytes(size)} for k, size in enumerate(sizes)]
    file = AlertArchive(tmp_path).write(5, 0, 1, [Alert(p["diaSourceId"], 1, encode_body(p)) for p in packets])
    with database.connect() as connection:
        outbox.add(connection, outbox.OutboxEntry(5, 0, 1, file.name, len(sizes), file.checksum, index=file.index))
    relay = Relay(database, AlertArchive(tmp_path), target)
    try:
        assert patient(relay) == len(sizes)
    finally:
        relay.close()
    *whole, trimmed = read_alerts(target.brokers, target.topic, len(sizes))
    assert [len(a.packet["cutoutScience"]) for a in whole] == sizes[:-1]
    assert trimmed.headers["trimmed"].endswith("cutoutScience")


class FakeRegistry:
    """Answers of a registry, played by httpx's own transport: stands in for what a real one says when it refuses."""

    def __init__(self, replies):
        self.replies, self.asked = replies, []

    def __call__(self, request):
        import httpx

        self.asked.append((request.method, request.url.path))
        status, body = self.replies[request.url.path]
        return httpx.Response(status, json=body)


def test_the_registry_decides_at_the_start(database):
    import httpx

    def registry(replies):
        found = SchemaRegistry("http://user:secret@registry:8081/api")
        fake = FakeRegistry(replies)
        found._client = httpx.Client(transport=httpx.MockTransport(fake))
        return found, fake

    subject = "/api/subjects/alert-packet"
    check = "/api/compatibility/subjects/alert-packet/versions/latest"
    one, fake = registry(
        {subject: (404, {}), check: (200, {"is_compatible": True}), f"{subject}/versions": (200, {"id": 7})}
    )
    assert one.name == "http://registry:8081/api"  # no password
    with database.connect() as connection:
        down, _ = registry({subject: (503, {})})
        with pytest.raises(Exception, match="HTTP 503"):
            learn_wire_id(connection, down, "alert-packet")  # never asked before
        assert learn_wire_id(connection, one, "alert-packet") == 7
        assert [path for _, path in fake.asked] == [subject, check, f"{subject}/versions"]
        assert learn_wire_id(connection, down, "alert-packet") == 7  # remembered
        imported, fake = registry({subject: (200, {"id": 1101})})
        assert learn_wire_id(connection, imported, "alert-packet") == 1101
        refused, _ = registry({subject: (404, {}), check: (200, {"is_compatible": False, "messages": ["field gone"]})})
        with pytest.raises(SchemaRefused, match="incompatible with subject alert-packet: field gone"):
            learn_wire_id(connection, refused, "alert-packet")
        with pytest.raises(SchemaRefused, match="HTTP 403"):
            learn_wire_id(connection, registry({subject: (403, {})})[0], "alert-packet")
