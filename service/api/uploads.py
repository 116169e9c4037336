"""Images that come over HTTP: kept under a name of ours, and taken away when no visit needs them."""

import asyncio
import hashlib
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psycopg
from starlette.concurrency import run_in_threadpool

from apdb import Database
from apdb.errors import Busy
from apdb.queue.uploads import needed_files
from service.access.retention import forget_old
from service.errors import BadMessage
from service.settings import Settings
from tasks.errors import AlertProdError

__all__ = ["UploadSlots", "keep_upload", "sweep_for_ever", "sweep_uploads"]

_CHUNK = 1 << 20
# what files begin with that the readers of images take: FITS, and the ways in which it is compressed
_BEGINNINGS = (b"SIMPLE", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x1f\x9d", b"PK\x03\x04")
_OURS = re.compile(r"[0-9a-f]{64}\.fits|\.[0-9a-f]{32}\.part")
YOUNG_S = 3600.0  # a file that came just now may be named by a message that is still on its way
EVERY_S = 3600.0
_log = logging.getLogger("alertprod.api")


class UploadSlots:
    """How many uploads come in at a time: each may fill the disk by the largest size while it does."""

    def __init__(self, slots: int) -> None:
        self._slots, self._free = slots, threading.BoundedSemaphore(slots)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a slot.

        Raises
        ------
        Busy
            None is free.
        """
        if not self._free.acquire(blocking=False):
            raise Busy(
                f"{self._slots} uploads are coming in already: try again, or name a file that the service can read"
            )
        try:
            yield
        finally:
            self._free.release()


def keep_upload(upload: IO[bytes], settings: Settings) -> str:
    """Store an upload under a name of ours (its bytes decide the name, so that the same image is the same message).

    Raises
    ------
    BadMessage
        It is too large, or of no kind that an image can be; the name that the client gave is never looked at.
    """
    digest, size, limit = hashlib.sha256(), 0, settings.max_upload_mb << 20
    partial = settings.upload_dir / f".{uuid.uuid4().hex}.part"
    try:
        with partial.open("xb") as out:
            while chunk := upload.read(_CHUNK):
                if size == 0 and not chunk.startswith(_BEGINNINGS):
                    raise BadMessage(f"the part 'science' is no FITS file: it begins with {chunk[:8]!r}")
                size += len(chunk)
                if size > limit:
                    raise BadMessage(f"the upload is larger than {limit} bytes")
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())  # the visit that names it is accepted: it must outlive the machine's end, too
        if size == 0:
            raise BadMessage("the part 'science' is empty")
        target = settings.upload_dir.resolve() / f"{digest.hexdigest()}.fits"
        os.replace(partial, target)
        return str(target)
    finally:
        partial.unlink(missing_ok=True)


def sweep_uploads(settings: Settings, database: Database, young_s: float = YOUNG_S) -> list[Path]:
    """Delete uploads that no visit needs, and what broken uploads left; returns what was deleted.

    Only files with names of ours are touched; those younger than `young_s` stay.

    Raises
    ------
    DatabaseUnavailable, psycopg.Error
    """
    folder, before = settings.upload_dir.resolve(), time.time() - young_s
    old = [p for p in folder.iterdir() if _OURS.fullmatch(p.name) and not p.is_symlink() and p.stat().st_mtime < before]
    if not old:
        return []
    with database.session() as connection:
        needed = needed_files(connection, [str(p) for p in old], settings.upload_keep_days)
    gone = [p for p in old if str(p) not in needed]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


async def sweep_for_ever(settings: Settings, database: Database, every_s: float = EVERY_S) -> None:
    """Sweep uploads now and then, and forget old rows, until it is cancelled; what fails is tried again the next time."""
    while True:
        try:
            gone = await run_in_threadpool(sweep_uploads, settings, database)
            if gone:
                _log.info("%d uploads that no visit needs were deleted", len(gone))
            await run_in_threadpool(forget_old, database, settings.audit_days)
        except (AlertProdError, psycopg.Error, OSError) as error:
            _log.warning("uploads and old rows could not be swept: %s", type(error).__name__)
        await asyncio.sleep(every_s)
