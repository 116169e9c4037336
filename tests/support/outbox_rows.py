"""Alerts that wait in the outbox for a relay."""

import time

from confluent_kafka import KafkaException

from alerts import Alert, AlertArchive, build_packets
from alerts.errors import BrokerUnavailable
from alerts.packets.wire import encode_body
from apdb.queue import outbox
from tests.support.alert_inputs import inputs

__all__ = ["PACKET", "alert_at", "fill", "patient"]

PACKET = next(build_packets(inputs()))


def alert_at(number, size=0):
    """An alert of one of seven objects; `size` more bytes in a cutout."""
    trigger = {**PACKET["diaSource"], "diaSourceId": number, "diaObjectId": 1 + number % 7}
    packet = {**PACKET, "diaSourceId": number, "diaSource": trigger}
    if size:
        packet["cutoutScience"] = bytes(size)
    return Alert(number, 1 + number % 7, encode_body(packet))


def fill(database, archive, visits, per_visit, **more):
    """Add visits with their alert files to the outbox."""
    with database.connect() as connection:
        for visit in visits:
            file = AlertArchive(archive).write(visit, 0, 1, (alert_at(visit * 1000 + k) for k in range(per_visit)))
            entry = outbox.OutboxEntry(
                visit, 0, 1, file.name, file.count, file.checksum, index=file.index, id_xor=file.id_xor(), **more
            )
            outbox.add(connection, entry)


def patient(relay):
    """Step until the broker is ready (its transaction coordinator may still be loading)."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return relay.step()
        except (BrokerUnavailable, KafkaException):
            assert time.monotonic() < deadline
