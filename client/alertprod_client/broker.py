"""What a failure of Kafka means: a refusal told apart from an absence."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from alertprod_client.errors import BrokerRefused, BrokerUnavailable

__all__ = ["Refusals", "kafka_error", "typed_errors"]

_REFUSED = {
    KafkaError._AUTHENTICATION: "user name, password and mechanism (sasl.*) must be those of the broker",
    KafkaError._SSL: "the broker's certificate must be signed by ssl.ca.location and name its host",
    KafkaError.SASL_AUTHENTICATION_FAILED: "user name, password and mechanism (sasl.*) must be those of the broker",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "a reader needs Read on the topic; the relay Write, Describe and DescribeConfigs "
    "on alert topics, Write and Describe on <alert topic>.corrections, Read on <alert topic>.progress; Create to make them",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "a reader needs Read on its group, the relay on <transactional id>-progress",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "the user needs Write and Describe on the transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "the user needs Create (topics) or IdempotentWrite on the cluster",
}


class Refusals:
    """Remembers what librdkafka reports beside its answers: a wrong password shows there, the call only times out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """The ``error_cb`` of a client."""
        if error.code() in _REFUSED:
            with self._lock:
                self._last = error

    def take(self) -> KafkaError | None:
        """Return the last refusal and forget it."""
        with self._lock:
            last, self._last = self._last, None
        return last


def kafka_error(error: KafkaError, refusals: Refusals | None = None, what: str = "Kafka") -> BrokerUnavailable:
    """Return the typed error of a failed call, a refusal told apart from an absence."""
    told = refusals.take() if refusals else None
    cause = error if error.code() in _REFUSED else told
    if cause is not None:
        return BrokerRefused(f"{what}: {cause.str()}: {_REFUSED[cause.code()]}")
    if error.code() == KafkaError._MAX_POLL_EXCEEDED:
        return BrokerUnavailable(
            f"{what}: an alert was worked on for longer than max.poll.interval.ms, and its partition was given to others: iterate "
            "again to go on with it; work on it elsewhere, or raise that setting in client"
        )
    return BrokerUnavailable(f"{what}: {error.str()}")


@contextmanager
def typed_errors(client: Any, refusals: Refusals, what: str) -> Iterator[None]:
    """Raise Kafka's errors of a call of `client` as `kafka_error` names them."""
    try:
        yield
    except KafkaException as error:
        client.poll(0.1)  # librdkafka tells of refusals within poll only
        raise kafka_error(error.args[0], refusals, what) from error
