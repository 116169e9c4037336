"""Corrections of alerts as messages, and what follows from them for the alerts that were read.

A correction is about the source of an alert that was published: key is its diaSourceId, so that all that is ever said of a
source is in order.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import fastavro

from alertprod_client.errors import AlertError
from alertprod_client.wire import unframe

__all__ = [
    "CORRECTION_SCHEMA",
    "Correction",
    "CorrectionKind",
    "CurrentSources",
    "KnownCorrections",
    "correction_topic",
    "decode_correction",
]


class CorrectionKind(StrEnum):
    """What happened to the source of an alert.

    Retracted: it is withdrawn. Replaced: it is withdrawn, and its visit, processed anew, has a source there. Reassigned: it
    belongs to another object. Released: its alert was held at first and came late.
    """

    RETRACTED = "retracted"
    REPLACED = "replaced"
    REASSIGNED = "reassigned"
    RELEASED = "released"


_OBJECT = ["null", "long"]
CORRECTION_SCHEMA: dict[str, Any] = {
    "type": "record", "name": "correction", "namespace": "alertprod.v1_0",
    "doc": "What happened to the source of an alert after the alert was published.",
    "fields": [
        {"name": "diaSourceId", "type": "long", "doc": "trigger of the alert"},
        {"name": "oldDiaObjectId", "type": _OBJECT, "default": None, "doc": "object that it belonged to; null: a solar-system body"},
        {"name": "newDiaObjectId", "type": _OBJECT, "default": None,
         "doc": "reassigned: object that it belongs to now; replaced: object of the source in its place; null: none"},
        {"name": "visit", "type": "long", "doc": "of the source"},
        {"name": "detector", "type": "int", "doc": "of the source"},
        {"name": "kind", "type": {"type": "enum", "name": "kind", "symbols": [str(k) for k in CorrectionKind]},
         "doc": "retracted, replaced: the source is withdrawn; reassigned: it has another object; released: it came late"},
        {"name": "reason", "type": "string", "doc": "why, for people"},
        {"name": "mjdTai", "type": "double", "doc": "when it was decided, MJD (TAI)"},
    ],
}  # fmt: skip
_PARSED = fastavro.parse_schema(CORRECTION_SCHEMA)


@dataclass(frozen=True)
class Correction:
    """One correction; an object of None is none (a solar-system body, nothing in its place)."""

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
        return self.kind in (CorrectionKind.RETRACTED, CorrectionKind.REPLACED)


def correction_topic(alert_topic: str) -> str:
    """Return the topic of the corrections of an alert topic."""
    return f"{alert_topic}.corrections"


def decode_correction(data: bytes) -> Correction:
    """Return the correction of a wire message of a topic of corrections.

    Raises
    ------
    AlertError
        It is cut short, or is none.
    """
    try:
        fields = fastavro.schemaless_reader(io.BytesIO(unframe(data)), _PARSED, None)
    except AlertError:
        raise
    except (EOFError, ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise AlertError(f"the correction is cut short or broken: {error}") from error
    if not isinstance(fields, dict):
        raise AlertError("the message is no correction")
    return Correction(**fields)


class KnownCorrections:
    """What is known of sources beyond their alerts; what is said of one source must come in its order."""

    def __init__(self) -> None:
        self._moved: dict[int | None, int | None] = {}
        self._withdrawn: set[int] = set()
        self._images: dict[tuple[int, int], float] = {}
        self._ends: dict[tuple[str, int], int] = {}

    def correct(self, correction: Correction) -> None:
        """Take a correction in; the same one again changes nothing."""
        if correction.withdraws:
            self._withdrawn.add(correction.diaSourceId)
            image = correction.visit, correction.detector
            self._images[image] = max(correction.mjdTai, self._images.get(image, correction.mjdTai))
        elif correction.kind == CorrectionKind.REASSIGNED:
            self._moved[correction.diaSourceId] = correction.newDiaObjectId

    def note_read(self, topic: str, partition: int, offset: int) -> None:
        """Keep up to where a partition of corrections has been read: those before `offset` are known."""
        self._ends[topic, partition] = offset

    def has_read(self, topic: str, partition: int, offset: int) -> bool:
        """Whether the correction at an offset is among those that are known: it must not come after later ones."""
        return offset < self._ends.get((topic, partition), 0)

    def is_withdrawn(self, source: int | None) -> bool:
        """Whether a source is no longer one."""
        return source in self._withdrawn

    def is_replaced(self, visit: int, detector: int, processed: float | None) -> bool:
        """Whether what was measured on an image is no longer valid: it was taken back, or processed anew, since.

        `processed` is when it was measured, MJD (TAI); None: it is not known, and what was taken back is taken to be it.
        Sources are taken back with all of their image.
        """
        since = self._images.get((visit, detector))
        return since is not None and (processed is None or processed < since)

    def owner(self, source: int | None, alerted: int | None) -> int | None:
        """Return the object of a source now, `alerted` by its alert; None: a solar-system body."""
        return self._moved.get(source, alerted)


class CurrentSources(KnownCorrections):
    """Which source belongs to which object now, by the alerts and corrections that were read, in whatever order they came.

    ::

        current = CurrentSources()
        with AlertConsumer("broker:9092", "alerts", "my-group").correcting(current.correct) as consumer:
            for alert in consumer:
                current.add(alert.packet)
        current.objects()  # diaObjectId -> its diaSourceIds

    An alert and its correction are in two topics, either may be read first; what is said of one source is in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alerted: dict[int, int | None] = {}

    def add(self, packet: Mapping[str, Any]) -> None:
        """Take an alert in; the same one again changes nothing."""
        owner = packet["diaSource"]["diaObjectId"]
        self._alerted[int(packet["diaSourceId"])] = int(owner) if owner else None

    def sources(self) -> dict[int, int | None]:
        """Return the object of each source that is valid; None: a solar-system body."""
        return {s: self.owner(s, o) for s, o in self._alerted.items() if not self.is_withdrawn(s)}

    def objects(self) -> dict[int, set[int]]:
        """Return the valid sources of each object that has any."""
        out: dict[int, set[int]] = {}
        for source, owner in self.sources().items():
            if owner is not None:
                out.setdefault(owner, set()).add(source)
        return out
