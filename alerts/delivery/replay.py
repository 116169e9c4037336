"""Replay: alerts of the archive to another topic, as they were published, with the header ``replayed``."""

import time
from collections.abc import Callable, Iterable

from confluent_kafka import KafkaError, KafkaException, Producer

from alerts.delivery.producer import origin_headers
from alerts.delivery.target import MAX_MESSAGE, KafkaTarget, Refusals, kafka_error
from alerts.errors import AlertError, BrokerUnavailable
from alerts.packets.wire import Alert, frame_alert
from apdb.queue.outbox import OutboxRow

__all__ = ["replay"]


def replay(
    alerts: Iterable[tuple[OutboxRow, Alert]],
    target: KafkaTarget,
    topic: str,
    wire_id: int,
    progress: Callable[[int], None] = lambda sent: None,
) -> int:
    """Publish alerts on a topic; returns how many were acknowledged.

    A replay that is broken off and begun again sends the alerts again: readers tell by diaSourceId.

    Raises
    ------
    AlertError
        The topic is one of those that the relay writes: their order and count are its own.
    BrokerUnavailable, BrokerRefused
        Not everything was acknowledged.
    """
    if topic in (*target.topics, target.progress_topic):
        raise AlertError(f"alerts are not replayed to {topic}, which the relay writes: name another topic")
    refusals = Refusals()
    failures: list[KafkaError] = []
    producer = Producer(
        {
            **target.settings(refusals),
            "acks": "all",
            "enable.idempotence": True,
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": MAX_MESSAGE,
            "partitioner": "murmur2_random",
            "message.timeout.ms": int(3000 * target.timeout_s),
            "queue.buffering.max.kbytes": 131_072,
        }
    )
    try:
        sent = _send(producer, alerts, topic, wire_id, failures, progress)
        left = producer.flush(3 * target.timeout_s)
    except KafkaException as error:
        raise kafka_error(error.args[0], refusals, f"topic {topic}") from error
    if failures:
        raise kafka_error(failures[0], refusals, f"topic {topic}")
    if left:
        raise BrokerUnavailable(f"topic {topic}: {left} alerts were not acknowledged")
    return sent


def _send(
    producer: Producer,
    alerts: Iterable[tuple[OutboxRow, Alert]],
    topic: str,
    wire_id: int,
    failures: list[KafkaError],
    progress: Callable[[int], None],
) -> int:
    """Give alerts to the producer until one of them failed, which is entered in `failures`; returns how many were given."""
    now = str(int(time.time() * 1000)).encode()

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failures.append(error)

    sent = 0
    for row, alert in alerts:
        value, key = frame_alert(alert, wire_id), str(alert.key).encode()
        headers = [("producer_timestamp", now), ("replayed", now), *origin_headers(row)]
        while not failures:
            try:
                producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
                break
            except BufferError:  # the local queue is full: let it drain
                producer.poll(0.1)
        if failures:
            break
        producer.poll(0)
        sent += 1
        progress(sent)
    return sent
