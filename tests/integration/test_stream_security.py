"""TLS, SASL/SCRAM and ACLs on a real broker: what is allowed works, what is refused is said clearly."""

import json
import time
from uuid import uuid4

import pandas as pd
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from alertprod_client.scan import read_corrections
from alerts import AlertArchive
from alerts.consumer import AlertConsumer
from alerts.delivery.relay import Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import BrokerRefused, BrokerUnavailable
from apdb import Ledger
from apdb.queue import corrections
from apdb.queue.status import service_status
from service.intake import ingest as ingest_module
from service.local.campaign import read_alerts
from service.local.embedded_kafka import EmbeddedKafka
from service.settings import Settings
from tasks.local_server import free_port
from tasks.waiting import wait_until
from tests.support.certificates import authority, keystore
from tests.support.ingest import ingesting, message, settings_for
from tests.support.outbox_rows import fill, patient

USERS = {n: f"{n}-secret" for n in ("admin", "relay", "reader", "nobody", "ingest")}


@pytest.fixture(scope="module")
def secure(server_dir):
    """A broker that talks TLS, knows users by SCRAM-SHA-512 and allows what ACLs allow."""
    folder = server_dir / "tls"
    folder.mkdir()
    signer, issuer = authority(folder, "authority")
    authority(folder, "stranger")
    port, inner = free_port(), free_port()
    properties = {
        "listeners": f"CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{inner},CONTROLLER://127.0.0.1:{{controller}}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{inner}",
        "inter.broker.listener.name": "INTERNAL",
        "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config":
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "ssl.keystore.type": "PEM", "ssl.keystore.location": str(keystore(folder, signer, issuer)),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
    }  # fmt: skip
    with EmbeddedKafka(server_dir / "kafka-secure", port=port, properties=properties, scram=USERS) as broker:
        broker.folder = folder
        allow(
            broker,
            "relay",
            (ResourceType.TOPIC, "alerts", "WRITE"),
            (ResourceType.TOPIC, "alerts", "READ"),
            (ResourceType.TOPIC, "alerts", "DESCRIBE"),
            (ResourceType.TOPIC, "alerts", "DESCRIBE_CONFIGS"),
            (ResourceType.TRANSACTIONAL_ID, "relay", "WRITE"),
            (ResourceType.GROUP, "relay", "READ"),
        )
        allow(broker, "reader", (ResourceType.TOPIC, "alerts", "READ"), (ResourceType.GROUP, "reader", "READ"))
        yield broker


def client(broker, user, password=None, ca="authority"):
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": user,
        "sasl.password": password or USERS[user],
        "ssl.ca.location": str(broker.folder / f"{ca}.pem"),
    }


def allow(broker, user, *rules):
    admin = AdminClient({"bootstrap.servers": broker.brokers, **client(broker, "admin")})
    bindings = [
        AclBinding(
            kind,
            name,
            ResourcePatternType.PREFIXED,
            f"User:{user}",
            "*",
            AclOperation[operation],
            AclPermissionType.ALLOW,
        )
        for kind, name, operation in rules
    ]
    deadline = time.monotonic() + 60
    for future in admin.create_acls(bindings).values():
        future.result(timeout=max(1, deadline - time.monotonic()))


def target(broker, user, topic, timeout_s=20.0, **changes):
    settings = tuple(client(broker, user, **changes).items())
    return KafkaTarget(broker.brokers, topic, settings, f"relay-{uuid4().hex[:6]}", timeout_s)


def test_allowed_users_publish_and_read_over_tls(secure, database, tmp_path):
    topic = f"alerts-{uuid4().hex[:8]}"
    ensure_topics(target(secure, "admin", topic))
    fill(database, tmp_path, [1, 2], 20)
    relay = Relay(database, AlertArchive(tmp_path), target(secure, "relay", topic))
    assert patient(relay) == 40
    relay.close()
    assert len(read_alerts(secure.brokers, topic, 40, client(secure, "reader"))) == 40


@pytest.mark.parametrize(("changes", "says"), [
    ({"password": "wrong"}, "user name, password and mechanism"),
    ({"ca": "stranger"}, "certificate must be signed by ssl.ca.location"),
])  # fmt: skip
def test_wrong_password_and_foreign_certificate_are_told_from_an_absent_broker(secure, changes, says):
    with pytest.raises(BrokerRefused, match=says) as told:
        ensure_topics(target(secure, "admin", "alerts-x", 6.0, **changes))
    assert "secret" not in str(told.value)
    assert told.value.retriable
    reader = client(secure, "reader", **changes)
    with pytest.raises(BrokerRefused, match=says):
        with AlertConsumer(secure.brokers, "alerts-x", "reader", client=reader) as consumer:
            next(iter(consumer))


def test_a_client_without_tls_gets_no_connection(secure):
    with pytest.raises(BrokerUnavailable):
        ensure_topics(KafkaTarget(secure.brokers, "alerts-x", timeout_s=3.0))


def test_what_acls_deny_is_named(secure, database, tmp_path):
    topic = f"alerts-{uuid4().hex[:8]}"
    with pytest.raises(BrokerRefused, match=r"topic alerts-.*Create"):
        ensure_topics(target(secure, "nobody", topic))
    ensure_topics(target(secure, "admin", topic))
    ensure_topics(target(secure, "admin", f"private-{topic}"))
    fill(database, tmp_path, [1], 5)
    archive = AlertArchive(tmp_path)
    denied = Relay(database, archive, target(secure, "nobody", topic))
    with pytest.raises(BrokerRefused, match="Write, Describe"):
        denied.step()
    denied.close()
    elsewhere = Relay(database, archive, target(secure, "relay", f"private-{topic}"))  # may write alerts-* only
    with pytest.raises(BrokerRefused, match="Write, Describe"):
        elsewhere.step()
    elsewhere.close()
    other_id = Relay(
        database, archive, KafkaTarget(secure.brokers, topic, tuple(client(secure, "relay").items()), "another-id")
    )
    with pytest.raises(BrokerRefused, match="transactional id"):
        other_id.step()
    other_id.close()
    with pytest.raises(BrokerRefused, match="topics alerts-"):
        with AlertConsumer(secure.brokers, topic, "reader-x", client=client(secure, "nobody")) as consumer:
            next(iter(consumer))
    relay = Relay(database, archive, target(secure, "relay", topic))  # nothing was lost by the refusals
    assert patient(relay) == 5
    relay.close()


def test_corrections_that_may_not_be_written_wait_and_say_so(secure, database, tmp_path):
    """Nothing passes them, their age is shown, and all comes once and in order when the right is given."""
    topic = f"alerts-{uuid4().hex[:8]}"
    denied = f"{topic}.corrections"
    ensure_topics(target(secure, "admin", topic))
    admin = AdminClient({"bootstrap.servers": secure.brokers, **client(secure, "admin")})
    literal = (ResourceType.TOPIC, denied, ResourcePatternType.LITERAL, "User:relay", "*", AclOperation.WRITE)
    deny = [AclBinding(*literal, AclPermissionType.DENY)]
    for future in admin.create_acls(deny).values():
        future.result(timeout=60)
    fill(database, tmp_path, [1], 5)
    to = target(secure, "relay", topic)
    relay = Relay(database, AlertArchive(tmp_path), to)
    assert patient(relay) == 5
    with database.session() as connection:
        ids = {"diaSourceId": 1000, "oldDiaObjectId": 7, "newDiaObjectId": 0, "visit": 1, "detector": 0}
        corrections.add(connection, pd.DataFrame([ids | {"kind": "retracted"}]), "a satellite", 61000.5)
    with pytest.raises(BrokerRefused, match=f"{denied}.*Write and Describe on <alert topic>.corrections"):
        relay.step()
    fill(database, tmp_path, [2], 3)  # committed after the correction has its place
    with pytest.raises(BrokerRefused, match=denied):
        relay.step()
    status = service_status(database)
    assert (status["unpublished_corrections"], status["unpublished_alerts"]) == (1, 3)
    with database.session() as connection:
        connection.execute('UPDATE "AlertOutbox" SET "heldReason" = %s WHERE visit = 2', ("by hand",))
        assert service_status(database)["oldest_unpublished_s"] > 0  # of the correction alone
        connection.execute('UPDATE "AlertOutbox" SET "heldReason" = NULL WHERE visit = 2')
    for removed in admin.delete_acls([AclBindingFilter(*literal, AclPermissionType.DENY)]).values():
        removed.result(timeout=60)
    assert patient(relay) == 4
    relay.close()
    assert len(read_alerts(secure.brokers, topic, 8, client(secure, "reader"))) == 8
    known, _ = read_corrections(secure.brokers, topic, client(secure, "admin"))
    assert known.is_withdrawn(1000)
    assert not known.is_withdrawn(1001)
    assert service_status(database)["oldest_unpublished_s"] == 0


def test_a_topic_of_dead_letters_that_may_not_be_written_holds_up_nothing(secure, database, tmp_path, monkeypatch):
    """The row says so; when it is allowed the topic gets the letter."""
    monkeypatch.setattr(ingest_module, "LETTERS_AGAIN_S", 0.5)
    settings = settings_for(database.uri, secure, tmp_path, kafka_client=client(secure, "ingest"))
    visits = settings.visit_topic
    for topic in (visits, f"{visits}.dlq"):
        ensure_topics(target(secure, "admin", topic), progress=False)
    read = [(ResourceType.TOPIC, visits, name) for name in ("READ", "DESCRIBE")]
    allow(secure, "ingest", *read, (ResourceType.GROUP, settings.ingest_group, "READ"))
    producer = Producer({"bootstrap.servers": secure.brokers, **client(secure, "admin")})
    for value in (b"{no json", json.dumps(message(tmp_path, 1)).encode()):
        producer.produce(visits, value)
    assert producer.flush(20) == 0

    def letter(column):
        with database.session() as connection:
            return connection.execute(f'SELECT "{column}" FROM "DeadLetter"').fetchall()

    with ingesting(settings, topics=False):
        assert wait_until(lambda: [r["visit"] for r in Ledger(database).rows()] == [1], 40.0)
        assert wait_until(lambda: [bool(said) for (said,) in letter("topicError")] == [True], 40.0)
        assert "authorization" in letter("topicError")[0][0].lower()
        assert letter("publishedAt") == [(None,)]
        allow(secure, "ingest", (ResourceType.TOPIC, f"{visits}.dlq", "WRITE"))
        assert wait_until(lambda: letter("publishedAt")[0][0] is not None, 60.0)


def test_secrets_are_masked_wherever_settings_are_shown():
    settings = Settings(
        database_uri="postgresql://u:dbpass@h/d",
        schema_registry="http://u:regpass@h",
        kafka_client={"sasl.username": "relay", "sasl.password": "kpass", "ssl.key.password": "keypass"},
    )
    shown = str(settings.masked()) + repr(settings)
    for secret in ("dbpass", "regpass", "kpass", "keypass"):
        assert secret not in str(settings.masked())
    assert "dbpass" not in shown
    assert "regpass" not in shown
