"""Alert packets: contents, cutouts, Avro, Confluent wire format, archive, Kafka publication, consumers.

Imports: ``exposure``, ``apdb``, ``tasks``. Building is pure; archive, publication and consumers are adapters. Reading
alerts (`alertprod_client`) loads neither images nor tasks.
"""

from typing import TYPE_CHECKING, Any

from alerts.archive.store import AlertArchive, AlertFile
from alerts.packets.schemas import SCHEMA_ID, schema, schema_document, schema_ids
from alerts.packets.wire import Alert, decode, encode

if TYPE_CHECKING:
    from alerts.packets.build import AlertInputs, build_alerts, build_packets

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


def __getattr__(name: str) -> Any:
    if name in ("AlertInputs", "build_alerts", "build_packets"):
        from alerts.packets import build

        return getattr(build, name)
    raise AttributeError(f"module 'alerts' has no attribute {name!r}")
