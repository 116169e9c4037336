"""FITS header cards as text, fast: for folders of hundreds of small headers, where a full parser takes seconds.

Only plain cards are read (logical, integer, real, string); anything else makes `parse_cards` return None, and the
caller goes the slow way.
"""

import os
from os import PathLike
from pathlib import Path
from typing import Any

from exposure.header.cards import as_number

__all__ = ["format_cards", "parse_cards", "read_cards", "write_cards"]

BLOCK = 2880
_LARGEST = 64 * BLOCK


def parse_cards(raw: bytes) -> dict[str, Any] | None:
    """Return the values of the first header of a FITS file, by keyword; None where a card is not plain."""
    out: dict[str, Any] = {}
    for offset in range(0, len(raw) - 79, 80):
        card = raw[offset : offset + 80].decode("latin-1")
        key = card[:8].rstrip().upper()
        if key == "END":
            return out
        if key in out:  # of cards that come twice the first counts
            continue
        if card[8:10] != "= ":
            if key in ("CONTINUE", "HIERARCH"):
                return None
            continue
        text = card[10:].strip()
        if text.startswith("'"):
            end = text.find("'", 1)
            if end < 0 or text[end + 1 : end + 2] == "'":
                return None
            out[key] = text[1:end].rstrip()
            continue
        text = text.partition("/")[0].strip()
        if text in ("T", "F"):
            out[key] = text == "T"
        elif (number := _number(text)) is not None:
            out[key] = number
        else:
            return None
    return None


def _number(text: str) -> float | int | None:
    """Return what a plain card holds; Python's own way of reading where it is that of FITS too."""
    try:
        if "_" not in text:
            return int(text) if text.lstrip("+-").isdigit() else as_number(float(text))
    except ValueError:
        pass
    return as_number(text)


def read_cards(path: "str | PathLike[str]") -> dict[str, Any] | None:
    """Return the plain cards of a file's first header; None where it has none or they are not plain."""
    try:
        with Path(path).open("rb") as handle:
            raw = handle.read(_LARGEST)
    except OSError:
        return None
    return parse_cards(raw) if raw.startswith(b"SIMPLE  =") else None


def format_cards(cards: "list[tuple[str, Any, str]]") -> bytes:
    """Return a header-only FITS file of (keyword, value, comment), padded to whole blocks."""
    lines = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"]
    for key, value, comment in cards:
        if isinstance(value, float):
            text = f"{value!r:>20s}".replace("e", "E")
            if "." not in text and "E" not in text:
                text = f"{text.strip()}.0".rjust(20)
        elif isinstance(value, bool):
            text = f"{'T' if value else 'F':>20s}"
        elif isinstance(value, int):
            text = f"{value:>20d}"
        else:
            text = f"{chr(39)}{str(value).replace(chr(39), ''):<8s}{chr(39)}"
        line = f"{key:<8s}= {text}"
        lines.append(f"{line} / {comment}" if comment else line)
    body = "".join([line[:80].ljust(80) for line in [*lines, "END"]]).encode("ascii")
    return body + b" " * (-len(body) % BLOCK)


def write_cards(path: "str | PathLike[str]", cards: "list[tuple[str, Any, str]]") -> None:
    """Write a header-only FITS file; it appears whole or not at all."""
    work = Path(f"{os.fspath(path)}.part")
    work.write_bytes(format_cards(cards))
    os.replace(work, path)
