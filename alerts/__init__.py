"""Alert packets: contents, cutouts, Avro, Confluent wire format, the archive file, Kafka publication.

Imports: ``exposure``, ``apdb``, ``tasks``. Building is pure; publication is an adapter.
"""

from alerts.packets import build_packets
from alerts.wire import SCHEMA_ID, decode, encode, schema

__all__ = ["SCHEMA_ID", "build_packets", "decode", "encode", "schema"]
