"""The archive of alert files: one Avro container per attempt at a visit, in a directory or any fsspec store."""

import errno
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fastavro
import fsspec
import numpy as np
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from alerts.archive.container import INDEX, block_body, write_container
from alerts.errors import AlertError, ArchiveFull, ArchiveUnavailable
from alerts.packets.corrections import write_corrections
from alerts.packets.schemas import SCHEMA_ID
from alerts.packets.wire import Alert, encode_body

__all__ = ["AlertArchive", "AlertFile"]

_READ_AHEAD = 4 << 20


@dataclass(frozen=True)
class AlertFile:
    """A written file: name relative to the archive, number of alerts, SHA-256 of the index, and where each alert lies.

    `index` holds the bytes of `alerts.archive.container.INDEX` rows, with a CRC-32 of each alert; empty for files of other writers.
    """

    name: str
    count: int
    checksum: str
    index: bytes = b""

    def rows(self) -> NDArray[np.void]:
        """Return the index as an array of type `INDEX`, shape (alerts,)."""
        return np.frombuffer(self.index, INDEX)

    def id_xor(self) -> int:
        """Return the exclusive or of the diaSourceIds."""
        return int(np.bitwise_xor.reduce(self.rows()["diaSourceId"])) if self.index else 0


class AlertArchive:
    """A place for alert files that workers, relay and readers share.

    Parameters
    ----------
    url
        Directory, or URL of an fsspec store (``s3://bucket/alerts``, ``memory://alerts``).
    codec
        How alerts are compressed: ``zstandard``, ``deflate`` or ``null``.
    """

    def __init__(self, url: str | Path, codec: str = "zstandard") -> None:
        self._fs, self._root = fsspec.core.url_to_fs(str(url))
        self._local = isinstance(self._fs, LocalFileSystem)
        self._codec = codec

    def path(self, name: str) -> str:
        """Return where a file lies in the store.

        Raises
        ------
        AlertError
            The name leads out of the archive.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise AlertError(f"alert file {name!r} is no name within the archive")
        return f"{self._root.rstrip('/')}/{name}"

    def write(self, visit: int, detector: int, attempt: int, alerts: Iterable[Alert]) -> AlertFile:
        """Write the alerts of one attempt at a visit; when this returns they are on the disk (or in the store).

        Raises
        ------
        ArchiveUnavailable, ArchiveFull
            The store refuses; nothing is left there.
        """
        name = file_name(visit, detector, attempt)
        with _storage(f"alert file {name} cannot be written"), self._create(self.path(name)) as out:
            rows, checksum = write_container(out, alerts, name, self._codec)
        return AlertFile(name, len(rows), checksum, rows.tobytes())

    def write_corrections(self, batch: int, corrections: Sequence[Any]) -> str:
        """Write a batch of corrections (objects with the fields of a correction) and return the name of its file.

        Raises
        ------
        ArchiveUnavailable, ArchiveFull
            The store refuses; nothing is left there.
        """
        name = f"corrections/{batch // 1000}/{batch}.avro"
        with _storage(f"corrections {name} cannot be written"), self._create(self.path(name)) as out:
            write_corrections(out, corrections, name)
        return name

    def _create(self, path: str) -> "_DurableFile | _StoreFile":
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        return _DurableFile(path) if self._local else _StoreFile(self._fs, path)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading.

        Raises
        ------
        AlertError
            It is not there.
        ArchiveUnavailable
            The store does not answer, or refuses.
        """
        with _storage(f"alert file {name} cannot be read"):
            try:
                out: IO[bytes] = self._fs.open(self.path(name), "rb", block_size=_READ_AHEAD)
            except FileNotFoundError as error:
                raise AlertError(f"alert file {name} cannot be read: {error.strerror or error}") from error
        return out

    def stream(self, file: AlertFile, start: int = 0, stop: int | None = None) -> Iterator[Alert]:
        """Yield alerts start..stop-1 of a file; each was found to be what was written.

        Raises
        ------
        AlertError
            The file is missing, or holds something else.
        ArchiveUnavailable
            The store does not answer, or refuses.
        """
        with _storage(f"alert file {file.name} cannot be read"), self.open(file.name) as data:
            if not file.index:
                yield from _foreign(data, file, start, stop)
                return
            if hashlib.sha256(file.index).hexdigest() != file.checksum:
                raise AlertError(f"the index of alert file {file.name} differs from what was written")
            codec, schema_id = _head_of(data, file.name)
            for source, key, offset, size, crc in file.rows()[start:stop].tolist():
                data.seek(offset)
                block = data.read(size)
                if zlib.crc32(block) != crc:
                    raise AlertError(f"alert file {file.name} differs from what was written at alert {source}")
                yield Alert(source, key, block_body(block, codec), schema_id)

    def delete(self, name: str) -> bool:
        """Delete a file; returns whether there was one."""
        try:
            self._fs.rm_file(self.path(name))
        except FileNotFoundError:
            return False
        return True


@contextmanager
def _storage(what: str) -> Iterator[None]:
    """Say what the storage refuses as an error that may pass: the file itself need not be wrong."""
    try:
        yield
    except OSError as error:
        kind = ArchiveFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else ArchiveUnavailable
        raise kind(f"{what}: {error.strerror or error}") from error


def file_name(visit: int, detector: int, attempt: int) -> str:
    """Return the name of the alert file of an attempt."""
    return f"{visit // 1000}/{visit}_{detector}_{attempt}.avro"


def _head_of(data: IO[bytes], name: str) -> tuple[str, int]:
    """Return codec and schema id of a file."""
    try:
        reader = fastavro.reader(data)
        return str(reader.codec), int(reader.metadata.get("alertprod.schema_id", SCHEMA_ID))
    except (ValueError, EOFError, KeyError) as error:
        raise AlertError(f"alert file {name} is no Avro container: {error}") from error


def _foreign(data: IO[bytes], file: AlertFile, start: int, stop: int | None) -> Iterator[Alert]:
    """Yield the alerts of a file that has no index."""
    try:
        reader = fastavro.reader(data)
        schema_id = int(reader.metadata.get("alertprod.schema_id", SCHEMA_ID))
        for k, packet in enumerate(reader):
            if stop is not None and k >= stop:
                return
            if k >= start:
                if not isinstance(packet, dict):
                    raise AlertError(f"alert file {file.name} is no Avro container of alerts: it holds no records")
                trigger = packet["diaSource"]
                key = trigger["diaObjectId"] or trigger["ssObjectId"] or packet["diaSourceId"]
                yield Alert(packet["diaSourceId"], key, encode_body(packet, schema_id), schema_id)
    except (ValueError, EOFError, KeyError) as error:
        raise AlertError(f"alert file {file.name} is no Avro container of alerts: {error}") from error


class _DurableFile:
    """A local file that appears under its name only when it is complete and on the disk."""

    def __init__(self, path: str) -> None:
        self._path, self._partial = Path(path), Path(f"{path}.part")

    def __enter__(self) -> IO[bytes]:
        self._out = self._partial.open("wb", buffering=1 << 20)
        return self._out

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            with self._out:
                if kind is None:
                    self._out.flush()
                    os.fsync(self._out.fileno())
            if kind is None:
                os.replace(self._partial, self._path)
        finally:
            self._partial.unlink(missing_ok=True)
        if kind is not None:
            return
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


class _StoreFile:
    """A file of a remote store: sent when it is complete, so that a failed attempt leaves nothing there."""

    def __init__(self, fs: AbstractFileSystem, path: str) -> None:
        self._fs, self._path = fs, path

    def __enter__(self) -> IO[bytes]:
        self._local = tempfile.NamedTemporaryFile(suffix=".avro")
        return self._local.file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._local:
            if kind is None:
                self._local.flush()
                self._fs.put_file(self._local.name, self._path)
