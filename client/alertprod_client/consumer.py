"""A consumer of alerts: each one at least once, its offset stored only after it was processed.

::

    with AlertConsumer("broker:9092", "alerts", group="my-group", filter="diaSource.snr > 10") as consumer:
        for alert in consumer:
            print(alert.packet["diaSourceId"], alert.packet["diaSource"]["psfFlux"])

Reads committed transactions only (``isolation.level=read_committed``): an alert of an aborted transaction is never seen.
Gaps in offsets are normal. An alert that was being processed when the program died comes again: ``diaSourceId`` tells.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from uuid import uuid4

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from alertprod_client.alert import ReceivedAlert
from alertprod_client.broker import Refusals, kafka_error, typed_errors
from alertprod_client.corrections import Correction, KnownCorrections, correction_topic, decode_correction
from alertprod_client.errors import AlertError
from alertprod_client.filters import AlertFilter, read_for
from alertprod_client.moments import Moment, milliseconds
from alertprod_client.schemas import SCHEMA_ID, is_known
from alertprod_client.wire import decode, unframe, wire_id

__all__ = ["AlertConsumer", "consumer_settings"]

REQUEST_TIMEOUT_S = 20.0
_WORDS = ("earliest", "latest")
_GIVEN_AWAY = (KafkaError._STATE, KafkaError._MAX_POLL_EXCEEDED)


def consumer_settings(brokers: str, client: Mapping[str, str] | None, refusals: Refusals) -> dict[str, object]:
    """Return the librdkafka settings that every reader of ours has."""
    return {
        "bootstrap.servers": brokers,
        "session.timeout.ms": 45_000,  # a program that died is noticed by this
        "max.poll.interval.ms": 3_600_000,  # one that works on an alert for long, keeps its place
        **dict(client or {}),
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": 131_072,
        "error_cb": refusals,
    }


class AlertConsumer:
    """Iterate over it to get `ReceivedAlert`; leave the context, or `close`, to commit and leave the group.

    Parameters
    ----------
    brokers, topics
        host:port list; one topic or several.
    group
        Consumer group: where it stood is where it goes on. None: nothing is kept, and every consumer begins at `start`.
    client
        Further librdkafka settings (security).
    filter
        Expression of `alertprod_client.filters`; alerts that do not pass are not decoded in full.
    start
        Where a new group begins: ``earliest``, ``latest``, or the time of publication from which alerts are wanted
        (ISO text in UTC, datetime, astropy's Time, or MJD TAI).
    until_end
        End at the end of the topic instead of waiting; iterating again goes on with what has come since.
    writer_id
        Schema of the messages, where a registry gave ids of its own (1101 for 11.1).

    Raises
    ------
    FilterError
        The filter is not understood.
    AlertError
        `start` is no time.
    """

    def __init__(
        self,
        brokers: str,
        topics: str | Sequence[str],
        group: str | None,
        *,
        client: Mapping[str, str] | None = None,
        filter: str | None = None,
        start: Moment = "earliest",
        until_end: bool = False,
        writer_id: int | None = None,
    ) -> None:
        self._passes = None if filter is None else AlertFilter(filter)
        self._refusals, self._writer_id = Refusals(), writer_id
        self._until_end = until_end
        self._ended: set[tuple[str, int]] = set()
        self._topics = [topics] if isinstance(topics, str) else list(topics)
        self._correct: Callable[[Correction], object] | None = None
        self._correction_topics: list[str] = []
        self._corrections = KnownCorrections()
        self._since = None if start in _WORDS else milliseconds(start)
        self._is_reading = False
        self._group, self._begin = group, OFFSET_END if start == "latest" else OFFSET_BEGINNING
        self._consumer = Consumer(
            {
                **consumer_settings(brokers, client, self._refusals),
                "group.id": group or f"alertprod-client-{uuid4().hex}",
                "auto.offset.reset": start if self._since is None else "latest",
                "enable.auto.offset.store": False,
                "enable.auto.commit": group is not None,
                "auto.commit.interval.ms": 2000,
            }
        )

    def correcting(
        self, correct: Callable[[Correction], object] | None = None, known: KnownCorrections | None = None
    ) -> "AlertConsumer":
        """Read the corrections of these alerts, too: `correct` is called with each as it comes; returns the consumer.

        Corrections of before are in `known`, where they were read.
        """
        self._correct = correct or (lambda correction: None)
        self._corrections = known or self._corrections
        self._correction_topics = [correction_topic(t) for t in self._topics]
        return self

    def __enter__(self) -> "AlertConsumer":
        self._open()
        return self

    def _open(self) -> None:
        """Ask for the topics, once: who iterates outside a context reads, too."""
        if self._is_reading:
            return
        self._is_reading = True
        topics = [*self._topics, *self._correction_topics]
        if self._group is None:
            self._assign_all(topics)
        elif self._since is None:
            self._consumer.subscribe(topics)
        else:
            self._consumer.subscribe(topics, on_assign=self._assigned)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Commit what is done with and leave the group at once; nothing can be read afterwards."""
        self._consumer.close()

    def __iter__(self) -> Iterator[ReceivedAlert]:
        """Yield alerts; asking for the next one says that the last one is done with. Tombstones are passed over.

        Raises
        ------
        AlertError
            A message is no alert: its place is in the text.
        BrokerUnavailable, BrokerRefused
            Reading failed for good, or is refused; or an alert was worked on for longer than ``max.poll.interval.ms`` (an hour
            where `client` does not say otherwise): iterating again goes on with it.
        """
        self._open()
        while True:
            message = self._consumer.poll(1.0)
            if message is None:
                self._raise_refusal()
                if self._until_end and self._at_end():
                    return
                continue
            error = message.error()
            if error is None:
                self._ended.discard(_place(message))
                alert = self._read(message)
                if alert is not None:
                    yield alert
                self._done(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ended.add(_place(message))
                if self._until_end and self._at_end():
                    return
            elif not error.retriable():
                raise kafka_error(error, self._refusals, f"topics {', '.join(self._topics)}")

    def _done(self, message: Message) -> None:
        """Say that a message is done with; where the partition was given to another meanwhile, the next poll says so."""
        try:
            self._consumer.store_offsets(message)
        except KafkaException as error:
            if error.args[0].code() not in _GIVEN_AWAY:
                raise kafka_error(error.args[0], self._refusals, f"topics {', '.join(self._topics)}") from error

    def lag(self) -> dict[tuple[str, int], int]:
        """Return how many messages lie behind what is committed on the broker, for each (topic, partition) held.

        Transaction markers count as messages: a lag of a few can be none.
        """
        held = self._consumer.assignment()
        if not held:
            return {}
        out = {}
        for part in self._consumer.committed(held, REQUEST_TIMEOUT_S):
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(part.topic, part.partition), REQUEST_TIMEOUT_S
            )
            out[part.topic, part.partition] = high - max(part.offset, low)
        return out

    def _assign_all(self, topics: Sequence[str]) -> None:
        """Read all partitions without a group: nobody need be asked who else reads."""
        with typed_errors(self._consumer, self._refusals, f"topics {', '.join(topics)}"):
            held = {t: self._consumer.list_topics(t, timeout=REQUEST_TIMEOUT_S).topics[t].partitions for t in topics}
            missing = [t for t, numbers in held.items() if not numbers]
            if missing:
                raise AlertError(f"no topic {', '.join(missing)}")
            begin = self._begin if self._since is None else self._since
            places = [TopicPartition(t, number, begin) for t, numbers in held.items() for number in numbers]
            if self._since is not None:
                places = self._consumer.offsets_for_times(places, REQUEST_TIMEOUT_S)
        self._consumer.assign(places)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin at the time that was asked for where the group has not read; elsewhere it goes on."""
        try:  # within a callback nothing may be polled, not even for what the broker refuses
            places = consumer.committed(partitions, REQUEST_TIMEOUT_S)
            fresh = [TopicPartition(p.topic, p.partition, self._since) for p in places if p.offset < 0]
            offsets = consumer.offsets_for_times(fresh, REQUEST_TIMEOUT_S) if fresh else []
        except KafkaException as error:
            raise kafka_error(error.args[0], self._refusals, f"topics {', '.join(self._topics)}") from error
        consumer.assign([*(p for p in places if p.offset >= 0), *offsets])

    def _at_end(self) -> bool:
        held = {(p.topic, p.partition) for p in self._consumer.assignment()}
        return bool(held) and held <= self._ended

    def _raise_refusal(self) -> None:
        told = self._refusals.take()
        if told is not None:
            raise kafka_error(told, None, f"topics {', '.join(self._topics)}")

    def _read(self, message: Message) -> ReceivedAlert | None:
        data = message.value()
        if data is None:  # a tombstone of a compacted topic
            return None
        try:
            if self._correct is not None and message.topic() in self._correction_topics:
                if not self._corrections.has_read(*_place(message), int(message.offset() or 0)):
                    correction = decode_correction(data)
                    self._corrections.correct(correction)
                    self._correct(correction)
                return None
            if self._passes is not None:
                writer = self._writer_id or wire_id(data)
                if not self._passes(read_for([self._passes], unframe(data), writer if is_known(writer) else SCHEMA_ID)):
                    return None
            packet = decode(data, self._writer_id)
        except AlertError as error:
            where = f"{message.topic()} [{message.partition()}] at offset {message.offset()}"
            raise AlertError(f"{where}: {error.message}") from error
        return ReceivedAlert(
            packet,
            str(message.topic()),
            int(message.partition() or 0),
            int(message.offset() or 0),
            _text(message.key()),
            {k: _text(v) for k, v in message.headers() or []},
            self._corrections if self._correct is not None else None,
        )


def _place(message: Message) -> tuple[str, int]:
    return str(message.topic()), int(message.partition() or 0)


def _text(data: bytes | str | None) -> str:
    return data if isinstance(data, str) else (data or b"").decode(errors="backslashreplace")
