"""The cards of an image: parsed when they are asked for, and what is wrong is said with the file's name and the card.

A card that nobody asks for is never parsed, so that a broken one does no harm. Of cards that come twice the first
counts; the header of the image goes before the primary header.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any, Union

import numpy as np
from astropy.io import fits

from exposure.errors import CardInvalid, FitsUnreadable, InstrumentError

__all__ = ["CELESTIAL", "Cards", "as_number", "numbered", "unreadable_card"]

FILE_NAME = "FILENAME"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?")
CELESTIAL = re.compile(r"(RA|DEC|[A-Z]LON|[A-Z]LAT|[A-Z]{2}LN|[A-Z]{2}LT)(-.*)?$")  # CTYPE of an axis on the sky
_STRUCTURE = re.compile(r"(BITPIX  |NAXIS\d{0,3} *|BZERO   |BSCALE  |BLANK   |PCOUNT  |GCOUNT  )=")

Source = Union["Cards", fits.Header, Mapping[str, Any]]


class Cards:
    """Header cards by name.

    Parameters
    ----------
    headers
        Where a card is looked for, in this order.
    name
        What messages call the file.
    """

    def __init__(self, headers: Sequence[Mapping[str, Any]], name: str = "the header") -> None:
        self._headers, self.name = list(headers), name

    @classmethod
    def of(cls, source: Source, name: str = "the header") -> "Cards":
        """Return the cards of a header or of a mapping; cards stay as they are."""
        return source if isinstance(source, Cards) else cls([source], name)

    @classmethod
    def of_hdus(cls, hdus: fits.HDUList, ext: int | str = 0, name: "str | PathLike[str] | None" = None) -> "Cards":
        """Return the cards of one HDU, and behind them those of the primary HDU.

        Raises
        ------
        FitsUnreadable
            There is no such HDU.
        """
        said = Path(name or hdus.filename() or "FITS bytes").name
        try:
            own, primary = hdus[ext], hdus[0]
        except (KeyError, IndexError) as error:
            raise FitsUnreadable(
                f"{said} has no extension {ext!r}: say in the instrument file which one holds the image"
            ) from error
        return cls([own.header] if own is primary else [own.header, primary.header], said)

    def __contains__(self, key: str) -> bool:
        for header in self._headers:  # asked some hundred times for each image: no generator
            if key in header:
                return True
        return key == FILE_NAME and "." in self.name

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all cards; nothing is parsed."""
        for header in self._headers:
            yield from header

    def value(self, key: str) -> Any:
        """Return what a card holds; ``FILENAME`` is the name of the file where no card says another.

        Raises
        ------
        CardInvalid
            The card is no FITS, or is empty.
        InstrumentError
            There is no such card.
        """
        for header in self._headers:
            if key not in header:
                continue
            try:
                value = header[key]
            except Exception as error:  # astropy has many ways to fail on what a card may hold
                raise CardInvalid(f"{self.name}: the card {key} cannot be read: {_raw(header, key)}") from error
            if value is None or isinstance(value, fits.card.Undefined):
                raise CardInvalid(f"{self.name}: the card {key} has no value")
            return value
        if key == FILE_NAME and "." in self.name:
            return self.name
        raise InstrumentError(f"{self.name} has no {key} card")

    def text(self, key: str) -> str:
        """Return a card as text without blanks around it; errors as for `value`."""
        return str(self.value(key)).strip()

    def word(self, key: str) -> str:
        """Return a card as text in capitals; an empty one, and none, is an empty text."""
        for header in self._headers:
            if key in header and isinstance(_value_or_none(header, key), fits.card.Undefined):
                return ""
        return self.text(key).upper() if key in self else ""

    def number(self, key: str, *, quoted: bool = False) -> float:
        """Return a card as a finite number.

        Parameters
        ----------
        quoted
            Take a number between quotes too.

        Raises
        ------
        CardInvalid
            The card holds something else.
        """
        value = self.value(key)
        number = None if isinstance(value, str) and not quoted else as_number(value)
        if number is None:
            raise CardInvalid(f"{self.name}: {key}={value!r} is no finite number")
        return number

    def integer(self, key: str) -> int:
        """Return a card as a whole number, to the last digit.

        Raises
        ------
        CardInvalid
            The card holds something else.
        """
        value = self.value(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        number = self.number(key, quoted=True)
        if number != int(number):
            raise CardInvalid(f"{self.name}: {key}={value!r} is no whole number")
        return int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdigit() else int(number)

    def of_wcs(self) -> "Cards":
        """Return the cards of the one header that holds the WCS.

        That of the image where it has one, with the primary header behind it only where INHERIT says so; half a WCS
        is never filled up with the cards of another header.
        """
        if Cards(self._headers[:1], self.name).word("INHERIT") == "TRUE":
            return self
        first = next((k for k, header in enumerate(self._headers) if _names_sky(Cards([header], self.name))), None)
        if first is None:
            return Cards(self._headers[:1], self.name)
        return Cards([self._headers[first]], self.name)


def _names_sky(cards: Cards) -> bool:
    return any(CELESTIAL.match(cards.word(f"CTYPE{k}")) is not None for k in range(1, 10))


def _value_or_none(header: Mapping[str, Any], key: str) -> Any:
    try:
        return header[key]
    except Exception:  # the one who asks for the value says so
        return None


def _raw(header: Mapping[str, Any], key: str) -> str:
    """The text of a card as it stands in the file."""
    card = header.cards[key] if isinstance(header, fits.Header) else None
    return repr(str(getattr(card, "_image", "") or "").rstrip()[:80])


def as_number(value: Any) -> float | None:
    """Return a finite number, also of a text as FITS writes numbers (exponents with D); None of anything else."""
    if type(value) is float:  # as most are
        return value if isfinite(value) else None
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | str | np.number):
        return None
    if isinstance(value, str):
        if _NUMBER.fullmatch(value.strip()) is None:
            return None
        value = value.strip().upper().replace("D", "E")
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if isfinite(number) else None


def unreadable_card(path: "str | PathLike[str]") -> str | None:
    """Return what is wrong with the first header of a file that astropy does not open: the first card that it stands on.

    A file that is no plain FITS has none.
    """
    try:
        with Path(path).open("rb") as handle:
            raw = handle.read(64 * 2880)
    except OSError:
        return None
    if not raw.startswith(b"SIMPLE  ="):
        return None
    for offset in range(0, len(raw) - 79, 80):
        card = raw[offset : offset + 80].decode("latin-1")
        if card.rstrip() == "END":
            return None
        text = card[10:].partition("/")[0].strip()
        if _STRUCTURE.match(card) and as_number(text) is None:
            return f"the card {card[:8].strip()} cannot be read: {card.rstrip()!r}"
    return None


def numbered(header: fits.Header, prefix: str) -> dict[str, int]:
    """Return the whole numbers of all cards whose names begin with `prefix`, by the rest of the name."""
    cards = Cards([header], "the header")
    return {key[len(prefix) :]: cards.integer(key) for key in cards if key.startswith(prefix)}
