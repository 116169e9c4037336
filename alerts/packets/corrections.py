"""Writing corrections of alerts: messages, archive files, the document of their schema; `alertprod_client.corrections` reads them."""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import IO

import fastavro

from alertprod_client.corrections import CORRECTION_SCHEMA, Correction, correction_topic, decode_correction
from alerts.packets.wire import frame

__all__ = [
    "CORRECTION_ID",
    "CORRECTION_SUBJECT",
    "Correction",
    "correction_document",
    "correction_topic",
    "decode_correction",
    "encode_correction",
    "write_corrections",
]

CORRECTION_ID = 90_100  # version 1.0; the ids of alert schemas are far below
CORRECTION_SUBJECT = "alert-corrections"
_PARSED = fastavro.parse_schema(CORRECTION_SCHEMA)


def correction_document() -> str:
    """Return the schema as the JSON document that schema registries keep."""
    return json.dumps(CORRECTION_SCHEMA, separators=(",", ":"))


def encode_correction(correction: Correction, wire_id: int = CORRECTION_ID) -> bytes:
    """Return the wire message of a correction."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, _PARSED, asdict(correction))
    return frame(buffer.getvalue(), wire_id)


def write_corrections(out: IO[bytes], corrections: Iterable[Correction], name: str) -> None:
    """Write a container file that any Avro library reads; the same corrections under the same name give the same bytes."""
    sync = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    fastavro.writer(out, _PARSED, [asdict(c) for c in corrections], codec="deflate", sync_marker=sync)
