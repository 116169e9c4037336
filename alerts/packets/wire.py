"""The Confluent wire format: byte 0, schema id (big-endian int32), schemaless Avro."""

import io
import struct
from dataclasses import dataclass
from typing import Any

import fastavro

from alerts.errors import AlertError
from alerts.packets.schemas import SCHEMA_ID, schema
from tasks.reprs import short_repr

__all__ = ["Alert", "decode", "decode_body", "encode", "encode_body", "frame", "frame_alert", "unframe", "varint"]

_HEADER = struct.Struct(">bi")


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
    return _HEADER.pack(0, schema_id) + body


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


def decode_body(body: bytes, schema_id: int = SCHEMA_ID, reader: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the packet of Avro bytes that were written with a schema; `reader` may be a schema with fewer fields.

    Raises
    ------
    AlertError
        They are cut short, or were written with another schema.
    """
    try:
        packet: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(body), schema(schema_id), reader)
    except (EOFError, ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise AlertError(f"the message is cut short or broken: {error}") from error
    return packet


def decode(data: bytes, writer_id: int | None = None) -> dict[str, Any]:
    """Return the packet of a wire message, by the schema that its header names.

    Parameters
    ----------
    data
        The value of a Kafka message.
    writer_id
        Schema to use instead, where a registry gave ids of its own.

    Raises
    ------
    AlertError
        Not in wire format, or cut short.
    """
    body = unframe(data)
    _, schema_id = _HEADER.unpack_from(data)
    return decode_body(body, schema_id if writer_id is None else writer_id)


def unframe(data: bytes) -> bytes:
    """Return the Avro bytes of a wire message.

    Raises
    ------
    AlertError
        Not in wire format.
    """
    if len(data) < _HEADER.size or data[0] != 0:
        raise AlertError("not in the Confluent wire format: the first byte must be 0")
    return data[_HEADER.size :]


def varint(value: int) -> bytes:
    """Return the zigzag variable-length form of an int or long."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
