"""One life of a transactional producer: alerts and their progress in one Kafka transaction.

Any failed, timed-out or fenced call ends this life: librdkafka has no KIP-890 client, a late message of a timed-out
transaction must meet a new epoch. The caller makes a new one, which reads back what the last one committed.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from alertprod_client.filters import AlertFilter, read_for
from alerts.delivery.target import MAX_MESSAGE, KafkaTarget, Refusals, kafka_error
from alerts.errors import BrokerUnavailable, ProgressConflict
from alerts.packets.corrections import encode_correction
from alerts.packets.schemas import SCHEMA_ID
from alerts.packets.wire import Alert, frame_alert
from apdb.queue.corrections import Correction
from apdb.queue.outbox import OutboxRow

__all__ = ["AlertProducer", "Headers", "origin_headers"]

Headers = list[tuple[str, bytes]]


def origin_headers(row: OutboxRow) -> Headers:
    """Return the headers that say which processing of which image alerts come from."""
    return [(name, str(getattr(row, name)).encode()) for name in ("visit", "detector", "attempt")]


_INDEX_BITS = 20  # progress offset = publish order << 20 | alerts sent of it
_OVERHEAD = 1024  # of a message beside its value: key, headers, record framing


class AlertProducer:
    """Connected, with every older producer of the same transactional id fenced off; `sent` counts committed messages by topic.

    Parameters
    ----------
    target
        Brokers, topics.
    identity
        Name of the outbox; kept with the progress.
    wire_id
        Schema id in the wire header.
    limit
        Largest message, bytes.
    crash
        Called with the name of each crash point (fault tests).

    Raises
    ------
    BrokerUnavailable, BrokerRefused
        The transaction coordinator does not answer in time, or refuses.
    ProgressConflict
        The progress is that of another outbox.
    """

    def __init__(
        self,
        target: KafkaTarget,
        identity: str,
        wire_id: int = SCHEMA_ID,
        limit: int = MAX_MESSAGE,
        crash: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._target, self._wire_id, self._limit, self._crash = target, wire_id, limit, crash
        self._identity = identity
        self._fan_out = [(topic, AlertFilter(text)) for topic, text in target.fan_out]
        self._refusals = Refusals()
        self._group = Consumer(
            {
                **target.settings(self._refusals),
                "group.id": f"{target.transactional_id}-progress",
                "isolation.level": "read_committed",
            }
        )
        self._producer = Producer(
            {
                **target.settings(self._refusals),
                "transactional.id": target.transactional_id,
                "acks": "all",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 5,
                "message.max.bytes": MAX_MESSAGE,
                "transaction.timeout.ms": 30_000,
                "queue.buffering.max.kbytes": 131_072,
                # the limit of a topic is that of whole batches
                "batch.size": min(1_000_000, max(limit - _OVERHEAD, 1)),
                "partitioner": "murmur2_random",
            }
        )
        self.progress = (0, 0)
        self.sent, self._open = Counter[str](), Counter[str]()
        self._abandoned = False  # a thread is inside librdkafka still
        try:
            self._within(self._take_over)
        except (BrokerUnavailable, ProgressConflict):
            self.close()
            raise

    def _take_over(self) -> None:
        """Fence older producers and read what they committed (a coordinator that loads takes its time)."""
        self._producer.init_transactions(3 * self._target.timeout_s)
        committed = self._group.committed([TopicPartition(self._target.progress_topic, 0)], self._target.timeout_s)
        self.progress = divmod(max(committed[0].offset, 0), 1 << _INDEX_BITS)
        if committed[0].offset > 0 and committed[0].metadata not in (None, "", self._identity):
            raise ProgressConflict(
                f"the progress on {self._target.progress_topic} under {self._target.transactional_id} is that of another "
                "database: set ALERTPROD_TRANSACTIONAL_ID or ALERTPROD_ALERT_TOPIC to one of its own"
            )

    def close(self) -> None:
        """Leave; an open transaction ends with the next producer.

        What an abandoned thread works with is not closed: it would be freed under its hands. It goes with that thread.
        """
        if self._abandoned:
            return
        with suppress(BrokerUnavailable):
            self._within(self._group.close)

    def send(self, alerts: Sequence[Alert], headers: Headers, order: int, index: int) -> None:
        """Publish alerts in one transaction, with the progress (publish order, alerts sent of it) after them.

        Raises
        ------
        BrokerUnavailable, BrokerRefused
            Whether they are published is what the next producer reads; this one must not be used again.
        """

        def produce() -> None:
            for alert in alerts:
                self._produce(alert, headers)

        self._send(produce, order, index)

    def send_corrections(self, corrections: Sequence[Correction], wire_id: int, order: int, index: int) -> None:
        """Publish corrections as `send` does alerts.

        Raises
        ------
        BrokerUnavailable, BrokerRefused
            As `send`.
        """

        def produce() -> None:
            for c in corrections:
                headers = [
                    ("producer_timestamp", str(int(time.time() * 1000)).encode()),
                    ("visit", str(c.visit).encode()),
                    ("detector", str(c.detector).encode()),
                ]
                self._put(
                    self._target.correction_topic, encode_correction(c, wire_id), str(c.diaSourceId).encode(), headers
                )

        self._send(produce, order, index)

    def _send(self, produce: Callable[[], None], order: int, index: int) -> None:
        """Publish in one transaction with the progress."""
        offset = (order << _INDEX_BITS) | index
        position = TopicPartition(self._target.progress_topic, 0, offset, self._identity)
        self._open = Counter()
        self._within(lambda: self._transact(produce, position))
        self.sent += self._open
        self._open = Counter()
        self._producer.poll(0)  # lets librdkafka log
        self._crash("relay_committed")

    def _transact(self, produce: Callable[[], None], position: TopicPartition) -> None:
        timeout = self._target.timeout_s
        self._producer.begin_transaction()
        self._crash("relay_begun")
        produce()
        self._crash("relay_sent")
        whose = self._group.consumer_group_metadata()
        try:
            self._producer.send_offsets_to_transaction([position], whose, timeout)
        except KafkaException as error:
            if error.args[0].code() == KafkaError._STATE:  # it failed meanwhile: asked again, librdkafka says of what
                self._producer.send_offsets_to_transaction([position], whose, timeout)
            raise
        self._producer.commit_transaction(timeout)

    def _within(self, work: Callable[[], None]) -> None:
        """Do what librdkafka should end in time by itself; where it does not, leave it to a thread that is abandoned.

        An abandoned producer is fenced off by the next one, as a dead one is.
        """
        where, limit = f"brokers {self._target.brokers}", 4 * self._target.timeout_s
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        thread.join(limit)
        if thread.is_alive():
            self._abandoned = True
            raise BrokerUnavailable(f"{where}: librdkafka did not return within {limit:.0f} s")
        if failures and isinstance(failures[0], KafkaException):
            if self._open:
                where = f"topic {', '.join(sorted(self._open))} at {where}"
            with suppress(KafkaException):  # callbacks run within poll only; a fatal error comes out of it again
                self._producer.poll(0)
                self._group.poll(0)
            raise kafka_error(failures[0].args[0], self._refusals, where) from failures[0]
        if failures:
            raise failures[0]

    def _produce(self, alert: Alert, headers: Headers) -> None:
        stamp = ("producer_timestamp", str(int(time.time() * 1000)).encode())
        own, body = [stamp, *headers], alert.body
        if len(body) + _OVERHEAD > self._limit:
            from alerts.packets.trim import trim  # opens FITS; hardly ever needed

            body, steps = trim(body, self._limit - _OVERHEAD, alert.schema_id)
            own.append(("trimmed", steps.encode()))
        value, key = frame_alert(alert, self._wire_id, body), str(alert.key).encode()
        self._put(self._target.topic, value, key, own)
        if self._fan_out:
            packet = read_for((f for _, f in self._fan_out), alert.body, alert.schema_id)
            for topic, passes in self._fan_out:
                if passes(packet):
                    self._put(topic, value, key, own)

    def _put(self, topic: str, value: bytes, key: bytes, headers: Headers) -> None:
        deadline = time.monotonic() + self._target.timeout_s
        while True:
            try:
                self._producer.produce(topic, value, key, headers=headers)
                self._open[topic] += 1
                return
            except BufferError:  # the local queue is full: let it drain
                self._producer.poll(0.1)
                if time.monotonic() > deadline:
                    raise BrokerUnavailable(f"brokers {self._target.brokers}: the queue does not drain") from None
