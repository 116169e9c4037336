"""Kafka ingest: the same visit message through the same use case; offsets are committed after the database."""

import json
import logging
import threading
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Message

from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import BrokerRefused
from apdb import Database, Ledger
from service.errors import BadMessage
from service.intake.dead_letters import DeadLetters, dead_letter_topic, reason_of
from service.intake.submit import submit_visit
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError

__all__ = ["Ingest"]

log = logging.getLogger("alertprod.ingest")


class Ingest:
    """Reads visit messages; what can never be entered becomes a dead letter."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger = Ledger(Database(settings.database()))
        self._stop = threading.Event()
        options: dict[str, Any] = {
            "bootstrap.servers": settings.kafka_brokers,
            **settings.kafka_client,
            "group.id": settings.ingest_group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10_000,
            "max.poll.interval.ms": 600_000,
        }
        self._consumer = Consumer(options)
        self._dead_letters = DeadLetters(settings)

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
        for topic in (s.visit_topic, dead_letter_topic(s.visit_topic)):
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

    def _take(self, message: Message) -> None:
        """Enter a message, or make it a dead letter; what may pass is tried until it does."""
        while not self._stop.is_set():
            try:
                self._enter(message)
                self._consumer.commit(message, asynchronous=False)
                return
            except (TransientError, KafkaException) as error:
                log.warning("visit message at offset %s: %s", message.offset(), error)
                self._consumer.poll(0)  # keeps the membership alive; the partition stays with us
                self._stop.wait(1.0)

    def _enter(self, message: Message) -> None:
        """Enter a message into the ledger, or publish it as a dead letter.

        Raises
        ------
        TransientError
            Neither could be done now.
        """
        try:
            submit_visit(_decode(message.value()), self._settings, self._ledger)
        except Exception as error:  # nothing that a message holds may end the process: the next one waits
            reason = reason_of(error)
            if not isinstance(error, AlertProdError | psycopg.Error | OSError):  # a fault of the program
                log.exception("visit message at offset %s", message.offset())
            self._dead_letters.publish(message, reason)


def _decode(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the message is no JSON: {error}") from error
