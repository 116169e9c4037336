"""The relay: publishes outbox rows to Kafka, each alert once.

One transactional producer sends the alerts of a visit in small transactions. In the same Kafka transaction it stores
how far it is (outbox id, index) as the offset of a progress topic, and it reads that back after `init_transactions`, not
the database; the mark in PostgreSQL comes afterwards. A time-out or any transactional error discards the producer
(librdkafka has no KIP-890 client: a late message of a timed-out transaction must meet a new epoch).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from alerts.archive import AlertFile, read_alerts
from alerts.errors import BrokerUnavailable
from alerts.wire import encode
from apdb import Database

__all__ = ["KafkaTarget", "Relay", "ensure_topics"]

BATCH = 500  # alerts a Kafka transaction: an open one holds back the readers of its partitions
_INDEX_BITS = 20  # progress offset = publish order << 20 | index
LEADER_LOCK = 7002


@dataclass(frozen=True)
class KafkaTarget:
    """Where alerts go. `client` are further librdkafka settings (security)."""

    brokers: str
    topic: str
    client: tuple[tuple[str, str], ...] = ()
    transactional_id: str = "alertprod-relay"
    timeout_s: float = 20.0

    @property
    def progress_topic(self) -> str:
        """The one-partition topic whose committed offset is the progress."""
        return f"{self.topic}.progress"

    def settings(self) -> dict[str, Any]:
        """Return the common client settings."""
        return {"bootstrap.servers": self.brokers, "socket.timeout.ms": 10_000, **dict(self.client)}


def ensure_topics(target: KafkaTarget, partitions: int = 4, replication: int = 1) -> None:
    """Make the alert and progress topics where they are missing.

    Raises
    ------
    BrokerUnavailable
        No broker answers in time.
    """
    admin = AdminClient(target.settings())
    wanted = [
        NewTopic(target.topic, partitions, replication, config={"max.message.bytes": "10485760"}),
        NewTopic(target.progress_topic, 1, replication),
    ]
    for future in admin.create_topics(
        wanted, operation_timeout=target.timeout_s, request_timeout=target.timeout_s
    ).values():
        try:
            future.result(timeout=target.timeout_s + 5)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise BrokerUnavailable(f"brokers {target.brokers}: {error.args[0].str()}") from error


class Relay:
    """Publishes what the outbox holds, in publish order.

    Parameters
    ----------
    database, archive
        Where rows and alert files are.
    target
        Brokers and topic.
    crash
        Called with the name of each crash point (fault tests).
    """

    def __init__(
        self,
        database: Database,
        archive: Path,
        target: KafkaTarget,
        crash: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._database, self._archive, self._target, self._crash = database, archive, target, crash
        self._producer: Producer | None = None
        self._leader: psycopg.Connection[Any] | None = None
        self._done = (0, 0)

    def close(self) -> None:
        """Drop the producer and the leader lock."""
        self._producer = None
        if self._leader is not None:
            self._leader.close()
            self._leader = None

    def step(self) -> int:
        """Publish everything that waits; returns the number of alerts sent (0: nothing to do, or another leads).

        Raises
        ------
        BrokerUnavailable, DatabaseUnavailable
            Try again later; nothing is lost and nothing will be sent twice.
        """
        if not self._lead():
            return 0
        try:
            if self._producer is None:
                self._connect()
            sent = 0
            for row in self._waiting():
                sent += self._publish(*row)
            return sent
        except KafkaException as error:
            self._producer = None
            raise BrokerUnavailable(f"Kafka: {error.args[0].str()}") from error
        except psycopg.OperationalError:
            self.close()
            raise

    def _lead(self) -> bool:
        """Hold the leader lock on a session of its own."""
        if self._leader is not None and not self._leader.closed:
            return True
        connection = self._database.connect()
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LEADER_LOCK,)).fetchone()
        if row and row[0]:
            self._leader = connection
            return True
        connection.close()
        return False

    def _connect(self) -> None:
        """Make a producer (fencing any older one) and read the progress that the last one committed."""
        producer = Producer(
            {
                **self._target.settings(), "transactional.id": self._target.transactional_id, "acks": "all",
                "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 20,
                "message.max.bytes": 10_485_760, "transaction.timeout.ms": 30_000,
                "queue.buffering.max.kbytes": 262_144,
            }
        )  # fmt: skip
        producer.init_transactions(3 * self._target.timeout_s)  # a coordinator that loads takes its time
        self._done = self._progress()
        self._producer = producer

    def _progress(self) -> tuple[int, int]:
        """Return (publish order, alerts sent of it): the later of the broker's word and the mark in PostgreSQL."""
        consumer = Consumer({**self._target.settings(), "group.id": f"{self._target.transactional_id}-progress"})
        try:
            committed = consumer.committed([TopicPartition(self._target.progress_topic, 0)], self._target.timeout_s)
        finally:
            consumer.close()
        offset = max(committed[0].offset, 0)
        assert self._leader is not None
        row = self._leader.execute(
            'SELECT coalesce(max("publishOrder"), 0) FROM "AlertOutbox" WHERE "publishedAt" IS NOT NULL'
        ).fetchone()
        marked = (int(row[0]) + 1, 0) if row and row[0] else (0, 0)
        order, index = divmod(int(offset), 1 << _INDEX_BITS)
        return max((order, index), marked)

    def _waiting(self) -> Iterator[tuple[int, AlertFile, int, int]]:
        """Yield unpublished rows in publish order; rows without one get the next numbers now (only the leader does)."""
        assert self._leader is not None
        self._leader.execute(
            'UPDATE "AlertOutbox" o SET "publishOrder" = n.next FROM (SELECT id, (SELECT coalesce(max("publishOrder"), 0) '
            'FROM "AlertOutbox") + row_number() OVER (ORDER BY id) AS next FROM "AlertOutbox" WHERE "publishOrder" IS '
            'NULL AND "heldReason" IS NULL) n WHERE o.id = n.id'
        )
        rows = self._leader.execute(
            'SELECT "publishOrder", file, count, checksum, visit, detector FROM "AlertOutbox" WHERE "publishedAt" IS NULL '
            'AND "publishOrder" IS NOT NULL '  # rows that came since the statement above wait for the next round
            'ORDER BY "publishOrder" LIMIT 200'
        ).fetchall()
        for order, file, count, checksum, visit, detector in rows:
            yield order, AlertFile(file, count, checksum), visit, detector

    def _publish(self, order: int, file: AlertFile, visit: int, detector: int) -> int:
        start = self._done[1] if self._done[0] == order else 0
        if self._done[0] > order:
            start = file.count
        packets = islice(read_alerts(self._archive, file), start, None)
        index = start
        while index < file.count:
            batch = list(islice(packets, BATCH))
            if not batch:
                raise BrokerUnavailable(f"alert file {file.name} ends after {index} of {file.count} alerts")
            index += len(batch)
            self._send(batch, order, index, visit, detector)
        self._crash("relay_marked")
        assert self._leader is not None
        self._leader.execute('UPDATE "AlertOutbox" SET "publishedAt" = now() WHERE "publishOrder" = %s', (order,))
        self._done = (order + 1, 0) if self._done[0] <= order else self._done
        return file.count - start

    def _send(self, batch: list[dict[str, Any]], order: int, index: int, visit: int, detector: int) -> None:
        """Send one batch and its progress in one Kafka transaction."""
        producer, timeout = self._producer, self._target.timeout_s
        assert producer is not None
        producer.begin_transaction()
        failures: list[str] = []

        def delivered(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failures.append(error.str())

        for packet in batch:
            owner = packet["diaSource"]["diaObjectId"] or packet["diaSource"]["ssObjectId"] or packet["diaSourceId"]
            headers = [
                ("producer_timestamp", str(int(time.time() * 1000)).encode()), ("visit", str(visit).encode()),
                ("detector", str(detector).encode()),
            ]  # fmt: skip
            value = encode(packet)
            while True:
                try:
                    producer.produce(
                        self._target.topic, value, str(owner).encode(), headers=headers, on_delivery=delivered
                    )
                    break
                except BufferError:  # the local queue is full: let it drain
                    producer.poll(0.5)
            producer.poll(0)
        self._crash("relay_sent")
        consumer = Consumer({**self._target.settings(), "group.id": f"{self._target.transactional_id}-progress"})
        try:
            position = TopicPartition(self._target.progress_topic, 0, (order << _INDEX_BITS) | index)
            producer.send_offsets_to_transaction([position], consumer.consumer_group_metadata(), timeout)
        finally:
            consumer.close()
        producer.commit_transaction(timeout)
        if failures:
            raise BrokerUnavailable(f"{len(failures)} alerts were not delivered: {failures[0]}")
        self._done = (order, index)
        self._crash("relay_committed")
