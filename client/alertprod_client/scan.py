"""The stream in one call: alerts one after the other, what was corrected since already applied."""

from collections.abc import Callable, Iterator, Mapping

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from alertprod_client.alert import ReceivedAlert
from alertprod_client.broker import Refusals, kafka_error, typed_errors
from alertprod_client.consumer import REQUEST_TIMEOUT_S, AlertConsumer, consumer_settings
from alertprod_client.corrections import Correction, KnownCorrections, correction_topic, decode_correction
from alertprod_client.errors import AlertError
from alertprod_client.moments import Moment

__all__ = ["read_corrections", "scan_alerts"]


def scan_alerts(
    brokers: str,
    topic: str = "alerts",
    *,
    group: str | None = None,
    filter: str | None = None,
    start: Moment = "earliest",
    follow: bool = False,
    on_correction: Callable[[Correction], object] | None = None,
    client: Mapping[str, str] | None = None,
) -> Iterator[ReceivedAlert]:
    """Yield the alerts of a topic, corrections applied.

    All corrections (``TOPIC.corrections``) are read first. An alert whose source was taken back is passed over; one whose
    source belongs to another object by now has the new ``object_id``; light curves leave out what was taken back. A fan-out
    topic has no corrections of its own: take what `read_corrections` of the main topic knows.

    Parameters
    ----------
    brokers, topic
        host:port list; the alert topic.
    group
        Name that the place is kept under: the next call goes on behind the last alert that was done with, which is when the
        next one is asked for. None: nothing is kept, every call begins at `start`.
    filter
        Expression such as ``diaSource.snr > 10 and ssSource is None``.
    start
        Where a group that is new begins: ``earliest``, ``latest``, or a time of publication (ISO text in UTC, datetime,
        astropy's Time, or MJD TAI).
    follow
        Wait for alerts to come instead of ending at the end of the topic.
    on_correction
        Called with each correction that comes while alerts are followed: it may be about an alert that was yielded.
    client
        Further librdkafka settings (security).

    Raises
    ------
    FilterError
        The filter is not understood.
    AlertError
        There is no such topic, `start` is no time, or a message is no alert.
    BrokerUnavailable, BrokerRefused
        The brokers do not answer, or refuse.
    """
    corrections, corrected = read_corrections(brokers, topic, client)
    consumer = AlertConsumer(
        brokers,
        topic,
        group,
        client=client,
        filter=filter,
        start=start,
        until_end=not follow,
    )
    with consumer.correcting(on_correction, corrections) if corrected else consumer:
        for alert in consumer:
            if not alert.withdrawn:
                yield alert


def read_corrections(
    brokers: str, topic: str, client: Mapping[str, str] | None = None
) -> tuple[KnownCorrections, bool]:
    """Return what all corrections of an alert topic say by now, and whether it has a topic of corrections at all.

    They hold for alerts of a fan-out topic, too: ``is_withdrawn(alert.source_id)``, ``owner(alert.source_id, alert.object_id)``.

    Raises
    ------
    AlertError
        There is no such alert topic, or a message is no correction.
    BrokerUnavailable, BrokerRefused
        The brokers do not answer, or refuse.
    """
    refusals, corrections = Refusals(), KnownCorrections()
    consumer = Consumer(
        {**consumer_settings(brokers, client, refusals), "group.id": "none", "enable.auto.commit": False}
    )
    try:
        with typed_errors(consumer, refusals, f"brokers {brokers}"):
            topics = consumer.list_topics(timeout=REQUEST_TIMEOUT_S).topics
        if topic not in topics:
            there = ", ".join(sorted(t for t in topics if not t.startswith("__"))) or "none"
            raise AlertError(f"no topic {topic} at {brokers}; there are: {there}")
        said = topics.get(correction_topic(topic))
        if said is None:
            return corrections, False
        consumer.assign([TopicPartition(said.topic, number, OFFSET_BEGINNING) for number in said.partitions])
        left = set(said.partitions)
        while left:
            message = consumer.poll(REQUEST_TIMEOUT_S)
            error = None if message is None else message.error()
            if message is None:
                raise kafka_error(KafkaError(KafkaError._TIMED_OUT), refusals, said.topic)
            if error is None:
                if message.value() is not None:
                    corrections.correct(decode_correction(message.value()))
            elif error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())
                corrections.note_read(said.topic, message.partition(), message.offset())
            elif not error.retriable():
                raise kafka_error(error, refusals, said.topic)
    finally:
        consumer.close()
    return corrections, True
