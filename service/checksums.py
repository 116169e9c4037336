"""Checksums of files: what names exactly the bytes that something was made of."""

import hashlib
from pathlib import Path

__all__ = ["checksum"]


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file; empty where it cannot be read (whoever reads it says so)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
