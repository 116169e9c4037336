"""A consumer of alerts: each one at least once, its offset stored only after it was processed.

::

    with AlertConsumer("broker:9092", "alerts", group="my-group", filter="diaSource.snr > 10") as consumer:
        for alert in consumer:
            print(alert.packet["diaSourceId"], alert.packet["diaSource"]["psfFlux"])

Reads committed transactions only (``isolation.level=read_committed``): an alert of an aborted transaction is never seen.
Gaps in offsets are normal. An alert that was being processed when the program died comes again: ``diaSourceId`` tells.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from alerts.delivery.target import Refusals, kafka_error
from alerts.errors import AlertError
from alerts.packets.corrections import Correction, correction_topic, decode_correction
from alerts.packets.filters import AlertFilter, read_for
from alerts.packets.schemas import SCHEMA_ID, schema_ids
from alerts.packets.wire import decode

__all__ = ["AlertConsumer", "Correction", "CurrentSources", "ReceivedAlert"]

_HEADER = 5  # bytes of the wire format before the Avro body
REQUEST_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class ReceivedAlert:
    """An alert with where it came from; bytes of key and headers that are no UTF-8 are written ``\\xNN``."""

    packet: dict[str, Any]
    topic: str
    partition: int
    offset: int
    key: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        from alerts.preview import alert_text

        return f"{alert_text(self.packet)[:-1]}; {self.topic}[{self.partition}] at {self.offset}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: stamps, light curve and facts."""
        from alerts.preview import alert_html

        return alert_html(self.packet)


class AlertConsumer:
    """Iterate over it to get `ReceivedAlert`; leave the context to commit and close.

    Parameters
    ----------
    brokers, topics
        host:port list; one topic or several.
    group
        Consumer group: where it stood is where it goes on.
    client
        Further librdkafka settings (security).
    filter
        Expression of `alerts.packets.filters`; alerts that do not pass are not decoded in full.
    start
        ``earliest`` or ``latest``: where a new group begins.
    until_end
        End at the end of the topic instead of waiting; iterating again goes on with what has come since.
    writer_id
        Schema of the messages, where a registry gave ids of its own (1101 for 11.1).
    """

    def __init__(
        self,
        brokers: str,
        topics: str | Sequence[str],
        group: str,
        *,
        client: Mapping[str, str] | None = None,
        filter: str | None = None,
        start: str = "earliest",
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
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                **dict(client or {}),
                "group.id": group,
                "auto.offset.reset": start,
                "isolation.level": "read_committed",
                "enable.auto.offset.store": False,
                "enable.auto.commit": True,
                "auto.commit.interval.ms": 2000,
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": 131_072,
                "session.timeout.ms": 45_000,
                "error_cb": self._refusals,
            }
        )

    def correcting(self, correct: Callable[[Correction], object]) -> "AlertConsumer":
        """Read the corrections of these alerts, too: `correct` is called with each as it comes; returns the consumer."""
        self._correct = correct
        self._correction_topics = [correction_topic(t) for t in self._topics]
        return self

    def __enter__(self) -> "AlertConsumer":
        self._consumer.subscribe([*self._topics, *self._correction_topics])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()  # commits what was stored, and leaves the group at once

    def __iter__(self) -> Iterator[ReceivedAlert]:
        """Yield alerts; asking for the next one says that the last one is done with. Tombstones are passed over.

        Raises
        ------
        AlertError
            A message is no alert: its place is in the text.
        BrokerUnavailable, BrokerRefused
            Reading failed for good, or is refused.
        """
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
                self._consumer.store_offsets(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ended.add(_place(message))
                if self._until_end and self._at_end():
                    return
            elif not error.retriable():
                raise kafka_error(error, self._refusals, f"topics {', '.join(self._topics)}")

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
                self._correct(decode_correction(data))
                return None
            if self._passes is not None:
                writer = self._writer_id or int.from_bytes(data[1:_HEADER], "big")
                if not self._passes(
                    read_for([self._passes], data[_HEADER:], writer if writer in schema_ids() else SCHEMA_ID)
                ):
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
        )


class CurrentSources:
    """Which source belongs to which object now, by the alerts and corrections that were read, in whatever order they came.

    ::

        current = CurrentSources()
        with AlertConsumer("broker:9092", "alerts", "my-group").correcting(current.correct) as consumer:
            for alert in consumer:
                current.add(alert.packet)
        current.objects()  # diaObjectId -> its diaSourceIds

    An alert and its correction are in two topics, either may be read first; what is said of one source is in order.
    """

    def __init__(self) -> None:
        self._alerted: dict[int, int | None] = {}
        self._moved: dict[int, int | None] = {}
        self._withdrawn: set[int] = set()

    def add(self, packet: Mapping[str, Any]) -> None:
        """Take an alert in; the same one again changes nothing."""
        owner = packet["diaSource"]["diaObjectId"]
        self._alerted[int(packet["diaSourceId"])] = int(owner) if owner else None

    def correct(self, correction: Correction) -> None:
        """Take a correction in; the same one again changes nothing."""
        if correction.withdraws:
            self._withdrawn.add(correction.diaSourceId)
        elif correction.kind == "reassigned":
            self._moved[correction.diaSourceId] = correction.newDiaObjectId

    def sources(self) -> dict[int, int | None]:
        """Return the object of each source that is valid; None: a solar-system body."""
        return {s: self._moved.get(s, o) for s, o in self._alerted.items() if s not in self._withdrawn}

    def objects(self) -> dict[int, set[int]]:
        """Return the valid sources of each object that has any."""
        out: dict[int, set[int]] = {}
        for source, owner in self.sources().items():
            if owner is not None:
                out.setdefault(owner, set()).add(source)
        return out


def _place(message: Message) -> tuple[str, int]:
    return str(message.topic()), int(message.partition() or 0)


def _text(data: bytes | str | None) -> str:
    return data if isinstance(data, str) else (data or b"").decode(errors="backslashreplace")
