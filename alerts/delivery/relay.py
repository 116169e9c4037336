"""The relay: publishes outbox rows to Kafka, each alert once, in publish order.

What is published is known to Kafka itself: the progress (publish order, alerts sent of that row) is committed with the
alerts. A relay that starts reads it back and brings PostgreSQL up to it; the marks in PostgreSQL are a second memory, for
when Kafka has forgotten (group offsets expire).
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from astropy.time import Time

from alerts.archive.selection import alert_file
from alerts.archive.store import AlertArchive
from alerts.delivery.producer import AlertProducer, Headers, origin_headers
from alerts.delivery.target import KafkaTarget, message_limit
from alerts.errors import AlertError, ArchiveUnavailable, BrokerUnavailable
from alerts.packets.corrections import CORRECTION_ID
from alerts.packets.schemas import SCHEMA_ID
from alerts.packets.wire import Alert
from apdb import Database
from apdb.database import AWAY, first_line
from apdb.errors import DatabaseUnavailable
from apdb.queue import corrections, outbox
from apdb.queue.corrections import CorrectionBatch
from apdb.queue.outbox import OutboxRow
from apdb.queue.status import RELAY_LOCK, add_yields
from tasks.errors import AlertProdError

__all__ = ["Published", "Relay"]

log = logging.getLogger("alertprod.relay")

BATCH_CORRECTIONS, MOST_WAITING = 5000, 100
BATCH_ALERTS, BATCH_BYTES = 500, 16 << 20  # of a transaction: an open one holds back the readers of its partitions
FIRST_BATCH_BYTES = 2 << 20  # of a visit: its first alerts are out at once
_DAY = 86400.0


@dataclass(frozen=True)
class Published:
    """What a relay has sent of one outbox row.

    Parameters
    ----------
    row
        The row as it was before.
    by_topic
        Messages by topic.
    since_shutter_s
        Seconds from the end of the exposure to its last alert; None where it is not known.
    """

    row: OutboxRow
    by_topic: dict[str, int]
    since_shutter_s: float | None


class Relay:
    """Publishes what the outbox holds.

    Parameters
    ----------
    database, archive
        Where rows and alert files are.
    target
        Brokers and topics.
    wire_id, correction_id
        Schema ids in the wire headers of alerts and of corrections.
    crash
        Called with the name of each crash point (fault tests).
    report
        Told of every row whose alerts are all in the topic.
    """

    def __init__(
        self,
        database: Database,
        archive: AlertArchive,
        target: KafkaTarget,
        wire_id: int = SCHEMA_ID,
        crash: Callable[[str], None] = lambda name: None,
        correction_id: int = CORRECTION_ID,
        report: Callable[[Published], None] = lambda published: None,
    ) -> None:
        self._report = report
        self._database, self._archive, self._target, self._crash = database, archive, target, crash
        self._wire_id, self._correction_id = wire_id, correction_id
        self._producer: AlertProducer | None = None
        self._leader: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        """Drop the producer and the leader lock."""
        self._drop_producer()
        if self._leader is not None:
            self._leader.close()
            self._leader = None

    def _drop_producer(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    @property
    def leads(self) -> bool:
        """Whether this relay holds the leader lock."""
        return self._leader is not None and not self._leader.closed

    def step(self) -> int:
        """Publish the first `MOST_WAITING` visits and corrections that wait; returns the number of alerts sent.

        0: nothing waits, or another leads.

        Raises
        ------
        BrokerUnavailable, DatabaseUnavailable, ArchiveUnavailable
            Try again later; nothing is lost and nothing will be sent twice.
        ProgressConflict
            Another database publishes under the same names.
        """
        try:
            leader = self._lead()
            if leader is None:
                return 0
            producer = self._connected(leader)
            outbox.assign_order(leader)
            return sum(self._publish_next(leader, producer, item) for item in _in_line(leader))
        except (BrokerUnavailable, ArchiveUnavailable):  # a transaction may be open
            self._drop_producer()
            raise
        except AWAY as error:
            self.close()
            raise DatabaseUnavailable(f"the relay lost its session: {first_line(error)}") from error

    def _lead(self) -> psycopg.Connection[Any] | None:
        """Hold the leader lock on a session of its own."""
        if self._leader is not None and not self._leader.closed:
            return self._leader
        connection = self._database.connect()
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (RELAY_LOCK,)).fetchone()
        if row and row[0]:
            self._leader = connection
            return connection
        connection.close()
        return None

    def _connected(self, leader: psycopg.Connection[Any]) -> AlertProducer:
        """Return the producer; a new one fences older ones, and PostgreSQL learns what they committed."""
        if self._producer is None:
            limit = message_limit(self._target)
            self._producer = AlertProducer(self._target, outbox.identity(leader), self._wire_id, limit, self._crash)
            outbox.catch_up(leader, *self._producer.progress)
        return self._producer

    def _publish_next(
        self, leader: psycopg.Connection[Any], producer: AlertProducer, item: OutboxRow | CorrectionBatch
    ) -> int:
        if isinstance(item, OutboxRow):
            return self._publish(leader, producer, item)
        return self._correct(leader, producer, item)

    def _correct(self, leader: psycopg.Connection[Any], producer: AlertProducer, batch: CorrectionBatch) -> int:
        """Write what is left of a batch of corrections to the archive and to the topic."""
        rows = corrections.corrections_of_batch(leader, batch.id)
        self._archive.write_corrections(batch.id, rows)
        sent = batch.published_count
        while sent < len(rows):
            part = rows[sent : sent + BATCH_CORRECTIONS]
            producer.send_corrections(part, self._correction_id, batch.order, sent + len(part))
            sent += len(part)
            corrections.mark_batch(leader, batch.order, sent)
        return sent - batch.published_count

    def _publish(self, leader: psycopg.Connection[Any], producer: AlertProducer, row: OutboxRow) -> int:
        """Publish what is left of a row; a row whose file is broken is held, the others go on."""
        file, order = alert_file(row), row.order
        sent, before = row.published_count, Counter(producer.sent)
        try:
            for batch in _ahead(_batches(self._archive.stream(file, sent))):
                producer.send(batch, _headers(row), order, sent + len(batch))
                sent += len(batch)
                if sent < row.count:
                    outbox.mark(leader, order, sent, None, complete=False)
            if sent != row.count:
                raise AlertError(f"alert file {row.file} ends after {sent} of {row.count} alerts")
        except AlertProdError as error:
            if error.retriable:
                raise
            log.error("visit %s, detector %s: alerts held: %s", row.visit, row.detector, error)
            self._drop_producer()  # its transaction may be open
            outbox.hold(leader, order, str(error))
            raise BrokerUnavailable(f"the relay goes on without {row.file}") from error
        self._crash("relay_marked")
        since = _since(row.shutter_close)
        by_topic = producer.sent - before
        with leader.transaction():
            outbox.mark(leader, order, sent, since, complete=True)
            if row.shutter_close is not None and self._target.fan_out:
                night = math.floor(row.shutter_close - 0.5)
                add_yields(leader, night, {topic: by_topic[topic] for topic, _ in self._target.fan_out})
        self._report(Published(row, dict(by_topic), since))
        return sent - row.published_count


def _in_line(connection: psycopg.Connection[Any]) -> list[OutboxRow | CorrectionBatch]:
    """Return what waits in publish order: no correction before an alert that is in front of it."""
    rows, batches = outbox.rows_waiting(connection, MOST_WAITING), corrections.batches_waiting(connection, MOST_WAITING)
    full = [part[-1].order for part in (rows, batches) if len(part) == MOST_WAITING]
    seen = min(full, default=None)
    line: list[OutboxRow | CorrectionBatch] = [*rows, *batches]
    return sorted((i for i in line if seen is None or i.order <= seen), key=lambda i: i.order)


def _headers(row: OutboxRow) -> Headers:
    out = origin_headers(row)
    return [*out, ("traceparent", row.traceparent.encode())] if row.traceparent else out


def _since(shutter_close: float | None) -> float | None:
    """Return the seconds since the shutter closed, None when that is not known."""
    return None if shutter_close is None else (float(Time(time.time(), format="unix").tai.mjd) - shutter_close) * _DAY


def _batches(alerts: Iterator[Alert]) -> Iterator[list[Alert]]:
    """Group alerts into transactions: a small first one, then up to `BATCH_ALERTS` or `BATCH_BYTES`."""
    batch: list[Alert] = []
    size, limit = 0, FIRST_BATCH_BYTES
    for alert in alerts:
        if batch and (len(batch) >= BATCH_ALERTS or size + len(alert.body) > limit):
            yield batch
            batch, size, limit = [], 0, BATCH_BYTES
        batch.append(alert)
        size += len(alert.body)
    if batch:
        yield batch


def _ahead(batches: Iterator[list[Alert]]) -> Iterator[list[Alert]]:
    """Yield batches; the next one is read while the last one is on its way."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = reader.submit(next, batches, None)
            yield batch
