"""What a person types to find something: ids, and coordinates in any usual form."""

import math
import re
from dataclasses import dataclass

__all__ = ["Position", "position_of"]

_NUMBER = r"[-+]?\d+(?:\.\d*)?"
_DEGREES = re.compile(rf"\s*({_NUMBER})\s*(?:°|d|deg)?(?:[\s,;]+|(?=[-+]))({_NUMBER})\s*(?:°|d|deg)?\s*")
_PARTS = re.compile(
    r"\s*(\d{1,2})\s*[h:\s]\s*(\d{1,2})\s*[m:\s'′]\s*(\d{1,2}(?:\.\d*)?)\s*s?(?:[\s,;]+|(?<=s)|(?=[-+]))"
    r"([-+]?)\s*(\d{1,2})\s*[d°:\s]\s*(\d{1,2})\s*[m'′:\s]\s*(\d{1,2}(?:\.\d*)?)\s*(?:s|\"|″|'')?\s*"
)
# without seconds, or with them in one of the two only: four numbers alone are told from degrees by a mark or by the sign between
_PARTS_RA = r"(\d{1,2})\s*[h:\s]\s*(\d{1,2}(?:\.\d*)?)\s*(?:[m:'′\s]\s*(?:(\d{1,2}(?:\.\d*)?)\s*s?)?)?"
_PARTS_DEC = r"(\d{1,2})\s*[d°:\s]\s*(\d{1,2}(?:\.\d*)?)\s*(?:[m:'′\s]\s*(?:(\d{1,2}(?:\.\d*)?)\s*(?:s|\"|″|'')?)?)?"
_SHORT = re.compile(rf"\s*{_PARTS_RA}[\s,;]*([-+])\s*{_PARTS_DEC}\s*")
_SHORT_UNSIGNED = re.compile(rf"\s*(?=\d+\s*[h:]){_PARTS_RA}(?:[\s,;]+|(?<=[ms\s]))()(?=\d+\s*[d°:]){_PARTS_DEC}\s*")
_RA, _DEC = r"(?:r\.?\s*a\.?|right ascension)", r"(?:dec\.?|decl\.?|declination|de)"
_LABELLED = re.compile(
    rf"\s*(?P<first>{_RA}|{_DEC})\s*[:=]?\s*(?P<one>\S.*?)[\s,;&]+(?P<second>{_RA}|{_DEC})\s*[:=]?\s*(?P<other>\S.*?)\s*",
    re.IGNORECASE,
)
_NAME = re.compile(
    r".*?J\s*(\d{2})(\d{2})(\d{2}(?:\.\d*)?)\s*([-+])\s*(\d{2})(\d{2})(\d{2}(?:\.\d*)?).*", re.IGNORECASE
)


@dataclass(frozen=True)
class Position:
    """ICRS, degrees."""

    ra: float
    dec: float


def position_of(text: str) -> Position | None:
    """Return the position that a text names, None where it names none.

    Understood are degrees (``150.1 +2.2``), hours and degrees with minutes and seconds (``10:00:24 +02:12:00``, ``10h00m24s
    2d12m0s``, with spaces or without seconds too), each with names before it (``ra=150.1, dec=2.2``, ``Dec: ... RA: ...``), and names that hold a
    position (``J100024.0+021200``).
    """
    text = text.replace("\u2212", "-")  # as typeset
    labelled = _LABELLED.fullmatch(text)
    if labelled is not None:
        first, second = (re.fullmatch(_RA, labelled[k], re.IGNORECASE) is not None for k in ("first", "second"))
        if first == second:
            return None
        text = f"{labelled['one']} {labelled['other']}" if first else f"{labelled['other']} {labelled['one']}"
    match = next(
        (found for form in (_PARTS, _SHORT, _SHORT_UNSIGNED, _NAME) if (found := form.fullmatch(text)) is not None),
        None,
    )
    if match is not None:
        h, m, s, sign, d, dm, ds = match.groups()
        parts = [float(v or 0) for v in (h, m, s, d, dm, ds)]
        if parts[1] >= 60 or parts[2] >= 60 or parts[4] >= 60 or parts[5] >= 60:
            return None
        ra = 15 * (parts[0] + parts[1] / 60 + parts[2] / 3600)
        dec = (parts[3] + parts[4] / 60 + parts[5] / 3600) * (-1 if sign == "-" else 1)
        return _on_the_sky(ra, dec)
    match = _DEGREES.fullmatch(text)
    return None if match is None else _on_the_sky(float(match[1]), float(match[2]))


def _on_the_sky(ra: float, dec: float) -> Position | None:
    return Position(ra, dec) if 0 <= ra <= 360 and -90 <= dec <= 90 and math.isfinite(ra) else None
