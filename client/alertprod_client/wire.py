"""Messages of the alert topic: byte 0, schema id (big-endian int32), schemaless Avro."""

import io
import struct
from typing import Any

import fastavro

from alertprod_client.errors import AlertError
from alertprod_client.schemas import SCHEMA_ID, schema

__all__ = ["HEADER", "decode", "decode_body", "unframe", "wire_id"]

HEADER = struct.Struct(">bi")


def unframe(data: bytes) -> bytes:
    """Return the Avro bytes of a wire message.

    Raises
    ------
    AlertError
        Not in wire format.
    """
    if len(data) < HEADER.size or data[0] != 0:
        raise AlertError("not in the Confluent wire format: the first byte must be 0")
    return data[HEADER.size :]


def wire_id(data: bytes) -> int:
    """Return the schema id that the header of a wire message names.

    Raises
    ------
    AlertError
        Not in wire format.
    """
    unframe(data)
    return int(HEADER.unpack_from(data)[1])


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
        if isinstance(error, AlertError):  # which is a ValueError: the schema is not known
            raise
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
        Not in wire format, cut short, or of a schema that is not known.
    """
    number = wire_id(data)
    return decode_body(unframe(data), number if writer_id is None else writer_id)
