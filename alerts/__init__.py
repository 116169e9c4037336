"""Alert packets: contents, cutouts, Avro, Confluent wire format, archive, Kafka publication, consumers.

Imports: ``exposure``, ``apdb``, ``tasks``. Building is pure; archive, publication and consumers are adapters.
"""

from alerts.archive import AlertArchive, AlertFile
from alerts.packets import Alert, AlertInputs, build_alerts, build_packets
from alerts.schemas import SCHEMA_ID, schema, schema_document, schema_ids
from alerts.wire import decode, encode

__all__ = [
    "SCHEMA_ID",
    "Alert",
    "AlertArchive",
    "AlertFile",
    "AlertInputs",
    "build_alerts",
    "build_packets",
    "decode",
    "encode",
    "schema",
    "schema_document",
    "schema_ids",
]
