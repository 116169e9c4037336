"""Kafka ingest: the same visit message through the same use case; offsets are committed after the database."""

import json
import logging
import threading
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, Producer

from alerts.delivery.target import MAX_MESSAGE, KafkaTarget, ensure_topics
from alerts.errors import BrokerRefused
from apdb import Database, Ledger
from apdb.database import first_line
from service.errors import BadMessage
from service.failures import typed
from service.intake.submit import submit_visit
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError

__all__ = ["Ingest"]

log = logging.getLogger("alertprod.ingest")

LONGEST = MAX_MESSAGE - (1 << 16)


class Ingest:
    """Reads visit messages; what can never be entered goes to the topic ``<visits>.dlq`` with the reason."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger(Database(settings.database()))
        self._stop = threading.Event()
        common: dict[str, Any] = {"bootstrap.servers": settings.kafka_brokers, **settings.kafka_client}
        self._consumer = Consumer(
            {
                **common, "group.id": settings.ingest_group, "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "session.timeout.ms": 10_000, "max.poll.interval.ms": 600_000,
            }
        )  # fmt: skip
        self._dead = Producer({**common, "acks": "all", "enable.idempotence": True, "message.timeout.ms": 20_000,
                               "message.max.bytes": MAX_MESSAGE})  # fmt: skip

    def stop(self) -> None:
        """End after the current message."""
        self._stop.set()

    def run(self) -> None:
        """Read until `stop` is called; the topics of visits and of dead letters are made where they are missing."""
        self._make_topics()
        self._consumer.subscribe([self._settings.visit_topic])
        try:
            while not self._stop.is_set():
                message = self._consumer.poll(0.5)
                if message is None:
                    continue
                error = message.error()
                if error is None:
                    self._take(message)
                else:
                    log.warning("topic %s: %s", self._settings.visit_topic, error.str())
        finally:
            self._consumer.close()

    def _make_topics(self) -> None:
        s = self._settings
        for topic in (s.visit_topic, self._dead_topic):
            target = KafkaTarget(s.kafka_brokers, topic, tuple(s.kafka_client.items()))
            while not self._stop.is_set():
                try:
                    ensure_topics(target, s.alert_partitions, s.topic_replication, progress=False)
                    break
                except BrokerRefused as error:  # another may have to make it: it may be there, or come
                    log.warning("topic %s: %s", topic, error)
                    break
                except TransientError as error:
                    log.warning("topic %s: %s", topic, error)
                    self._stop.wait(2.0)

    @property
    def _dead_topic(self) -> str:
        return f"{self._settings.visit_topic}.dlq"

    def _take(self, message: Message) -> None:
        while not self._stop.is_set():
            try:
                try:
                    submit_visit(_decode(message.value()), self._settings, self._ledger)
                except TransientError:
                    raise
                except (psycopg.Error, OSError) as error:
                    self._bury(message, _lasting(error))
                except Exception as error:  # nothing that a message holds may end the process: the next one waits
                    if not isinstance(error, AlertProdError):
                        log.exception("visit message at offset %s", message.offset())
                    self._bury(message, typed(error))
                self._consumer.commit(message, asynchronous=False)
                return
            except (TransientError, KafkaException) as error:
                log.warning("visit message at offset %s: %s", message.offset(), error)
                self._consumer.poll(0)  # keeps the membership alive; the partition stays with us
                self._stop.wait(1.0)

    def _bury(self, message: Message, error: AlertProdError) -> None:
        """Send the message to the dead letters and wait until the broker has it."""
        failures: list[str] = []
        text = str(error)[:1000].encode(errors="backslashreplace")
        headers = [("error_code", error.code.encode()), ("error_text", text)]
        value = message.value()
        if len(value or b"") > LONGEST:  # with the headers it would be more than the topic takes
            value, headers = (value or b"")[:LONGEST], [*headers, ("cut_from_bytes", str(len(value or b"")).encode())]
        self._dead.produce(
            self._dead_topic, value, message.key(), headers=headers,
            on_delivery=lambda e, _m: failures.append(e.str()) if e else None,
        )  # fmt: skip
        if self._dead.flush(25) or failures:
            raise TransientError(f"the dead letter topic refused a message: {failures or 'timed out'}")


def _decode(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the message is no JSON: {error}") from error


def _lasting(error: psycopg.Error | OSError) -> AlertProdError:
    """Return the error of a message that the database cannot hold.

    Raises
    ------
    TransientError
        It is not the message's fault: try again.
    """
    if isinstance(error, psycopg.DataError):
        return BadMessage(f"the database cannot hold it: {first_line(error)}")
    found = typed(error)
    raise TransientError(f"{found.code}: {found}") from error
