"""The reconciler: counts from outside what the topic really holds, and compares it with the outbox, visit by visit.

It reads the alert topic as any consumer does (committed transactions only). Counts and reading positions are kept in one
PostgreSQL transaction, so that a restart counts nothing twice. What another program wrote there is passed over, and told.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from alerts.delivery.target import KafkaTarget, Refusals, kafka_error
from alerts.errors import AlertError
from alerts.packets.corrections import decode_correction
from apdb import Database

__all__ = ["CorrectionReconciler", "Reconciler", "trigger_id"]

_LOG = logging.getLogger("alertprod.reconcile")
BATCH = 500
_TELL_S = 5.0  # between two notes that everything is read
_KEY = ("visit", "detector", "attempt")
_ENDS = (1 << 63, 1 << 15, 1 << 31)  # of the columns of visit, detector and attempt


def trigger_id(value: bytes) -> int:
    """Return the diaSourceId of a wire message: the first field, a zigzag varint after the 5 bytes of the header.

    Raises
    ------
    AlertError
        The message ends within it.
    """
    number = shift = 0
    for byte in value[5:15]:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1)
    raise AlertError("the message is cut short")


def _key(message: Message, count: int) -> tuple[int, ...]:
    """Return the first so many of visit, detector and attempt of a message's headers.

    Raises
    ------
    AlertError
        They are not there: another program wrote it.
    """
    headers = dict(message.headers() or [])
    try:
        key = tuple(int(headers[name]) for name in _KEY[:count])
    except (KeyError, ValueError, TypeError) as error:
        raise AlertError("it has not the headers of the relay") from error
    return key


def _checked(key: tuple[int, ...], source: int) -> tuple[tuple[int, ...], int]:
    """Return what can be counted.

    Raises
    ------
    AlertError
        Numbers that no column holds.
    """
    if all(0 <= k < end for k, end in zip(key, _ENDS, strict=False)) and 0 <= source < 1 << 63:
        return key, source
    raise AlertError(f"visit, detector, ... {key} and diaSourceId {source} are no numbers of alerts")


@dataclass
class _Count:
    """Alerts of one attempt in the topic, and the exclusive or of their diaSourceIds."""

    count: int = 0
    xor: int = 0

    def add(self, source: int) -> None:
        """Count an alert."""
        self.count += 1
        self.xor ^= source


class Reconciler:
    """Follows one topic; `report` is told the topic and the number of messages that were passed over."""

    # count and xor of the ids, then what they are counted under
    _ADD: LiteralString = (
        'UPDATE "AlertOutbox" SET "topicCount" = "topicCount" + %s, "topicXor" = "topicXor" # %s '
        "WHERE visit = %s AND detector = %s AND attempt = %s"
    )

    def __init__(
        self,
        database: Database,
        target: KafkaTarget,
        report: Callable[[str, int], None] = lambda topic, count: None,
    ) -> None:
        self._database, self._target, self._report = database, self._followed(target), report
        self._refusals = Refusals()
        self._consumer: Consumer | None = None
        self._partitions: set[int] = set()
        self._finished: set[int] = set()
        self._told = -_TELL_S

    @staticmethod
    def _followed(target: KafkaTarget) -> KafkaTarget:
        """Return the topic that is read."""
        return target

    def close(self) -> None:
        """Stop reading."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def step(self, timeout_s: float = 1.0) -> int:
        """Read what came; returns the number of alerts counted.

        Raises
        ------
        BrokerUnavailable, BrokerRefused, DatabaseUnavailable
            Try again later.
        """
        try:
            if self._consumer is None:
                self._consumer = self._assigned()
            messages = self._read(self._consumer, timeout_s)
        except KafkaException as error:
            self.close()
            raise kafka_error(error.args[0], self._refusals, f"topic {self._target.topic}") from error
        idle = len(self._finished) == len(self._partitions)
        if messages or (idle and time.monotonic() > self._told + _TELL_S):
            try:
                with self._database.session() as connection, connection.transaction():
                    self._note(connection, messages, idle)
            except BaseException:
                self.close()  # its position is beyond what was counted
                raise
        return len(messages)

    def _read(self, consumer: Consumer, timeout_s: float) -> list[Message]:
        """Return the next messages; remembers which partitions are read to their end."""
        out = []
        for message in consumer.consume(BATCH, timeout_s):
            error = message.error()
            if error is None:
                self._finished.discard(message.partition())
                out.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._finished.add(message.partition())
            else:
                raise KafkaException(error)
        return out

    def _assigned(self) -> Consumer:
        """Make a consumer that goes on where PostgreSQL says that counting stopped."""
        consumer = Consumer(
            {
                **self._target.settings(self._refusals),
                "group.id": f"{self._target.topic}-reconciler",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": 65_536,
                "enable.partition.eof": True,
            }
        )
        topic = self._target.topic
        with self._database.session() as connection:
            counted_to = dict(
                connection.execute(
                    'SELECT partition, next FROM "AlertTopicOffset" WHERE topic = %s', (topic,)
                ).fetchall()
            )
        metadata = consumer.list_topics(topic, self._target.timeout_s).topics[topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        self._partitions, self._finished = set(metadata.partitions), set()
        parts = []
        for number in metadata.partitions:
            first, _ = consumer.get_watermark_offsets(TopicPartition(topic, number), self._target.timeout_s)
            parts.append(TopicPartition(topic, number, max(counted_to.get(number, 0), first)))
        consumer.assign(parts)
        return consumer

    def _note(self, connection: psycopg.Connection[Any], messages: list[Message], idle: bool) -> None:
        ends = {m.partition(): int(m.offset() or 0) + 1 for m in messages}
        with connection.cursor() as cursor:
            self._count(cursor, messages)
            cursor.executemany(
                'INSERT INTO "AlertTopicOffset" (topic, partition, next) VALUES (%s, %s, %s) ON CONFLICT (topic, partition) '
                "DO UPDATE SET next = excluded.next",
                [(self._target.topic, p, n) for p, n in sorted(ends.items())],
            )
            if idle:
                cursor.execute(
                    'UPDATE "AlertTopicOffset" SET "caughtUpAt" = now() WHERE topic = %s', (self._target.topic,)
                )
        self._told = time.monotonic()

    def _counts(self, messages: list[Message]) -> dict[tuple[int, ...], _Count]:
        """Count messages by visit, detector, ...; what is none of the relay's is passed over."""
        counts: dict[tuple[int, ...], _Count] = {}
        foreign: list[str] = []
        for message in messages:
            value = message.value()
            if value is None:
                continue
            try:
                found = self._parts(message, value)
            except AlertError as error:
                foreign.append(f"[{message.partition()}] at offset {message.offset()}: {error.message}")
                continue
            if found is not None:
                counts.setdefault(found[0], _Count()).add(found[1])
        if foreign:
            topic = self._target.topic
            _LOG.warning(
                "%d messages of topic %s are none of the relay's; the first: %s", len(foreign), topic, foreign[0]
            )
            self._report(topic, len(foreign))
        return counts

    def _parts(self, message: Message, value: bytes) -> tuple[tuple[int, ...], int] | None:
        """Return what a message is counted under, and its diaSourceId; None where it does not count.

        Raises
        ------
        AlertError
            The message is none of the relay's.
        """
        return _checked(_key(message, 3), trigger_id(value))

    def _count(self, cursor: psycopg.Cursor[Any], messages: list[Message]) -> None:
        """Add what came to what is counted."""
        cursor.executemany(self._ADD, [(f.count, f.xor, *key) for key, f in sorted(self._counts(messages).items())])


class CorrectionReconciler(Reconciler):
    """Follows the topic of corrections: how many sources of each visit were retracted or replaced."""

    _ADD = (
        'INSERT INTO "CorrectionTopicCount" AS t (count, xor, visit, detector) VALUES (%s, %s, %s, %s) ON CONFLICT (visit, '
        "detector) DO UPDATE SET count = t.count + excluded.count, xor = t.xor # excluded.xor"
    )

    @staticmethod
    def _followed(target: KafkaTarget) -> KafkaTarget:
        return target.only(target.correction_topic)

    def _parts(self, message: Message, value: bytes) -> tuple[tuple[int, ...], int] | None:
        correction, key = decode_correction(value), _key(message, 2)
        if key != (correction.visit, correction.detector):
            raise AlertError(
                f"it is of visit {correction.visit}, detector {correction.detector}, its headers are of {key}"
            )
        return _checked(key, correction.diaSourceId) if correction.withdraws else None
