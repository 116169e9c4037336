"""The alert file of a visit: one Avro object container, written and flushed before the commit."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro

from alerts.errors import AlertError
from alerts.wire import SCHEMA_ID, schema

__all__ = ["AlertFile", "read_alerts", "sweep_orphans", "write_alerts"]


@dataclass(frozen=True)
class AlertFile:
    """A written file: name relative to the archive, number of alerts, SHA-256."""

    name: str
    count: int
    checksum: str


def write_alerts(root: Path, visit: int, detector: int, attempt: int, packets: Iterator[dict[str, Any]]) -> AlertFile:
    """Write the alerts of one attempt at a visit and flush them to the disk."""
    name = f"{visit // 1000}/{visit}_{detector}_{attempt}.avro"
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    counted = _Counter(packets)
    with partial.open("wb") as handle:
        metadata = {"alertprod.schema_id": str(SCHEMA_ID)}
        fastavro.writer(handle, schema(), counted, codec="deflate", metadata=metadata, codec_compression_level=1)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(partial, path)
    return AlertFile(name, counted.count, hashlib.sha256(path.read_bytes()).hexdigest())


class _Counter:
    def __init__(self, packets: Iterator[dict[str, Any]]) -> None:
        self._packets, self.count = packets, 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for packet in self._packets:
            self.count += 1
            yield packet


def read_alerts(root: Path, file: AlertFile) -> Iterator[dict[str, Any]]:
    """Yield the packets of a file after its checksum was found right.

    Raises
    ------
    AlertError
        The file is missing, or is not what was written.
    """
    path = root / file.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AlertError(f"alert file {file.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != file.checksum:
        raise AlertError(f"alert file {file.name} differs from what was written: checksum mismatch")
    import io

    for record in fastavro.reader(io.BytesIO(data)):
        assert isinstance(record, dict)
        yield record


def sweep_orphans(root: Path, known: set[str], older_than_s: float = 3600.0) -> int:
    """Delete files that no outbox row names (attempts that died before their commit); returns how many."""
    import time

    count, limit = 0, time.time() - older_than_s
    for path in root.glob("*/*"):
        if path.suffix in (".avro", ".part") and path.relative_to(root).as_posix() not in known:
            if path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
                count += 1
    return count
