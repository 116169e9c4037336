"""Where alerts go: brokers, topics, security, and what a refusal of Kafka means."""

import logging
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from alertprod_client.broker import Refusals, kafka_error, typed_errors
from alertprod_client.corrections import correction_topic
from alerts.errors import AlertError

__all__ = [
    "KAFKA_LOG",
    "KafkaTarget",
    "Refusals",
    "ensure_topics",
    "kafka_error",
    "message_limit",
    "require_topics",
    "typed_errors",
]

KAFKA_LOG = logging.getLogger("alertprod.kafka")  # what librdkafka says beside its answers, when it is polled
MAX_MESSAGE = 10_485_760


@dataclass(frozen=True)
class KafkaTarget:
    """Where alerts go.

    Parameters
    ----------
    brokers, topic
        host:port list; the alert topic.
    client
        Further librdkafka settings (security).
    fan_out
        (topic, filter expression) pairs: further topics that get the alerts that fit, in the same transaction.
    """

    brokers: str
    topic: str
    client: tuple[tuple[str, str], ...] = ()
    transactional_id: str = "alertprod-relay"
    timeout_s: float = 20.0
    fan_out: tuple[tuple[str, str], ...] = ()

    @property
    def progress_topic(self) -> str:
        """The one-partition topic whose committed offset is the progress."""
        return f"{self.topic}.progress"

    @property
    def correction_topic(self) -> str:
        """The topic of the corrections of the alerts."""
        return correction_topic(self.topic)

    @property
    def topics(self) -> tuple[str, ...]:
        """All topics that alerts are published on."""
        return (self.topic, *(topic for topic, _ in self.fan_out))

    def only(self, topic: str) -> "KafkaTarget":
        """Return the target with another topic and no fan-out."""
        return replace(self, topic=topic, fan_out=())

    def settings(self, refusals: Refusals | None = None) -> dict[str, Any]:
        """Return the common client settings."""
        common: dict[str, Any] = {
            "bootstrap.servers": self.brokers,
            "socket.timeout.ms": 10_000,
            "logger": KAFKA_LOG,
            **dict(self.client),
        }
        return common if refusals is None else {**common, "error_cb": refusals}


def ensure_topics(
    target: KafkaTarget,
    partitions: int = 4,
    replication: int = 1,
    *,
    progress: bool = True,
    largest: int = MAX_MESSAGE,
) -> None:
    """Make the alert, fan-out and (with `progress`) corrections and progress topics where they are missing; `largest` bytes a message.

    Raises
    ------
    BrokerUnavailable, BrokerRefused
        No broker answers in time; or it answers and refuses.
    """
    refusals = Refusals()
    admin = AdminClient(target.settings(refusals))
    present = _topics(admin, target, refusals)
    wanted = [NewTopic(t, partitions, replication, config={"max.message.bytes": str(largest)}) for t in target.topics]
    if progress:
        wanted.append(NewTopic(target.correction_topic, partitions, replication))
        wanted.append(NewTopic(target.progress_topic, 1, replication))
    wanted = [t for t in wanted if t.topic not in present]
    if not wanted:
        return
    answers = admin.create_topics(wanted, operation_timeout=target.timeout_s, request_timeout=target.timeout_s)
    for topic, future in answers.items():
        with typed_errors(admin, refusals, f"topic {topic} at {target.brokers}"):
            try:
                future.result(timeout=target.timeout_s + 5)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise


def require_topics(target: KafkaTarget) -> None:
    """Check that the brokers answer and have the topics (a reader would wait for either without a word).

    Raises
    ------
    BrokerUnavailable, BrokerRefused
        No broker answers in time; or it answers and refuses.
    AlertError
        There is no such topic.
    """
    refusals = Refusals()
    present = _topics(AdminClient(target.settings(refusals)), target, refusals)
    missing = [t for t in target.topics if t not in present]
    if missing:
        there = ", ".join(sorted(t for t in present if not t.startswith("__"))) or "none"
        raise AlertError(f"no topic {', '.join(missing)} at {target.brokers}; there are: {there}")


def message_limit(target: KafkaTarget) -> int:
    """Return the largest message that every alert topic takes, in bytes.

    Raises
    ------
    BrokerUnavailable, BrokerRefused
        No broker answers in time; or it answers and refuses.
    """
    refusals = Refusals()
    admin = AdminClient(target.settings(refusals))
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in target.topics]
    limit = MAX_MESSAGE
    for resource, future in admin.describe_configs(resources, request_timeout=target.timeout_s).items():
        answer: Future[Any] = future
        with typed_errors(admin, refusals, f"topic {resource.name} at {target.brokers}"):
            limit = min(limit, int(answer.result(timeout=target.timeout_s + 5)["max.message.bytes"].value))
    return limit


def _topics(admin: AdminClient, target: KafkaTarget, refusals: Refusals) -> set[str]:
    with typed_errors(admin, refusals, f"brokers {target.brokers}"):
        return set(admin.list_topics(timeout=target.timeout_s).topics)
