"""Avro and the Confluent wire format: byte 0, schema id (major * 100 + minor, big-endian int32), schemaless Avro."""

import io
import struct
from functools import lru_cache
from importlib.resources import as_file, files
from typing import Any

import fastavro

from alerts.errors import AlertError

__all__ = ["SCHEMA_ID", "SCHEMA_VERSION", "decode", "encode", "schema"]

SCHEMA_VERSION = (11, 1)
SCHEMA_ID = SCHEMA_VERSION[0] * 100 + SCHEMA_VERSION[1]
_HEADER = struct.Struct(">bi")


@lru_cache(maxsize=8)
def schema(schema_id: int = SCHEMA_ID) -> dict[str, Any]:
    """Return the parsed alert schema of an id (1101 = 11.1).

    Raises
    ------
    AlertError
        ``lsst-alert-packet`` has no such version.
    """
    major, minor = divmod(schema_id, 100)
    folder = files("lsst.alert.packet") / "schema" / str(major) / str(minor)
    try:
        with as_file(folder / f"lsst.v{major}_{minor}.alert.avsc") as path:
            return dict(fastavro.schema.load_schema(str(path)))
    except (OSError, fastavro.repository.base.SchemaRepositoryError) as error:
        raise AlertError(f"no alert schema {major}.{minor} (id {schema_id})") from error


def encode(packet: dict[str, Any]) -> bytes:
    """Return the wire form of one packet.

    Raises
    ------
    AlertError
        The packet does not fit the schema.
    """
    buffer = io.BytesIO()
    buffer.write(_HEADER.pack(0, SCHEMA_ID))
    try:
        fastavro.schemaless_writer(buffer, schema(), packet)
    except (ValueError, TypeError, KeyError) as error:
        raise AlertError(f"alert {packet.get('diaSourceId')} does not fit schema {SCHEMA_ID}: {error}") from error
    return buffer.getvalue()


def decode(data: bytes) -> dict[str, Any]:
    """Return the packet of a wire message, by the schema that its header names.

    Raises
    ------
    AlertError
        Not in wire format, or cut short.
    """
    if len(data) < _HEADER.size or data[0] != 0:
        raise AlertError("not in the Confluent wire format: the first byte must be 0")
    _, schema_id = _HEADER.unpack_from(data)
    try:
        packet = fastavro.schemaless_reader(io.BytesIO(data[_HEADER.size :]), schema(schema_id), None)
    except (EOFError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise AlertError(f"the message is cut short or broken: {error}") from error
    assert isinstance(packet, dict)
    return packet
