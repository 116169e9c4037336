"""What headers promise, read as bytes before a library believes it: how many axes there are, and where the next HDU begins."""

import re
from math import prod
from typing import IO

from exposure.errors import FitsUnreadable

__all__ = ["HeadersAhead"]

BLOCK, CARD = 2880, 80
# axes and columns (FITS standard 4.0, sections 4.4.1 and 7.3): libraries count up to what a card says
MOST_AXES = 999
LONGEST_HEADER = 1 << 24
MOST_HDUS = 5000  # a library takes a part of a millisecond for each
MOST_BEHIND = 1 << 26  # bytes behind the last extension, as some writers fill up their records
_END = b"END".ljust(CARD)
_INTEGER = re.compile(rb"(BITPIX|PCOUNT|GCOUNT|TFIELDS|Z?NAXIS\d{0,3}) *= *([+-]?) *(\d{1,70}) *(?:/|$)")


class HeadersAhead:
    """Goes from header to header of a FITS file, which may still grow, and reads nothing between them.

    Parameters
    ----------
    content
        Open for reading; its position is moved.
    name
        Of the file, for messages.
    most
        Bytes that a file which is being unpacked may hold; None: all of it is there.
    """

    def __init__(self, content: IO[bytes], name: str, most: int | None = None) -> None:
        self._content, self._name, self._most = content, name, most
        self._next: int | None = 0  # None: what the headers say cannot be followed
        self._seen = 0

    def follow(self, length: int) -> None:
        """Read the headers within the first `length` bytes that were not read before.

        Raises
        ------
        FitsUnreadable
            A header has more axes or columns than there can be, no end, or is one of too many; of what is being unpacked: it promises more than
            it may hold, or goes on behind its last extension.
        """
        while self._next is not None and self._next + BLOCK <= length:
            self._content.seek(self._next)
            start = self._content.read(8)
            if not start.startswith((b"SIMPLE  ", b"XTENSION")):
                if self._most is not None and self._next > 0 and length - self._next > MOST_BEHIND:
                    raise FitsUnreadable(
                        f"{self._name} goes on for more than {MOST_BEHIND} bytes behind its last extension: refused"
                    )
                return
            header = self._header(self._next, length)
            if header is None:  # not all of it is there
                return
            self._seen += 1
            if self._seen > MOST_HDUS:
                raise FitsUnreadable(f"{self._name} has more than {MOST_HDUS} extensions: refused")
            size = self._size(header)
            self._next = None if size is None else self._next + len(header) + size
            if self._next is not None and self._most is not None and self._next > self._most:
                raise FitsUnreadable(
                    f"{self._name} promises more than the {self._most} bytes that it may hold: refused"
                )

    def _header(self, at: int, length: int) -> bytes | None:
        """Return the header that begins there, whole blocks with their END; None where the file ends before."""
        self._content.seek(at)
        raw = b""
        while len(raw) < LONGEST_HEADER:
            seen, wanted = len(raw), min(8 * BLOCK + len(raw), length - at - len(raw))
            raw += self._content.read(wanted // BLOCK * BLOCK)
            if len(raw) == seen:
                return None
            found = raw.find(_END, seen)
            while found >= 0:
                if found % CARD == 0:
                    return raw[: -(-(found + CARD) // BLOCK) * BLOCK]
                found = raw.find(_END, found + 1)
        raise FitsUnreadable(f"{self._name} has a header that does not end within {LONGEST_HEADER} bytes: refused")

    def _size(self, header: bytes) -> int | None:
        """Return the bytes of data behind a header, filled up to whole blocks; None where it does not say so in plain integers."""
        said: dict[str, int] = {}
        for offset in range(0, len(header), CARD):
            if header[offset] not in b"BGNPTZ":
                continue
            card = _INTEGER.match(header[offset : offset + CARD])
            if card is None:
                continue
            key, value = card[1].decode(), int(card[3]) * (-1 if card[2] == b"-" else 1)
            if key in ("NAXIS", "ZNAXIS", "TFIELDS") and value > MOST_AXES:
                raise FitsUnreadable(
                    f"{self._name} promises {key}={value}, more than the {MOST_AXES} of the standard: refused"
                )
            said.setdefault(key, value)
        axes = [said.get(f"NAXIS{k + 1}") for k in range(said.get("NAXIS", 0))]
        lengths = [n for n in axes if n is not None]
        if "BITPIX" not in said or "NAXIS" not in said or len(lengths) < len(axes) or min(lengths, default=0) < 0:
            return None
        if len(axes) > 1 and lengths[0] == 0:  # random groups, or not
            return None
        items = said.get("GCOUNT", 1) * (said.get("PCOUNT", 0) + prod(lengths)) if axes else 0
        return None if items < 0 else -(-abs(said["BITPIX"]) // 8 * items // BLOCK) * BLOCK
