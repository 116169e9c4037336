"""Dead letters: visit messages that cannot be entered, kept in the database and in the topic ``<visits>.dlq``."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, KafkaError, KafkaException, Message, Producer

from alerts.delivery.target import KAFKA_LOG, MAX_MESSAGE, Refusals, kafka_error
from apdb import Database
from apdb.database import first_line
from apdb.queue import dead_letters
from apdb.queue.dead_letters import DeadLetter
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError

__all__ = ["LARGEST", "DeadLetters", "dead_letter_topic", "letter_of"]

log = logging.getLogger("alertprod.ingest")

LARGEST = MAX_MESSAGE + (1 << 20)  # bytes: a message of the visit topic with what is added to it
CUT_TO = MAX_MESSAGE - (1 << 16)  # bytes of a value in a topic that takes no more than the visit topic
MOST_TEXT = 1000  # characters of the reason
DELIVERY_S, FLUSH_S = 10.0, 15.0
LIMIT_S = 60.0  # of the database
AGAIN = 20  # dead letters at a time that the topic did not take before
_NO_ROOM = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE)


def dead_letter_topic(visit_topic: str) -> str:
    """Return the topic of the dead letters of a visit topic."""
    return f"{visit_topic}.dlq"


def letter_of(message: Message, reason: AlertProdError) -> DeadLetter:
    """Return the dead letter of a message of Kafka."""
    kind, milliseconds = message.timestamp()
    sent = None if kind == TIMESTAMP_NOT_AVAILABLE else _moment(milliseconds)
    return DeadLetter(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        message.key(),
        message.value(),
        _headers(message),
        sent,
        reason.code,
        str(reason),
    )


def _moment(milliseconds: int) -> datetime | None:
    """Return a time of a producer's clock, None where it is none that the database can hold."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1e3, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    try:
        headers = message.headers() or []
    except (UnicodeError, ValueError):  # the name of a header need not be text
        return []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(str(k), v.encode() if isinstance(v, str) else v) for k, v in pairs]


class DeadLetters:
    """Keeps dead letters: a row each, and a message in their topic where that takes it.

    The message has key, value and headers of the original, and the headers ``error_code``, ``error_text``,
    ``source_topic``, ``source_partition``, ``source_offset``. A value that the topic does not take whole is cut there;
    ``cut_from_bytes`` has its length then. The row always has all of it.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database, self._topic = database, dead_letter_topic(settings.visit_topic)
        self._refusals = Refusals()
        options: dict[str, Any] = {
            "bootstrap.servers": settings.kafka_brokers,
            "logger": KAFKA_LOG,
            **settings.kafka_client,
            "acks": "all",
            # an idempotent producer that may not write is ended by that, and says no reason; a letter says where it comes from
            "enable.idempotence": False,
            "message.timeout.ms": int(DELIVERY_S * 1000),
            "topic.metadata.propagation.max.ms": 3_000,  # a topic that is not there is refused soon
            "message.max.bytes": 1_000_000_000,  # the broker says what the topic takes
            "error_cb": self._refusals,
        }
        self._options = options
        self._producer = Producer(options)

    def keep(self, letter: DeadLetter) -> None:
        """Keep a dead letter in the database, and send it to its topic where that takes it now.

        Raises
        ------
        DatabaseUnavailable
            It is not kept.
        """
        with self._database.session(LIMIT_S) as connection:
            try:
                number, published = dead_letters.add(connection, letter)
            except psycopg.DataError:  # of its headers or its time: the message itself is bytes
                number, published = dead_letters.add(connection, replace(letter, headers=(), sent_at=None))
            except psycopg.Error as error:
                raise TransientError(f"the dead letter is not kept: {first_line(error)}") from error
        log.warning(
            "dead letter %d: %s, partition %d, offset %d: %s: %s",
            number, letter.topic, letter.partition, letter.offset, letter.code, letter.text[:MOST_TEXT],
        )  # fmt: skip
        if not published:
            self._send(number, letter)

    def send_again(self) -> None:
        """Send what the topic did not take before, until it refuses again.

        Raises
        ------
        DatabaseUnavailable
        """
        with self._database.session(LIMIT_S) as connection:
            numbers = dead_letters.unpublished(connection, AGAIN)
        for number in numbers:
            with self._database.session(LIMIT_S) as connection:
                _, letter = dead_letters.get(connection, number)
            if not self._send(number, letter):
                return

    def _send(self, number: int, letter: DeadLetter) -> bool:
        """Send a letter to the topic, and note how that ended."""
        value, more = letter.value, _added(letter)
        refused = self._deliver(letter, value, more)
        if refused is not None and refused.code() in _NO_ROOM and value is not None and len(value) > CUT_TO:
            cut = ("cut_from_bytes", str(len(value)).encode())
            refused = self._deliver(letter, value[:CUT_TO], [*more, cut])
        said = None if refused is None else str(kafka_error(refused, self._refusals, f"topic {self._topic}"))
        if said is not None:
            log.warning("dead letter %d is in the database alone: %s", number, said)
        with self._database.session(LIMIT_S) as connection:
            dead_letters.mark_published(connection, number, said)
        return said is None

    def _deliver(self, letter: DeadLetter, value: bytes | None, more: Sequence[tuple[str, bytes]]) -> KafkaError | None:
        """Send a message and wait; returns what was refused, None when the broker has it."""
        failures: list[KafkaError] = []
        headers = [*letter.headers, *more]

        def note(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error)

        try:
            self._producer.produce(self._topic, value, letter.key, headers=headers, on_delivery=note)
            left = self._producer.flush(FLUSH_S)
        except KafkaException as error:
            return error.args[0]
        except BufferError:
            left = 1
        if left:
            failures.append(KafkaError(KafkaError._TIMED_OUT))
        if failures and (failures[0].fatal() or left):  # it may hold the message still: a new one holds nothing
            self._producer = Producer(self._options)
        return failures[0] if failures else None


def _added(letter: DeadLetter) -> list[tuple[str, bytes]]:
    facts = {
        "error_code": letter.code,
        "error_text": letter.text[:MOST_TEXT],
        "source_topic": letter.topic,
        "source_partition": str(letter.partition),
        "source_offset": str(letter.offset),
    }
    return [(name, text.encode(errors="backslashreplace")) for name, text in facts.items()]
