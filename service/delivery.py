"""The roles that publish: relay (with registration of the schema and the sweep of orphaned files) and reconciler."""

import logging
import threading
import time
from collections.abc import Callable

from alertprod_client.filters import AlertFilter
from alerts.archive.store import AlertArchive, file_name
from alerts.delivery.reconcile import CorrectionReconciler, Reconciler
from alerts.delivery.registry import SchemaRegistry, learn_wire_id
from alerts.delivery.relay import Published, Relay
from alerts.delivery.target import KafkaTarget, ensure_topics
from alerts.errors import BrokerUnavailable
from alerts.packets.corrections import CORRECTION_ID, correction_document
from alerts.packets.schemas import SCHEMA_ID
from apdb import Database
from apdb.queue import outbox
from service.crash import crash_at
from service.observe.log import about
from service.observe.measures import count_foreign, count_published
from service.observe.spans import record_span
from service.observe.traces import trace_id
from service.settings import Settings
from tasks.errors import TransientError

__all__ = ["alert_target", "correction_id", "run_reconciler", "run_relay", "sweep_orphans", "wire_id"]

log = logging.getLogger("alertprod.relay")

SWEEP_EVERY_S, SWEEP_OLDER_S, SWEEP_WITHIN_S = 3600.0, 3600.0, 3 * 86_400.0
_RETRY_S = 2.0


def alert_target(settings: Settings, *, quiet: bool = False) -> KafkaTarget:
    """Return where alerts go by the settings; `quiet` keeps librdkafka from writing on standard error.

    Raises
    ------
    SettingsError
        No brokers are named.
    """
    settings.need("kafka_brokers")
    return KafkaTarget(
        settings.kafka_brokers,
        settings.alert_topic,
        (*settings.kafka_client.items(), *([("log_level", "0")] if quiet else [])),
        settings.transactional_id,
        fan_out=tuple(sorted(settings.alert_fan_out.items())),
    )


def run_relay(settings: Settings, stop: threading.Event) -> None:
    """Publish until `stop` is set.

    Raises
    ------
    SchemaRefused, FilterError
        At the start, before anything is published.
    """
    database, target = Database(settings.database()), alert_target(settings)
    archive = AlertArchive(settings.archive_dir)
    for _, text in target.fan_out:
        AlertFilter(text)
    relay: Relay | None = None
    swept, has_topics = float("-inf"), False

    def work() -> float:
        nonlocal relay, swept, has_topics
        if not has_topics:
            ensure_topics(target, settings.alert_partitions, settings.topic_replication)
            has_topics = True
        if relay is None:
            relay = Relay(
                database,
                archive,
                target,
                wire_id(settings, database),
                lambda name: crash_at(name, settings.crash_point),
                correction_id(settings, database),
                _tell_published,
            )
        try:
            sent = relay.step()
        except BrokerUnavailable:  # a topic that was deleted meanwhile is told as a send that takes too long
            has_topics = False
            raise
        if relay.leads and time.monotonic() > swept + SWEEP_EVERY_S:
            swept = time.monotonic()
            sweep_orphans(database, archive)
        return 0.0 if sent else settings.poll_s

    _repeat(work, stop)
    if relay is not None:
        relay.close()


def _tell_published(published: Published) -> None:
    row, count = published.row, published.row.count
    count_published(published.by_topic, published.since_shutter_s)
    facts = {"trace_id": trace_id(row.traceparent), "alerts": count, "seconds": published.since_shutter_s}
    with about(visit=row.visit, detector=row.detector, attempt=row.attempt):
        record_span("publish", row.traceparent, 0.0, {"visit": row.visit, "detector": row.detector, "alerts": count})
        log.info("visit %d, detector %d: %d alerts are in the topic", row.visit, row.detector, count, extra=facts)


def run_reconciler(settings: Settings, stop: threading.Event) -> None:
    """Count what the topics of alerts and of corrections hold until `stop` is set."""
    database, target = Database(settings.database()), alert_target(settings)
    reconcilers = (Reconciler(database, target, count_foreign), CorrectionReconciler(database, target, count_foreign))

    def work() -> float:
        for reconciler in reconcilers:
            reconciler.step(settings.poll_s / 2)
        return 0.0

    _repeat(work, stop)
    for reconciler in reconcilers:
        reconciler.close()


def _repeat(work: Callable[[], float], stop: threading.Event) -> None:
    """Call `work` again after as many seconds as it says; what may pass is logged and tried again."""
    while not stop.is_set():
        try:
            stop.wait(work())
        except TransientError as error:
            log.warning("%s: %s", error.code, error)
            stop.wait(_RETRY_S)


def wire_id(settings: Settings, database: Database) -> int:
    """Return the schema id of the wire header: the registry's where there is one, else Rubin's.

    Raises
    ------
    RegistryUnavailable, SchemaRefused
        As `alerts.delivery.registry.learn_wire_id`.
    """
    return _learnt(settings, database, settings.schema_subject, SCHEMA_ID)


def correction_id(settings: Settings, database: Database) -> int:
    """Return the schema id of the wire header of corrections, as `wire_id`.

    Raises
    ------
    RegistryUnavailable, SchemaRefused
        As `alerts.delivery.registry.learn_wire_id`.
    """
    subject = f"{settings.schema_subject}-corrections"
    return _learnt(settings, database, subject, CORRECTION_ID, correction_document())


def _learnt(settings: Settings, database: Database, subject: str, own: int, document: str | None = None) -> int:
    """Return the id that the registry has for a subject, with the document where it is not the alerts'; `own` without one."""
    url = settings.schema_registry.get_secret_value()
    if not url:
        return own
    with database.session() as connection:
        return learn_wire_id(connection, SchemaRegistry(url), subject, own, document)


def sweep_orphans(
    database: Database, archive: AlertArchive, older_than_s: float = SWEEP_OLDER_S, within_s: float = SWEEP_WITHIN_S
) -> int:
    """Delete alert files of attempts that died before their commit; returns how many."""
    with database.session() as connection:
        attempts = outbox.orphans(connection, older_than_s, within_s)
    names = [file_name(*attempt) for attempt in attempts]
    count = sum(archive.delete(name) + archive.delete(f"{name}.part") for name in names)
    if count:
        log.info("%d orphaned alert files deleted", count)
    return count
