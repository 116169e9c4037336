"""Compressed files (gzip, bzip2, xz, LZW, ZIP) unpacked into memory; known by their first bytes, never by their names."""

import bz2
import gzip
import io
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, Any

from exposure.errors import FitsUnreadable
from exposure.io.promises import HeadersAhead

__all__ = ["unpacked"]

CHUNK = 1 << 20
DEPTH = 3  # a compressed file in a ZIP archive is read; nothing deeper than people make by accident
_BROKEN = (
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


def unpacked(handle: IO[bytes], name: str, most: int) -> IO[bytes]:
    """Return an open FITS file: the handle itself, or what a compressed file holds, in memory.

    Parameters
    ----------
    handle
        Open for reading, at its beginning.
    name
        Of the file, for messages.
    most
        Bytes that a compressed file may hold.

    Raises
    ------
    FitsUnreadable
        No FITS file, one whose headers promise what cannot be, a compressed file that is broken or cut short, or one that
        holds more than `most` bytes.
    """
    for _ in range(DEPTH):
        start = handle.read(8)
        handle.seek(0)
        if start.startswith(b"SIMPLE"):
            HeadersAhead(handle, name).follow(handle.seek(0, os.SEEK_END))
            handle.seek(0)
            return handle
        opened = next((opener for magic, opener in _OPENERS if start.startswith(magic)), None)
        if opened is None:
            raise FitsUnreadable(f"{name} cannot be read as FITS: {_found_instead(start)}")
        handle = _content(handle, opened, name, most)
    raise FitsUnreadable(f"{name} cannot be read as FITS: it is compressed more than {DEPTH} times")


def _found_instead(start: bytes) -> str:
    if not start:
        return "it is empty"
    return f"it begins with {start!r}, a FITS file with 'SIMPLE  ='"


def _content(
    handle: IO[bytes], opened: Callable[[IO[bytes], str], AbstractContextManager[Any]], name: str, most: int
) -> io.BytesIO:
    """Unpack into memory, chunk by chunk, so that what grows without end, or beyond what it says, is noticed early."""
    out = io.BytesIO()
    headers = HeadersAhead(out, name, most)
    try:
        with opened(handle, name) as source:
            while chunk := source.read(CHUNK):
                out.write(chunk)
                headers.follow(out.tell())
                if out.seek(0, os.SEEK_END) > most:
                    raise FitsUnreadable(f"{name} holds more than {most} bytes when it is unpacked: refused")
    except FitsUnreadable:
        raise
    except _BROKEN as error:
        raise FitsUnreadable(
            f"{name} is truncated or broken: its compressed content ends too early ({error or type(error).__name__})"
        ) from error
    out.seek(0)
    return out


def _gzip(handle: IO[bytes], name: str) -> AbstractContextManager[Any]:
    return gzip.GzipFile(fileobj=handle)


def _bzip2(handle: IO[bytes], name: str) -> AbstractContextManager[Any]:
    return bz2.BZ2File(handle)


def _xz(handle: IO[bytes], name: str) -> AbstractContextManager[Any]:
    return lzma.LZMAFile(handle)


def _lzw(handle: IO[bytes], name: str) -> AbstractContextManager[Any]:
    import uncompresspy  # rare

    opened: AbstractContextManager[Any] = uncompresspy.LZWFile(handle, warn_truncation=False)
    return opened  # what is missing is seen by the sizes in the headers


def _zip(handle: IO[bytes], name: str) -> AbstractContextManager[Any]:
    archive = zipfile.ZipFile(handle)
    files = [f for f in archive.infolist() if not f.is_dir() and not f.filename.startswith("__MACOSX/")]
    if len(files) != 1:
        names = ", ".join(f.filename for f in files[:20]) or "nothing"
        raise FitsUnreadable(f"{name} must hold one FITS file, it holds {names}: unpack it and name the file")
    return archive.open(files[0])


_OPENERS: tuple[tuple[bytes, Callable[[IO[bytes], str], AbstractContextManager[Any]]], ...] = (
    (b"\x1f\x8b", _gzip),
    (b"BZh", _bzip2),
    (b"\xfd7zXZ\x00", _xz),
    (b"\x1f\x9d", _lzw),
    (b"PK\x03\x04", _zip),
)
