"""Kafka ingest: the same visit message through the same use case; offsets are stored after the database has it."""

import logging
import threading
import time
from collections import deque
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from alerts.delivery.target import KAFKA_LOG, KafkaTarget, ensure_topics, kafka_error
from apdb import Database, Ledger
from service.crash import crash_at
from service.errors import JobCrashed
from service.intake.dead_letters import LARGEST, DeadLetters, dead_letter_topic, letter_of
from service.intake.headers import HeaderReader
from service.intake.message import decode_message
from service.intake.reasons import reason_of
from service.intake.submit import submit_visit
from service.observe.measures import INGESTED
from service.observe.traces import tracing
from service.settings import Settings
from tasks.errors import AlertProdError, TransientError

__all__ = ["Ingest"]

log = logging.getLogger("alertprod.ingest")

PAUSE_S = 1.0  # between two tries at a message
MOST_TRIES = 30  # at a message that fails while the database answers: then it is a dead letter that can be requeued
TOPICS_AGAIN_S, LETTERS_AGAIN_S = 30.0, 60.0


class Ingest:
    """Reads visit messages; what cannot be entered becomes a dead letter.

    While a message waits for the database its partitions are paused, and the consumer is polled on to keep its
    membership. Whatever a poll returns then is kept, and entered in its turn. An offset is stored (and committed by the
    client, at intervals and when it is closed) when the database has the message: what was not stored comes again.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database(settings.database())
        self._ledger = Ledger(self._database)
        self._headers = HeaderReader(settings, 1)
        self._stop = threading.Event()
        self._waiting: deque[Message] = deque()  # polled, and not entered yet
        self._topics_due = self._letters_due = 0.0
        self.tries = 0  # at the present message, that failed
        options: dict[str, Any] = {
            "bootstrap.servers": settings.kafka_brokers,
            "logger": KAFKA_LOG,
            **settings.kafka_client,
            "group.id": settings.ingest_group,
            "enable.auto.commit": True,
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": 1_000,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 10_000,
            "max.poll.interval.ms": 600_000,
            "topic.metadata.refresh.interval.ms": 10_000,  # a topic that is made later is found
            "on_commit": _note_commit,
        }
        self._consumer = Consumer(options)
        self._dead_letters = DeadLetters(settings, self._database)

    def stop(self) -> None:
        """End after the current message."""
        self._stop.set()

    def run(self) -> None:
        """Read until `stop` is called; the topics of visits and of dead letters are made where they are missing."""
        self._consumer.subscribe(
            [self._settings.visit_topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        try:
            while not self._stop.is_set():
                self._look_after()
                message = self._waiting.popleft() if self._waiting else self._poll(0.5)
                if message is not None:
                    self._take(message)
        finally:
            self._consumer.close()
            self._headers.close()

    def _assigned(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        log.info("partitions: %s", [p.partition for p in partitions])

    def _revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Forget what was polled of partitions that another has now: it comes to that one."""
        gone = {(p.topic, p.partition) for p in partitions}
        self._waiting = deque(m for m in self._waiting if (m.topic(), m.partition()) not in gone)

    def _poll(self, seconds: float) -> Message | None:
        """Return the next message; errors of the client are said.

        Raises
        ------
        BrokerUnavailable
            The client cannot go on.
        """
        message = self._consumer.poll(seconds)
        error = None if message is None else message.error()
        if error is None:
            return message
        if error.fatal():
            raise kafka_error(error)
        log.warning("topic %s: %s", self._settings.visit_topic, error.str())
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            self._topics_due = min(self._topics_due, time.monotonic() + PAUSE_S)
        return None

    def _look_after(self) -> None:
        """Now and then: make topics that are missing, send dead letters that their topic did not take."""
        now = time.monotonic()
        if now >= self._topics_due:
            missing = sum(not self._make_topic(*topic) for topic in self._topics())
            self._topics_due = time.monotonic() + TOPICS_AGAIN_S if missing else float("inf")
        if now >= self._letters_due:
            try:
                self._dead_letters.send_again()
            except TransientError as error:
                log.warning("dead letters: %s", error)
            self._letters_due = time.monotonic() + LETTERS_AGAIN_S

    def _topics(self) -> list[tuple[str, dict[str, int]]]:
        visits = self._settings.visit_topic
        return [(visits, {}), (dead_letter_topic(visits), {"largest": LARGEST})]

    def _make_topic(self, topic: str, more: dict[str, int]) -> bool:
        """Make a topic where it is missing; another may have to make it: it may be there, or come."""
        s = self._settings
        target = KafkaTarget(s.kafka_brokers, topic, tuple(s.kafka_client.items()), timeout_s=10.0)
        try:
            ensure_topics(target, s.alert_partitions, s.topic_replication, progress=False, **more)
        except TransientError as error:
            log.warning("topic %s: %s", topic, error)
            return False
        return True

    def _take(self, message: Message) -> None:
        """Enter a message, or make it a dead letter; what may pass is tried until it does."""
        blamed, self.tries = 0, 0
        while not self._stop.is_set():
            try:
                self._enter(message, last=blamed + 1 >= MOST_TRIES)
                crash_at("entered", self._settings.crash_point)
                self._store(message)
                return
            except TransientError as error:
                log.warning("visit message at offset %s: %s", message.offset(), error)
                self.tries += 1
                INGESTED.labels("again").inc()
                # no message is to blame while the database is away, or where no process can be started to read its header
                blamed += not isinstance(error, JobCrashed) and self._database_answers()
                if not self._wait(message):
                    return

    def _enter(self, message: Message, last: bool) -> None:
        """Enter a message into the ledger, or keep it as a dead letter (in any case when it is the `last` try).

        Raises
        ------
        TransientError
            Neither could be done now.
        """
        try:
            with tracing(_traceparent(message)):
                submit_visit(decode_message(message.value()), self._settings, self._ledger, self._headers)
            INGESTED.labels("entered").inc()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # nothing that a message holds may end the process: the next one waits
            if last and isinstance(error, TransientError):
                reason: AlertProdError = error
            else:
                reason = reason_of(error)
            if not isinstance(error, AlertProdError):  # a fault of the program, or nearly
                log.warning("visit message at offset %s", message.offset(), exc_info=error)
            self._dead_letters.keep(letter_of(message, reason))
            INGESTED.labels("dead_letter").inc()

    def _store(self, message: Message) -> None:
        """Let the client commit the offset behind a message."""
        try:
            self._consumer.store_offsets(message)
        except (
            KafkaException
        ) as error:  # another has the partition: the message comes to that one again, which does no harm
            log.warning("offset %s is not stored: %s", message.offset(), error.args[0].str())

    def _database_answers(self) -> bool:
        try:
            self._database.check_schema(newer_is_good=True)
            self._database.check_writable()
        except AlertProdError:
            return False
        return True

    def _wait(self, message: Message) -> bool:
        """Wait before the next try with all partitions paused; False when another has the message's partition by now."""
        self._pause()
        deadline = time.monotonic() + PAUSE_S
        while (left := deadline - time.monotonic()) > 0 and not self._stop.is_set():
            more = self._poll(min(left, 0.5))
            if more is not None:  # of a partition that came meanwhile
                self._waiting.append(more)
                self._pause()
        own = self._consumer.assignment()
        self._consumer.resume(own)
        return any((p.topic, p.partition) == (message.topic(), message.partition()) for p in own)

    def _pause(self) -> None:
        self._consumer.pause(self._consumer.assignment())


def _traceparent(message: Message) -> str | None:
    """Return the header of that name, None where there is none that is text."""
    try:
        header = dict(message.headers() or []).get("traceparent")
        return header.decode("ascii") if isinstance(header, bytes) else header
    except (UnicodeError, ValueError):
        return None


def _note_commit(error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
    if error is not None:
        log.warning("offsets are not committed: %s", error.str())
