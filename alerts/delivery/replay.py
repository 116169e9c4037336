"""Replay: alerts of the archive to another topic, as they were published, with the header ``replayed``."""

import time
from collections.abc import Callable, Iterable, Iterator

from confluent_kafka import KafkaError, KafkaException, Producer

from alerts.delivery.producer import Headers, origin_headers
from alerts.delivery.target import MAX_MESSAGE, KafkaTarget, Refusals, kafka_error
from alerts.errors import AlertError, BrokerUnavailable
from alerts.packets.corrections import correction_topic, encode_correction
from alerts.packets.wire import Alert, frame_alert
from apdb.queue.corrections import Correction
from apdb.queue.outbox import OutboxRow

__all__ = ["replay"]


def replay(
    alerts: Iterable[tuple[OutboxRow, Alert]],
    target: KafkaTarget,
    topic: str,
    wire_id: int,
    progress: Callable[[int], None] = lambda sent: None,
    corrections_of: Callable[[list[int]], list[Correction]] = lambda ids: [],
) -> int:
    """Publish alerts on a topic, then what was corrected of them on its topic of corrections; returns how many alerts.

    A replay that is broken off and begun again sends the alerts again: readers tell by diaSourceId.

    Raises
    ------
    AlertError
        The topic is one of those that the relay writes: their order and count are its own.
    BrokerUnavailable, BrokerRefused
        Not everything was acknowledged.
    """
    if topic in (*target.topics, target.progress_topic, target.correction_topic):
        raise AlertError(f"alerts are not replayed to {topic}, which the relay writes: name another topic")
    refusals, ids = Refusals(), list[int]()
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
        sent = _send(producer, _noted(alerts, ids), topic, wire_id, failures, progress)
        if not failures:
            _correct(producer, corrections_of(ids), correction_topic(topic), failures)
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
    sent = 0
    for row, alert in alerts:
        value, key = frame_alert(alert, wire_id), str(alert.key).encode()
        headers = [("producer_timestamp", now), ("replayed", now), *origin_headers(row)]
        if not _put(producer, topic, value, key, headers, failures):
            break
        sent += 1
        progress(sent)
    return sent


def _noted(alerts: Iterable[tuple[OutboxRow, Alert]], ids: list[int]) -> Iterator[tuple[OutboxRow, Alert]]:
    """Yield alerts and note whose they are."""
    for row, alert in alerts:
        ids.append(alert.diaSourceId)
        yield row, alert


def _correct(producer: Producer, corrections: list[Correction], topic: str, failures: list[KafkaError]) -> None:
    """Give corrections to the producer until one of them failed."""
    now = str(int(time.time() * 1000)).encode()
    for c in corrections:
        origin = [("visit", str(c.visit).encode()), ("detector", str(c.detector).encode())]
        headers: Headers = [("producer_timestamp", now), ("replayed", now), *origin]
        if not _put(producer, topic, encode_correction(c), str(c.diaSourceId).encode(), headers, failures):
            return


def _put(
    producer: Producer, topic: str, value: bytes, key: bytes, headers: Headers, failures: list[KafkaError]
) -> bool:
    """Give one message to the producer; returns False where one has failed, which is entered in `failures`."""

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failures.append(error)

    while not failures:
        try:
            producer.produce(topic, value, key, headers=headers, on_delivery=delivered)
            break
        except BufferError:  # the local queue is full: let it drain
            producer.poll(0.1)
    producer.poll(0)
    return not failures
