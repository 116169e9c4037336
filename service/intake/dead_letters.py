"""Dead letters: visit messages that can never be entered, kept in the topic ``<visits>.dlq`` with the reason."""

from typing import Any

import psycopg
from confluent_kafka import Message, Producer

from alerts.delivery.target import MAX_MESSAGE
from apdb.database import first_line
from service.errors import BadMessage
from service.failures import typed
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError

__all__ = ["DeadLetters", "dead_letter_topic", "reason_of"]

LONGEST = MAX_MESSAGE - (1 << 16)  # bytes of a value: with the headers it is still no more than the topic takes
MOST_TEXT = 1000  # characters of the reason
DELIVERY_S, FLUSH_S = 20.0, 25.0


def dead_letter_topic(visit_topic: str) -> str:
    """Return the topic of the dead letters of a visit topic."""
    return f"{visit_topic}.dlq"


def reason_of(error: BaseException) -> AlertProdError:
    """Return why a message becomes a dead letter: what is wrong with it itself.

    Raises
    ------
    TransientError
        It is not the message's fault, the next ones would end in the same way: try again.
    """
    if isinstance(error, TransientError):
        raise error
    if isinstance(error, psycopg.DataError):
        return BadMessage(f"the database cannot hold it: {first_line(error)}")
    reason = typed(error)
    if isinstance(error, psycopg.Error | OSError):
        raise TransientError(f"{reason.code}: {reason}") from error
    return reason


class DeadLetters:
    """Publishes dead letters: key and value of the message, the reason in the headers ``error_code`` and ``error_text``.

    A value that is longer than the topic takes is cut; ``cut_from_bytes`` has its length then.
    """

    def __init__(self, settings: Settings) -> None:
        self._topic = dead_letter_topic(settings.visit_topic)
        options: dict[str, Any] = {
            "bootstrap.servers": settings.kafka_brokers,
            **settings.kafka_client,
            "acks": "all",
            "enable.idempotence": True,
            "message.timeout.ms": int(DELIVERY_S * 1000),
            "message.max.bytes": MAX_MESSAGE,
        }
        self._producer = Producer(options)

    def publish(self, message: Message, reason: AlertProdError) -> None:
        """Send a message to the dead letters and wait until the broker has it.

        Raises
        ------
        TransientError
            The broker has not taken it.
        """
        value = message.value()
        text = str(reason)[:MOST_TEXT].encode(errors="backslashreplace")
        headers = [("error_code", reason.code.encode()), ("error_text", text)]
        size = len(value or b"")
        if size > LONGEST:
            value, headers = (value or b"")[:LONGEST], [*headers, ("cut_from_bytes", str(size).encode())]
        failures: list[str] = []

        def note(error: Any, _message: Message) -> None:
            if error:
                failures.append(error.str())

        self._producer.produce(self._topic, value, message.key(), headers=headers, on_delivery=note)
        if self._producer.flush(FLUSH_S) or failures:
            raise TransientError(f"the dead letter topic refused a message: {failures or 'timed out'}")
