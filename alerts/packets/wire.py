"""Writing the Confluent wire format: byte 0, schema id (big-endian int32), schemaless Avro; `alertprod_client.wire` reads it."""

import io
from dataclasses import dataclass
from typing import Any

import fastavro

from alertprod_client.errors import AlertError
from alertprod_client.schemas import SCHEMA_ID, schema
from alertprod_client.wire import HEADER, decode, decode_body, unframe
from tasks.reprs import short_repr

__all__ = ["Alert", "decode", "decode_body", "encode", "encode_body", "frame", "frame_alert", "unframe", "varint"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One encoded packet: trigger, Kafka key (diaObjectId, or ssObjectId of a body), schemaless Avro and its schema."""

    diaSourceId: int
    key: int
    body: bytes
    schema_id: int = SCHEMA_ID

    __repr__ = short_repr


def frame(body: bytes, schema_id: int = SCHEMA_ID) -> bytes:
    """Return the wire message of an encoded packet."""
    return HEADER.pack(0, schema_id) + body


def frame_alert(alert: Alert, wire_id: int, body: bytes | None = None) -> bytes:
    """Return the wire message of an alert, or of its trimmed `body`.

    `wire_id` stands for the newest schema; an alert from before an update of the service names the schema of its time.
    """
    number = wire_id if alert.schema_id == SCHEMA_ID else alert.schema_id
    return frame(alert.body if body is None else body, number)


def encode_body(packet: dict[str, Any], schema_id: int = SCHEMA_ID) -> bytes:
    """Return the Avro bytes of a packet, without header.

    Raises
    ------
    AlertError
        The packet does not fit the schema.
    """
    buffer = io.BytesIO()
    try:
        fastavro.schemaless_writer(buffer, schema(schema_id), packet)
    except (ValueError, TypeError, KeyError) as error:
        raise AlertError(f"alert {packet.get('diaSourceId')} does not fit schema {schema_id}: {error}") from error
    return buffer.getvalue()


def encode(packet: dict[str, Any], schema_id: int = SCHEMA_ID) -> bytes:
    """Return the wire message of a packet.

    Raises
    ------
    AlertError
        The packet does not fit the schema.
    """
    return frame(encode_body(packet, schema_id), schema_id)


def varint(value: int) -> bytes:
    """Return the zigzag variable-length form of an int or long."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
