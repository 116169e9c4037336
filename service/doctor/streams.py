"""Kafka and the schema registry as a service needs them: they answer, let us in, and have topics and schema."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from confluent_kafka.admin import AdminClient

from alerts.delivery.registry import SchemaRegistry
from alerts.delivery.target import KafkaTarget, Refusals, typed_errors
from alerts.errors import SchemaRefused
from service.delivery import alert_target
from service.doctor.findings import Finding, good, skipped, warning, wrong
from service.intake.dead_letters import dead_letter_topic
from service.settings import Settings
from tasks.errors import AlertProdError

__all__ = ["broker_findings", "registry_findings"]

LIMIT_S = 5.0


def broker_findings(settings: Settings) -> Iterator[Finding]:
    """Give what was found of the brokers and of every topic."""
    if not settings.kafka_brokers:
        yield skipped("broker", "ALERTPROD_KAFKA_BROKERS is not set: only serve and worker can run")
        return
    target = replace(alert_target(settings, quiet=True), timeout_s=LIMIT_S)
    refusals = Refusals()
    admin = AdminClient(target.settings(refusals))
    try:
        with typed_errors(admin, refusals, f"brokers {settings.kafka_brokers}"):
            metadata = admin.list_topics(timeout=LIMIT_S)
    except AlertProdError as error:
        yield wrong("broker", str(error), "start it, or correct ALERTPROD_KAFKA_BROKERS and ALERTPROD_KAFKA_CLIENT")
        return
    count = len(metadata.brokers)
    yield good("broker", f"{count} at {settings.kafka_brokers}")
    for topic, maker in _wanted(settings, target).items():
        yield _topic(topic, maker, metadata.topics.get(topic), count)


def _wanted(settings: Settings, target: KafkaTarget) -> dict[str, str]:
    """Return every topic of the service, and the role that makes it."""
    of_relay = (*target.topics, target.correction_topic, target.progress_topic)
    of_ingest = (settings.visit_topic, dead_letter_topic(settings.visit_topic))
    return {**dict.fromkeys(of_relay, "relay"), **dict.fromkeys(of_ingest, "ingest")}


def _topic(topic: str, maker: str, metadata: Any, brokers: int) -> Finding:
    about = f"topic {topic}"
    if metadata is None or metadata.error is not None:
        said = "" if metadata is None else f": {metadata.error.str()}"
        return warning(
            about, f"not there{said}", f"start {maker}, which makes it where it may create topics; or make it by hand"
        )
    parts = metadata.partitions.values()
    lonely = sum(len(p.isrs) < len(p.replicas) for p in parts)
    copies = min(len(p.replicas) for p in parts)
    text = f"{len(parts)} partitions, {copies} replicas"
    if any(p.leader < 0 for p in parts):
        return wrong(about, f"{text}; some have no leader", "start the broker that holds them")
    if lonely:
        return warning(about, f"{text}; {lonely} have fewer in step", "see to the brokers that lag behind")
    if copies == 1 and brokers > 1:
        return warning(
            about, f"{text} on {brokers} brokers", "ALERTPROD_TOPIC_REPLICATION=3 makes new topics with more"
        )
    return good(about, text)


def registry_findings(settings: Settings) -> Iterator[Finding]:
    """Give what the schema registry says of our schema; nothing is registered."""
    url = settings.schema_registry.get_secret_value()
    if not url:
        yield skipped("registry", "none is set: alerts carry Rubin's schema id, GET /subjects serves the schemas")
        return
    registry = SchemaRegistry(url, timeout_s=LIMIT_S)
    try:
        schema_id = registry.check(settings.schema_subject)
    except SchemaRefused as error:
        yield wrong(
            "registry", str(error), "set ALERTPROD_SCHEMA_SUBJECT to another subject, or its compatibility to NONE"
        )
    except AlertProdError as error:
        yield wrong("registry", str(error), "start it, or correct ALERTPROD_SCHEMA_REGISTRY")
    else:
        text = (
            "the schema is not registered yet: the relay does it"
            if schema_id is None
            else f"the schema has id {schema_id}"
        )
        yield good("registry", f"{registry.name}, subject {settings.schema_subject}: {text}")
