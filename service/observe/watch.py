"""Whether what a process needs answers: asked in a thread of its own, so that a probe never waits for a server."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from alerts.errors import BrokerUnavailable
from service.observe.measures import BROKER_LAG, BROKER_OFFSET, DEPENDENCY_UP
from service.settings import Settings
from tasks.errors import AlertProdError

__all__ = ["PERIOD_S", "Reach", "Watch", "ask_broker", "ask_database", "ask_lag", "reach_broker"]

log = logging.getLogger("alertprod.watch")

PERIOD_S, LIMIT_S = 10.0, 5.0


class Watch(threading.Thread):
    """Asks every `PERIOD_S` seconds, and remembers what was the matter.

    Parameters
    ----------
    asked
        Name of what is needed, and a function that raises an error of ours where it does not answer.
    """

    def __init__(self, asked: Mapping[str, Callable[[], None]], period_s: float = PERIOD_S) -> None:
        super().__init__(daemon=True, name="watch")
        self._asked, self._period_s = dict(asked), period_s
        self._problems: dict[str, str] = dict.fromkeys(asked, "not asked yet")
        self._ended = threading.Event()

    def run(self) -> None:
        """Ask until `stop` is called."""
        while not self._ended.is_set():
            self.look()
            self._ended.wait(self._period_s)

    def stop(self) -> None:
        """End the thread after its present question."""
        self._ended.set()

    def look(self) -> None:
        """Ask once; what changes is logged."""
        for name, ask in self._asked.items():
            before = self._problems.get(name)
            try:
                ask()
            except Exception as error:  # whatever it is: it is said, and asked again
                code = error.code if isinstance(error, AlertProdError) else type(error).__name__
                self._problems[name] = f"{code}: {error}"
                if before in (None, "not asked yet"):
                    log.warning("%s: %s", name, error)
            else:
                self._problems.pop(name, None)
                if before not in (None, "not asked yet"):
                    log.info("%s answers again", name)
            DEPENDENCY_UP.labels(name).set(name not in self._problems)

    def problems(self) -> dict[str, str]:
        """Return what does not answer, and how that was said."""
        return dict(self._problems)


class Reach:
    """Whether a broker can be reached, for a process without a Kafka client; asked again after `PERIOD_S` seconds.

    Parameters
    ----------
    brokers
        host:port list; empty where there are none.
    """

    def __init__(self, brokers: str) -> None:
        self._ask = reach_broker(brokers) if brokers else None
        self._lock = threading.Lock()
        self._until = 0.0
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Return what is the matter, None where nothing is or there are no brokers."""
        with self._lock:
            if self._ask is not None and time.monotonic() >= self._until:
                self._problem = None
                try:
                    self._ask()
                except BrokerUnavailable as error:
                    self._problem = str(error)
                self._until = time.monotonic() + PERIOD_S
            return self._problem


def ask_database(settings: Settings) -> Callable[[], None]:
    """Return a question to the database: does it answer, with the schema of this program, and take writes?"""
    from apdb import Database

    database = Database(settings.database(), statement_timeout_s=int(LIMIT_S))

    def ask() -> None:
        database.check_schema(newer_is_good=True)
        database.check_writable()

    return ask


def ask_broker(settings: Settings) -> Callable[[], None]:
    """Return a question to the brokers, by a client with all of its security."""
    admin, refusals, _ = _client(settings, settings.visit_topic)

    def ask() -> None:
        from alerts.delivery.target import typed_errors

        with typed_errors(admin, refusals, f"brokers {settings.kafka_brokers}"):
            admin.list_topics(timeout=LIMIT_S)

    return ask


def ask_lag(settings: Settings) -> Callable[[], None]:
    """Return a question to the brokers that also measures how far behind the ingest is, by the offsets that they have of it."""
    from alerts.delivery.lag import committed_lag, member_of_none

    admin, refusals, target = _client(settings, settings.visit_topic)
    asking = member_of_none(target, settings.ingest_group, refusals)

    def ask() -> None:
        for number, (offset, lag) in committed_lag(admin, asking, target, refusals).items():
            BROKER_OFFSET.labels(settings.visit_topic, str(number)).set(offset)
            BROKER_LAG.labels(settings.visit_topic, str(number)).set(lag)

    return ask


def _client(settings: Settings, topic: str) -> tuple[Any, Any, Any]:
    from confluent_kafka.admin import AdminClient

    from alerts.delivery.target import KafkaTarget, Refusals

    target = KafkaTarget(settings.kafka_brokers, topic, tuple(settings.kafka_client.items()), timeout_s=LIMIT_S)
    refusals = Refusals()
    return AdminClient(target.settings(refusals)), refusals, target


def reach_broker(brokers: str, limit_s: float = 2.0) -> Callable[[], None]:
    """Return a question without a Kafka client: can a connection be made to one of the brokers?"""

    def ask() -> None:
        deadline, said = time.monotonic() + limit_s, "no host:port is named"
        for address in brokers.split(","):
            host, _, port = address.strip().rpartition(":")
            try:
                left = max(deadline - time.monotonic(), 0.1)
                with closing(socket.create_connection((host.strip("[]"), int(port)), left)):
                    return
            except (OSError, ValueError) as error:
                said = str(error)
        raise BrokerUnavailable(f"brokers {brokers}: {said}")

    return ask
