"""The one reader of a celestial WCS from header cards: of FITS standard and of the ways that telescopes write it.

SIP terms count with and without ``-SIP`` in CTYPE, TAN with the PV terms of SCAMP is TPV, TPV with SIP terms beside it
is TPV. Alternate WCS (CTYPE1A) are not read. What cannot be read right is refused, with file and card.
"""

import re
from dataclasses import dataclass
from math import cos, pi, radians, sin

import numpy as np

from exposure.errors import CardInvalid, WcsUnsupported
from exposure.header.cards import CELESTIAL, Cards, as_number
from exposure.wcs.terms import Table, Two, WcsTerms
from tasks.arrays import F64

Sip = tuple[Table, ...] | None
Pv = tuple[tuple[int, int, float], ...]
__all__ = ["ORIGIN_CARDS", "terms_of"]

ORIGIN_CARDS = ("WCSX0", "WCSY0", "WCSCRPX1", "WCSCRPX2")
_PAIRS = {"RA": "DEC", "GLON": "GLAT", "ELON": "ELAT", "SLON": "SLAT"}
_UNITS = {
    "": 1.0, "DEG": 1.0, "DEGREE": 1.0, "DEGREES": 1.0, "ARCMIN": 1 / 60, "ARCSEC": 1 / 3600, "MAS": 1 / 3.6e6,
    "RAD": 180 / pi, "RADIAN": 180 / pi, "RADIANS": 180 / pi,
}  # fmt: skip
_TABLES = re.compile(r"(CPDIS\d|CQDIS\d|D2IMDIS\d|AXISCORR)$")
_USED = ("PV", "PROJP", "A_", "B_", "AP_", "BP_", "CPDIS", "CQDIS", "D2IMDIS", "AXISCORR")
_SIP_TERM = re.compile(r"(AP?|BP?)_(\d)_(\d)$")
_PV = re.compile(r"PV([12])_(\d+)$")
_NO_PROJECTION = ("TAB", "TNX", "ZPX", "TPD", "TPU", "DSS", "WAT")
_SINGULAR = 1e-12  # of the product of the rows' lengths


def terms_of(source: Cards) -> WcsTerms | None:
    """Return the WCS of a header; None where the axes are no places on the sky.

    Raises
    ------
    CardInvalid
        A card of the WCS holds no finite number.
    WcsUnsupported
        Half a WCS, a singular one, or one of a kind that is not read.
    """
    cards = source.of_wcs()
    axes = _axes(cards)
    if axes is None:
        return None
    keys = [key for key in cards if key.startswith(_USED)]
    for key in keys:
        if _TABLES.match(key):
            raise WcsUnsupported(f"{cards.name}: the distortion table of {key} is not read: resample the image first")
    lat = 2 if axes.kinds[0] == axes.prefix else 1
    unit = (_unit(cards, 1), _unit(cards, 2))
    matrix, cdelt = _matrix(cards, lat, unit)
    projection, sip, pv = _distortion(axes.projection, _sip(cards, keys), _pv(cards, keys, lat), lat)
    suffix = "-SIP" if sip is not None else ""
    first, second = (f"{kind:-<4}-{projection}{suffix}" for kind in axes.kinds)
    needed = [f"{name}{k}" for name in ("CRPIX", "CRVAL") for k in (1, 2) if f"{name}{k}" not in cards]
    if needed:
        raise WcsUnsupported(f"{cards.name} has half a WCS: CTYPE1={cards.text('CTYPE1')!r}, but no {needed[0]}")
    if not abs(cards.number(f"CRVAL{lat}") * unit[lat - 1]) <= 90.0:
        raise CardInvalid(f"{cards.name}: CRVAL{lat}={cards.value(f'CRVAL{lat}')!r} lies beyond the pole")
    return WcsTerms(
        ctype=(first, second),
        crpix=(cards.number("CRPIX1"), cards.number("CRPIX2")),
        crval=(cards.number("CRVAL1") * unit[0], cards.number("CRVAL2") * unit[1]),
        matrix=matrix,
        cdelt=cdelt,
        pv=pv,
        radesys=cards.word("RADESYS") or cards.word("RADECSYS"),
        sip=sip,
        equinox=_equinox(cards) if axes.prefix in ("RA", "ELON") else None,
        lonpole=_optional(cards, "LONPOLE"),
        latpole=_optional(cards, "LATPOLE"),
    )


def _distortion(projection: str, sip: Sip, pv: Pv, lat: int) -> tuple[str, Sip, Pv]:
    """Return the projection and the one distortion that counts: two of them in a header say the same thing twice."""
    if projection == "TPV":
        return projection, None, pv
    if projection != "TAN":
        return projection, sip, pv
    if sip is not None or not any(value for _, _, value in pv):
        return projection, sip, ()
    scamp = any(axis == lat or number >= 5 for axis, number, _ in pv)
    return ("TPV" if scamp else projection), None, pv


@dataclass(frozen=True)
class _Axes:
    """The two kinds of coordinates in their order, that of the longitude, and the projection."""

    kinds: tuple[str, str]
    prefix: str
    projection: str


def _axes(cards: Cards) -> _Axes | None:
    matches = {k: CELESTIAL.match(cards.word(f"CTYPE{k}")) for k in range(1, 10)}
    sky = {k: m for k, m in matches.items() if m is not None}
    if not sky:
        return None
    if set(sky) != {1, 2}:
        first = min(sky)
        missing = {1: 2, 2: 1}.get(first, 1)
        raise WcsUnsupported(
            f"{cards.name}: CTYPE{first}={cards.text(f'CTYPE{first}')!r} is a place on the sky, but "
            f"CTYPE{missing}={cards.word(f'CTYPE{missing}')!r} is none: the sky must lie along the first two axes"
        )
    kinds = (sky[1].group(1), sky[2].group(1))
    lng = kinds[0] if kinds[0] in _PAIRS else kinds[1]
    said = f"CTYPE1={cards.text('CTYPE1')!r}, CTYPE2={cards.text('CTYPE2')!r}"
    if lng not in _PAIRS or set(kinds) != {lng, _PAIRS[lng]}:
        raise WcsUnsupported(f"{cards.name}: {said} is no pair of coordinates that can be brought to ICRS")
    projection, _, suffix = (sky[1].group(2) or "").lstrip("-").partition("-")
    both = (sky[2].group(2) or "").lstrip("-") == f"{projection}-{suffix}".rstrip("-")
    if len(projection) != 3 or not both or suffix not in ("", "SIP") or projection in _NO_PROJECTION:
        raise WcsUnsupported(f"{cards.name}: {said} is no projection that can be read")
    for i, j in ((i, j) for i in (1, 2) for j in range(3, 10)):
        for key in (f"CD{i}_{j}", f"PC{i}_{j}"):
            if key in cards and cards.number(key) != 0.0:
                raise WcsUnsupported(f"{cards.name}: {key} ties the sky to a third axis")
    return _Axes(kinds, lng, projection)


def _unit(cards: Cards, axis: int) -> float:
    word = cards.word(f"CUNIT{axis}")
    if word not in _UNITS:
        raise WcsUnsupported(
            f"{cards.name}: CUNIT{axis}={word!r} is no angle: expected deg, arcmin, arcsec, mas or rad"
        )
    return _UNITS[word]


def _optional(cards: Cards, key: str) -> float | None:
    return cards.number(key) if key in cards else None


def _matrix(cards: Cards, lat: int, unit: Two) -> tuple[tuple[Two, Two], Two | None]:
    """Return the CD matrix and None, or the PC matrix and CDELT, from whichever of four ways of writing them."""
    cd, pc = _entries(cards, "CD"), _entries(cards, "PC")
    if not cd and ("CDELT1" not in cards or "CDELT2" not in cards):
        raise WcsUnsupported(f"{cards.name} has half a WCS: neither CD1_1 nor CDELT1 and CDELT2")
    if cd:
        rows = [[cd.get((i, j), 0.0) * unit[i - 1] for j in (1, 2)] for i in (1, 2)]
        cdelt: Two | None = None
        matrix = np.array(rows)
        if pc and "CDELT1" in cards and "CDELT2" in cards:
            _agree(cards, pc, np.array([[cd.get((i, j), 0.0) for j in (1, 2)] for i in (1, 2)]))
    else:
        scale = (cards.number("CDELT1"), cards.number("CDELT2"))
        cdelt = (scale[0] * unit[0], scale[1] * unit[1])
        rows = [[pc.get((i, j), float(i == j)) for j in (1, 2)] for i in (1, 2)] if pc else _rotation(cards, lat, scale)
        matrix = np.array(cdelt)[:, None] * np.array(rows)
        cdelt = None if cdelt == (1.0, 1.0) else cdelt  # a PC matrix in degrees is a CD matrix
    lengths = np.hypot(matrix[:, 0], matrix[:, 1]).prod()
    if not abs(np.linalg.det(matrix)) > _SINGULAR * lengths:
        names = "CD1_1, CD1_2, CD2_1, CD2_2" if cd else "CDELT1, CDELT2 and the PC matrix"
        raise WcsUnsupported(f"{cards.name}: the WCS is singular: look at {names}")
    return ((rows[0][0], rows[0][1]), (rows[1][0], rows[1][1])), cdelt


def _entries(cards: Cards, name: str) -> dict[tuple[int, int], float]:
    """Return the entries of a matrix as CD1_2 or, in old headers, CD001002."""
    out: dict[tuple[int, int], float] = {}
    for i, j in ((1, 1), (1, 2), (2, 1), (2, 2)):
        key = next((k for k in (f"{name}{i}_{j}", f"{name}00{i}00{j}") if k in cards), None)
        if key is not None:
            out[i, j] = cards.number(key)
    return out


def _agree(cards: Cards, pc: dict[tuple[int, int], float], cd: F64) -> None:
    """A header may say its matrix twice, but not in two ways."""
    scale = np.array([cards.number("CDELT1"), cards.number("CDELT2")])
    other = scale[:, None] * np.array([[pc.get((i, j), float(i == j)) for j in (1, 2)] for i in (1, 2)])
    if np.abs(other - cd).max() > 1e-4 * np.abs(cd).max():
        raise WcsUnsupported(f"{cards.name}: CD1_1 and PC1_1 with CDELT1 contradict each other: remove one of the two")


def _rotation(cards: Cards, lat: int, scale: Two) -> list[list[float]]:
    """Return the PC matrix of CROTA, that of the axis of latitude (Calabretta & Greisen 2002, eq. 186 ff)."""
    key, other = f"CROTA{lat}", f"CROTA{3 - lat}"
    if key not in cards and other in cards and cards.number(other) != 0.0:
        raise WcsUnsupported(f"{cards.name}: {other} turns the image, but {key}, that of the latitude, is missing")
    turn = radians(cards.number(key)) if key in cards else 0.0
    if turn == 0.0 or 0.0 in scale:
        return [[1.0, 0.0], [0.0, 1.0]]
    ratio = scale[1] / scale[0]
    return [[cos(turn), -sin(turn) * ratio], [sin(turn) / ratio, cos(turn)]]


def _pv(cards: Cards, keys: list[str], lat: int) -> Pv:
    terms: dict[tuple[int, int], float] = {}
    for key in keys:
        match = _PV.match(key)
        if match is not None:
            terms.setdefault((int(match[1]), int(match[2])), cards.number(key))
        elif key.startswith("PROJP") and key[5:].isdigit():
            terms.setdefault((lat, int(key[5:])), cards.number(key))
    return tuple((axis, number, value) for (axis, number), value in sorted(terms.items()))


def _sip(cards: Cards, keys: list[str]) -> Sip:
    """Return the tables A, B and, where both are given, AP, BP."""
    terms: dict[str, dict[tuple[int, int], float]] = {"A": {}, "B": {}, "AP": {}, "BP": {}}
    for key in keys:
        match = _SIP_TERM.match(key)
        if match is not None:
            terms[match[1]].setdefault((int(match[2]), int(match[3])), cards.number(key))
    if "A_ORDER" not in cards and "B_ORDER" not in cards:
        used = next((f"{n}_{p}_{q}" for n in "AB" for (p, q), v in terms[n].items() if v), None)
        if used is not None:
            raise WcsUnsupported(f"{cards.name} has half a SIP distortion: {used}, but no {used[0]}_ORDER")
        return None
    names = ["A", "B"] + (["AP", "BP"] if "AP_ORDER" in cards and "BP_ORDER" in cards else [])
    return tuple(_sip_table(cards, name, terms[name]) for name in names)


def _sip_table(cards: Cards, name: str, terms: dict[tuple[int, int], float]) -> Table:
    key = f"{name}_ORDER"
    if key not in cards:
        raise WcsUnsupported(f"{cards.name} has half a SIP distortion: no {key}")
    order = cards.integer(key)
    if not 0 <= order <= 9:
        raise CardInvalid(f"{cards.name}: {key}={order} is no order of SIP terms: expected 0 to 9")
    return tuple(
        tuple(terms.get((p, q), 0.0) if p + q <= order else 0.0 for q in range(order + 1)) for p in range(order + 1)
    )


def _equinox(cards: Cards) -> float | None:
    """Return EQUINOX, else EPOCH (its old name), also of J2000.0 and B1950.0.

    Raises
    ------
    CardInvalid
        No year, where RADESYS leaves one to be said.
    """
    key = next((k for k in ("EQUINOX", "EPOCH") if cards.word(k)), None)
    if key is None:
        return None
    word = cards.word(key)
    year = as_number(word[1:] if word[:1] in ("J", "B") else word)
    if year is not None and 1800.0 <= year <= 2200.0:
        return year
    if (cards.word("RADESYS") or cards.word("RADECSYS")) == "ICRS":
        return None
    raise CardInvalid(f"{cards.name}: {key}={cards.value(key)!r} is no year")
