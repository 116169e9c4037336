"""Kafka ingest: the same visit message through the same use case; offsets are committed after the database."""

import json
import logging
import threading
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer

from apdb import Database, Ledger
from service.errors import BadMessage
from service.settings import Settings
from service.submit import submit_visit
from tasks.errors import AlertProdError, TransientError

__all__ = ["Ingest"]

log = logging.getLogger("alertprod.ingest")


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
        self._dead = Producer({**common, "acks": "all", "enable.idempotence": True, "message.timeout.ms": 20_000})

    def stop(self) -> None:
        """End after the current message."""
        self._stop.set()

    def run(self) -> None:
        """Read until `stop` is called."""
        self._consumer.subscribe([self._settings.visit_topic])
        try:
            while not self._stop.is_set():
                message = self._consumer.poll(0.5)
                if message is not None and message.error() is None:
                    self._take(message)
        finally:
            self._consumer.close()

    def _take(self, message: Message) -> None:
        while not self._stop.is_set():
            try:
                try:
                    submit_visit(_decode(message.value()), self._settings, self._ledger)
                except TransientError:
                    raise
                except AlertProdError as error:
                    self._bury(message, error)
                self._consumer.commit(message, asynchronous=False)
                return
            except (TransientError, KafkaException) as error:
                log.warning("visit message at offset %s: %s", message.offset(), error)
                self._consumer.poll(0)  # keeps the membership alive; the partition stays with us
                self._stop.wait(1.0)

    def _bury(self, message: Message, error: AlertProdError) -> None:
        """Send the message to the dead letters and wait until the broker has it."""
        failures: list[str] = []
        headers = [("error_code", error.code.encode()), ("error_text", str(error)[:1000].encode())]
        self._dead.produce(
            f"{self._settings.visit_topic}.dlq", message.value(), message.key(), headers=headers,
            on_delivery=lambda e, _m: failures.append(e.str()) if e else None,
        )  # fmt: skip
        if self._dead.flush(25) or failures:
            raise TransientError(f"the dead letter topic refused a message: {failures or 'timed out'}")


def _decode(value: bytes | None) -> Any:
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError) as error:
        raise BadMessage(f"the message is no JSON: {error}") from error
