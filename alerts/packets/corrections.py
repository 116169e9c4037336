"""Corrections of alerts as messages: their Avro schema, wire format and archive files.

A correction is about the source of an alert that was published: key is its diaSourceId, so that all that is ever said of a
source is in order.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import IO, Any

import fastavro

from alerts.errors import AlertError
from alerts.packets.wire import frame, unframe

__all__ = [
    "CORRECTION_ID",
    "CORRECTION_SUBJECT",
    "KINDS",
    "Correction",
    "correction_document",
    "correction_topic",
    "decode_correction",
    "encode_correction",
    "write_corrections",
]

CORRECTION_ID = 90_100  # version 1.0; the ids of alert schemas are far below
CORRECTION_SUBJECT = "alert-corrections"
KINDS = ("retracted", "replaced", "reassigned", "released")
_OBJECT = ["null", "long"]
_SCHEMA: dict[str, Any] = {
    "type": "record", "name": "correction", "namespace": "alertprod.v1_0",
    "doc": "What happened to the source of an alert after the alert was published.",
    "fields": [
        {"name": "diaSourceId", "type": "long", "doc": "trigger of the alert"},
        {"name": "oldDiaObjectId", "type": _OBJECT, "default": None, "doc": "object that it belonged to; null: a solar-system body"},
        {"name": "newDiaObjectId", "type": _OBJECT, "default": None,
         "doc": "reassigned: object that it belongs to now; replaced: object of the source in its place; null: none"},
        {"name": "visit", "type": "long", "doc": "of the source"},
        {"name": "detector", "type": "int", "doc": "of the source"},
        {"name": "kind", "type": {"type": "enum", "name": "kind", "symbols": list(KINDS)},
         "doc": "retracted, replaced: the source is withdrawn; reassigned: it has another object; released: it came late"},
        {"name": "reason", "type": "string", "doc": "why, for people"},
        {"name": "mjdTai", "type": "double", "doc": "when it was decided, MJD (TAI)"},
    ],
}  # fmt: skip
_PARSED = fastavro.parse_schema(_SCHEMA)


@dataclass(frozen=True)
class Correction:
    """One correction; see the fields of the schema."""

    diaSourceId: int
    oldDiaObjectId: int | None
    newDiaObjectId: int | None
    visit: int
    detector: int
    kind: str
    reason: str
    mjdTai: float

    @property
    def withdraws(self) -> bool:
        """Whether the source of the alert is no longer one."""
        return self.kind in ("retracted", "replaced")


def correction_topic(alert_topic: str) -> str:
    """Return the topic of the corrections of an alert topic."""
    return f"{alert_topic}.corrections"


def correction_document() -> str:
    """Return the schema as the JSON document that schema registries keep."""
    return json.dumps(_SCHEMA, separators=(",", ":"))


def encode_correction(correction: Any, wire_id: int = CORRECTION_ID) -> bytes:
    """Return the wire message of a correction (an object with its fields)."""
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, _PARSED, asdict(correction))
    return frame(buffer.getvalue(), wire_id)


def decode_correction(data: bytes) -> Correction:
    """Return the correction of a wire message of a topic of corrections.

    Raises
    ------
    AlertError
        It is cut short, or is none.
    """
    try:
        found = fastavro.schemaless_reader(io.BytesIO(unframe(data)), _PARSED, None)
    except (EOFError, ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise AlertError(f"the correction is cut short or broken: {error}") from error
    if not isinstance(found, dict):
        raise AlertError("the message is no correction")
    return Correction(**found)


def write_corrections(out: IO[bytes], corrections: Iterable[Any], name: str) -> None:
    """Write a container file that any Avro library reads; the same corrections under the same name give the same bytes."""
    sync = hashlib.md5(name.encode(), usedforsecurity=False).digest()
    fastavro.writer(out, _PARSED, [asdict(c) for c in corrections], codec="deflate", sync_marker=sync)
