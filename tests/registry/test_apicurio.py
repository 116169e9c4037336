"""Against a real registry, Apicurio 3.0.9 with PostgreSQL storage: ``make registry-test`` (109 MB from Maven Central, once)."""

import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from confluent_kafka import Consumer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from alerts import SCHEMA_ID, AlertArchive, decode, schema_document
from alerts.delivery.registry import SchemaRegistry, learn_wire_id
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import RegistryUnavailable, SchemaRefused
from tasks.local_server import free_port
from tests.support.outbox_rows import fill, patient

pytestmark = pytest.mark.skipif(not os.environ.get("ALERTPROD_APICURIO"), reason="run by make registry-test")

ARTIFACT = "io.apicurio:apicurio-registry-app:3.0.9:tar.gz:all"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alertprod" / "apicurio-3.0.9"


def installed():
    """The program, fetched and unpacked once."""
    jar = CACHE / "apicurio-registry-app-3.0.9-runner.jar"
    if not jar.exists():
        partial = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
        partial.mkdir(parents=True)
        fetch = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={partial}"]
        subprocess.run(fetch, check=True, timeout=900)
        (archive,) = partial.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        archive.unlink()
        shutil.rmtree(CACHE, ignore_errors=True)
        partial.rename(CACHE)
    return jar


class Apicurio:
    """The registry as a process."""

    def __init__(self, uri, folder):
        self.port, self.folder = free_port(), folder
        parts = psycopg.conninfo.conninfo_to_dict(uri)
        self.environment = {
            **os.environ,
            "QUARKUS_HTTP_PORT": str(self.port),
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "APICURIO_STORAGE_KIND": "sql",
            "APICURIO_STORAGE_SQL_KIND": "postgresql",
            "APICURIO_DATASOURCE_USERNAME": parts["user"],
            "APICURIO_DATASOURCE_URL": f"jdbc:postgresql://{parts['host']}:{parts['port']}/{parts['dbname']}",
            "APICURIO_DATASOURCE_PASSWORD": parts.get("password", "x"),
        }
        self.url = f"http://127.0.0.1:{self.port}/apis/ccompat/v7"

    def start(self):
        with (self.folder / "apicurio.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["java", "-Xmx256m", "-jar", str(installed())], env=self.environment, stdout=log, stderr=log, cwd=CACHE
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/subjects", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.3)
        pytest.fail((self.folder / "apicurio.log").read_text()[-3000:])

    def stop(self, now=False):
        self.process.send_signal(signal.SIGKILL if now else signal.SIGTERM)
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def registry(postgres, tmp_path_factory):
    base = postgres.uri.rsplit("/", 1)[0]
    with psycopg.connect(f"{base}/postgres", autocommit=True) as connection:
        connection.execute("CREATE DATABASE apicurio")
    server = Apicurio(f"{base}/apicurio", tmp_path_factory.mktemp("apicurio"))
    server.start()
    yield server
    server.stop()


def test_schema_is_registered_once_and_kept_through_a_kill(registry, database):
    one = SchemaRegistry(registry.url)
    first = one.register("alert-packet")
    assert one.register("alert-packet") == first
    registry.stop(now=True)
    with pytest.raises(RegistryUnavailable):
        one.register("alert-packet")
    registry.start()
    assert one.register("alert-packet") == first
    with database.connect() as connection:
        assert learn_wire_id(connection, one, "alert-packet") == first
        registry.stop()
        assert learn_wire_id(connection, one, "alert-packet") == first  # away: the one that it gave
        registry.start()


def test_incompatible_schema_is_refused_before_anything_is_published(registry):
    client = SchemaRegistryClient({"url": registry.url})
    subject = f"s-{uuid4().hex[:6]}"
    other = (
        '{"type": "record", "name": "alert", "namespace": "lsst.v11_1", "fields": [{"name": "only", "type": "long"}]}'
    )
    client.register_schema(subject, Schema(other, "AVRO"))
    client.set_compatibility(subject_name=subject, level="FULL_TRANSITIVE")
    with pytest.raises(SchemaRefused, match=r"incompatible with subject|HTTP 4\d\d"):
        SchemaRegistry(registry.url).register(subject)


def test_the_confluent_deserializer_reads_alerts_by_the_registrys_id(registry, database, kafka, tmp_path):
    wire_id = SchemaRegistry(registry.url).register("alert-packet")
    target = KafkaTarget(kafka.brokers, f"alerts-{uuid4().hex[:8]}", transactional_id=uuid4().hex)
    ensure_topics(target)
    fill(database, tmp_path, [1], 20)
    relay = Relay(database, AlertArchive(tmp_path), target, wire_id)
    assert patient(relay) == 20
    relay.close()
    client = SchemaRegistryClient({"url": registry.url})
    assert client.get_schema(wire_id).schema_str == schema_document()
    read = AvroDeserializer(client)
    consumer = Consumer({"bootstrap.servers": kafka.brokers, "group.id": uuid4().hex, "auto.offset.reset": "earliest"})
    consumer.subscribe([target.topic])
    found = []
    while len(found) < 20:
        message = consumer.poll(20)
        assert message is not None
        packet = read(message.value(), SerializationContext(target.topic, MessageField.VALUE))
        assert packet == decode(message.value(), SCHEMA_ID)
        found.append(packet["diaSourceId"])
    consumer.close()
    assert sorted(found) == list(range(1000, 1020))
