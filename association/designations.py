"""Designations of solar-system bodies: packed (7 or 8 characters, which are the ssObjectId) and as people write them.

https://minorplanetcenter.net/mpcops/documentation/provisional-designation-definition/ and
https://minorplanetcenter.net/iau/info/PackedDes.html: minor planets, comets, their fragments, the surveys.
"""

import hashlib
import re
from collections.abc import Callable

__all__ = ["pack_designation", "ss_object_id", "unpack_designation"]

_ORDER = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_CENTURIES = "IJK"  # 18, 19, 20
_EXTENDED, _LARGE = 620, 620_000  # from here on the extended forms
_LARGEST = _LARGE + 62**4 - 1  # number of a minor planet that has a packed form
LONGEST = 16  # characters of the column `designation`

_MINOR = re.compile(r"^(1[89]|20)(\d\d) ([A-HJ-Y])([A-HJ-Z])(\d{0,4})$")
_COMET = re.compile(r"^(1[89]|20)(\d\d) ([A-HJ-Y])(\d{1,3})(?:-([A-Z]))?$")
_NUMBERED_COMET = re.compile(r"^(\d{1,4})([PDI])(?:-([A-Z]{1,2}))?(?:/.*)?$")
_SURVEY = re.compile(r"^(\d{4}) (P-L|T-[123])$")
_NUMBER = re.compile(r"^\((\d+)\)(?: .*)?$|^(\d+)$")


def _base62(number: int, digits: int) -> str:
    out = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        out = _BASE62[digit] + out
    return out


def _cycle(number: int) -> str:
    """Return two characters for 0 to 619."""
    return f"{_BASE62[number // 10]}{number % 10}"


def _pack_minor(m: re.Match[str]) -> str | None:
    century, year, half, order, cycle = m.groups()
    number = int(cycle or 0)
    if number >= _EXTENDED:
        if not 2000 <= int(century + year) < 2000 + len(_BASE62):
            return None
        rest = (number - _EXTENDED) * 25 + _ORDER.index(order)
        return f"_{_BASE62[int(century + year) - 2000]}{half}{_base62(rest, 4)}"
    return f"{_CENTURIES[int(century) - 18]}{year}{half}{_cycle(number)}{order}"


def _pack_comet(m: re.Match[str]) -> str | None:
    century, year, half, number, fragment = m.groups()
    if int(number) >= _EXTENDED:
        return None
    return f"{_CENTURIES[int(century) - 18]}{year}{half}{_cycle(int(number))}{(fragment or '0').lower()}"


def _pack_number(m: re.Match[str]) -> str | None:
    number = int(m[1] or m[2])
    if number > _LARGEST:
        return None
    if number >= _LARGE:
        return f"~{_base62(number - _LARGE, 4)}"
    return f"{_BASE62[number // 10_000]}{number % 10_000:04d}"


_PACKERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str | None]], ...] = (
    (_MINOR, _pack_minor),
    (_COMET, _pack_comet),
    (_NUMBERED_COMET, lambda m: f"{int(m[1]):04d}{m[2]}{(m[3] or '').lower()}"),
    (_SURVEY, lambda m: f"{'PLS' if m[2] == 'P-L' else f'T{m[2][2]}S'}{m[1]}"),
    (_NUMBER, _pack_number),
)


def _packed(text: str) -> str | None:
    """Return the packed form of a designation, None of what is none, or has none."""
    for pattern, pack in _PACKERS:
        if match := pattern.match(text):
            return pack(match)
    return None


def _is_designation(text: str) -> bool:
    return any(pattern.match(text) for pattern, _ in _PACKERS)


def pack_designation(designation: str) -> str:
    """Return the packed form of a designation, at most 8 characters, different for different bodies.

    ``2026 SA1`` is K26S01A, ``2026 CA620`` _QC0000, ``C/2014 UN271`` CK14UR1N, ``P/1994 P1-B`` PJ94P01b, ``73P-B`` 0073Pb,
    ``(12345) Foo`` 12345. What is packed already stays; other names of more than 8 characters, and designations that have no packed
    form, get ``#`` and a digest.
    """
    name = re.sub(r"(?<=\S)\s*\([^)]*\)$", "", designation.strip())  # C/2025 N1 (ATLAS)
    kind, slash, rest = name.partition("/")
    if slash and kind in ("C", "P", "D", "X", "A", "I"):
        packed = _packed(rest.strip())
        if packed is not None and len(packed) == 7:
            return kind + packed
    elif (packed := _packed(name)) is not None:
        return packed
    if len(name) <= 8 and name.isascii() and not _is_designation(name):
        return name
    digest = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    return f"#{_base62(digest, 7)}"


def ss_object_id(designation: str) -> int:
    """Return the ssObjectId: the packed designation read as big-endian bytes."""
    return int.from_bytes(pack_designation(designation).encode("ascii", "replace").rjust(7, b" "), "big")


_PACKED = re.compile(r"^([CPDXAI])?([IJK])(\d\d)([A-HJ-Y])([0-9A-Za-z])(\d)([A-HJ-Z0a-z])$")
_PACKED_LONG = re.compile(r"^_([0-9A-Za-z])([A-HJ-Y])([0-9A-Za-z]{4})$")
_PACKED_NUMBERED_COMET = re.compile(r"^(\d{4})([PDI])([a-z]{0,2})$")
_PACKED_SURVEY = re.compile(r"^(?:(PL)|T([123]))S(\d{4})$")
_PACKED_NUMBER = re.compile(r"^([0-9A-Za-z])(\d{4})$|^~([0-9A-Za-z]{4})$")


def _from_base62(text: str) -> int:
    number = 0
    for letter in text:
        number = number * 62 + _BASE62.index(letter)
    return number


def _unpack_provisional(m: re.Match[str]) -> str:
    kind, century, year, half, tens, ones, last = m.groups()
    number = 10 * _BASE62.index(tens) + int(ones)
    before = f"{kind}/" if kind else ""
    start = f"{before}{18 + _CENTURIES.index(century)}{year} {half}"
    if last == "0" or last.islower():
        return f"{start}{number}" + ("" if last == "0" else f"-{last.upper()}")
    return f"{start}{last}{number or ''}"


def _unpack_long(m: re.Match[str]) -> str:
    cycle, order = divmod(_from_base62(m[3]), 25)
    return f"{2000 + _BASE62.index(m[1])} {m[2]}{_ORDER[order]}{cycle + _EXTENDED}"


_UNPACKERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (_PACKED, _unpack_provisional),
    (_PACKED_LONG, _unpack_long),
    (_PACKED_NUMBERED_COMET, lambda m: f"{int(m[1])}{m[2]}" + (f"-{m[3].upper()}" if m[3] else "")),
    (_PACKED_SURVEY, lambda m: f"{m[3]} {'P-L' if m[1] else f'T-{m[2]}'}"),
    (_PACKED_NUMBER, lambda m: str(_LARGE + _from_base62(m[3]) if m[3] else 10_000 * _BASE62.index(m[1]) + int(m[2]))),
)


def unpack_designation(designation: str) -> str:
    """Return a designation as people write it, at most 16 characters: packed ones unpacked, names in brackets left out where they are too long."""
    text = designation.strip()
    for pattern, unpack in _UNPACKERS:
        if match := pattern.match(text):
            return unpack(match)
    if len(text) > LONGEST:
        numbered = _NUMBER.match(text)
        text = f"({numbered[1]})" if numbered and numbered[1] else re.sub(r"(?<=\S)\s*\([^)]*\)$", "", text)
    return text[:LONGEST]
