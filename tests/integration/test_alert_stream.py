"""The alert stream as its users meet it: registry facade, consumers, client, examples, notebooks, filters."""

import json
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from uuid import uuid4

import fastavro
import pandas as pd
import pytest
import uvicorn
from astropy.time import Time
from confluent_kafka import Consumer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from lsst.alert.packet import SchemaRegistry as PublishedSchemas

from alertprod_client import learn_schemas
from alerts import decode, schema_ids
from alerts.consumer import AlertConsumer
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import AlertError
from alerts.packets.schemas import schema
from apdb import Database
from service.api.app import create_app
from tasks.errors import TransientError
from tasks.local_server import free_port
from tasks.waiting import wait_until
from tests.support.alert_world import MIDPOINT, alertprod, make_world
from tests.support.databases import copied_database

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(template_database, kafka, tmp_path_factory):
    """Three visits for tests that read alone."""
    with copied_database(template_database) as uri:
        yield make_world(Database(uri), kafka, tmp_path_factory.mktemp("world"))


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
