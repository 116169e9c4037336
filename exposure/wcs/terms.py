"""What a celestial WCS is made of: numbers, their cards in FITS (exact to the last bit) and astropy's object."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import comb
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike

from exposure.errors import WcsUnsupported
from tasks.arrays import F64

if TYPE_CHECKING:  # takes half a second to load: only where there is a WCS
    from astropy.wcs import WCS

__all__ = ["WcsTerms", "number_card"]

Two = tuple[float, float]
Table = tuple[tuple[float, ...], ...]
_LARGEST_SIP = 10  # rows of a table: order 9
_SIP_NAMES = ("A", "B", "AP", "BP")


@dataclass(frozen=True)
class WcsTerms:
    """A celestial WCS on two axes, all in degrees.

    Parameters
    ----------
    ctype
        CTYPE1 and CTYPE2; they end in ``-SIP`` where there are SIP terms.
    crpix
        FITS pixels (the first pixel is 1).
    matrix
        CD matrix by rows; the PC matrix where `cdelt` is given.
    pv
        (axis, number, value) of the parameters of the projection.
    radesys, equinox, lonpole, latpole
        As in the cards: empty or None where there are none.
    sip
        Tables [p, q] of A, B and, where they are given, AP, BP.
    """

    ctype: tuple[str, str]
    crpix: Two
    crval: Two
    matrix: tuple[Two, Two]
    cdelt: Two | None = None
    pv: tuple[tuple[int, int, float], ...] = ()
    radesys: str = "ICRS"
    equinox: float | None = None
    lonpole: float | None = None
    latpole: float | None = None
    sip: tuple[Table, ...] | None = None

    @property
    def lng(self) -> int:
        """Index of the axis of longitude: 1 where the axes stand in the order DEC, RA."""
        return 1 if self.ctype[0].startswith("DEC-") or self.ctype[0][1:5] == "LAT-" else 0

    @property
    def prefix(self) -> str:
        """The kind of longitude: RA, GLON, ELON, SLON."""
        return self.ctype[self.lng][:4].rstrip("-")

    @property
    def projection(self) -> str:
        """Three letters."""
        return self.ctype[0][5:8]

    @property
    def cd(self) -> F64:
        """The matrix (2, 2) in degrees per pixel."""
        rows = np.array(self.matrix, np.float64)
        return rows if self.cdelt is None else np.array(self.cdelt, np.float64)[:, None] * rows

    @property
    def is_plain(self) -> bool:
        """Whether it is TAN or TAN-SIP and nothing more, which wcslib always takes: it need not be asked."""
        if self.projection != "TAN" or self.pv or self.lonpole is not None or self.latpole is not None:
            return False
        tables = self.sip or ()
        square = all(1 < len(t) <= _LARGEST_SIP and all(len(row) == len(t) for row in t) for t in tables)
        return square and bool(np.isfinite([*self.crpix, *self.crval]).all())

    def built(self, said: str = "the WCS") -> "WCS":
        """Return astropy's object.

        Raises
        ------
        WcsUnsupported
            wcslib takes no such projection, or the matrix is singular.
        """
        from astropy.wcs import WCS, Sip

        wcs = WCS(naxis=2)
        p = wcs.wcs
        p.ctype, p.crpix, p.crval, p.cunit = list(self.ctype), list(self.crpix), list(self.crval), ["deg", "deg"]
        if self.cdelt is None:
            p.cd = np.array(self.matrix, np.float64)
        else:
            p.pc, p.cdelt = np.array(self.matrix, np.float64), list(self.cdelt)
        if self.pv:
            p.set_pv(list(self.pv))
        for name in ("lonpole", "latpole", "equinox"):
            if getattr(self, name) is not None:
                setattr(p, name, getattr(self, name))
        p.radesys = self.radesys
        try:
            if self.projection in ("NCP", "GLS"):
                p.celfix()
            if self.sip is not None:
                tables = [np.array(t, np.float64) for t in self.sip] + [None] * (4 - len(self.sip))
                wcs.sip = Sip(*tables, np.array(self.crpix, np.float64))
            p.set()
        except Exception as error:  # wcslib's errors are of many kinds
            text = " ".join(str(error).split())
            raise WcsUnsupported(f"{said}: the WCS CTYPE1={self.ctype[0]!r} cannot be used: {text}") from error
        return wcs

    def moved(self, dx: float, dy: float) -> "WcsTerms":
        """Return the terms for pixels that lie further."""
        return replace(self, crpix=(self.crpix[0] + dx, self.crpix[1] + dy))

    def corrected(self, matrix: ArrayLike, offset: ArrayLike) -> "WcsTerms":
        """Return the terms that give at a pixel p what these give at matrix (p - c) + c + offset, c = CRPIX.

        With w = p - c', c' = c - matrix^-1 offset, the map is w -> matrix w: SIP polynomials f turn into
        matrix^-1 f(matrix w), each of its order, and inverse ones likewise.
        """
        m, t = np.asarray(matrix, np.float64), np.asarray(offset, np.float64)
        back = np.linalg.solve(m, t)
        sip: tuple[Table, ...] | None = None
        if self.sip is not None:
            sip = tuple(t for k in range(0, len(self.sip), 2) for t in _mapped(self.sip[k], self.sip[k + 1], m))
        cd = self.cd @ m
        return replace(
            self,
            crpix=(self.crpix[0] - float(back[0]), self.crpix[1] - float(back[1])),
            matrix=_rows(cd),
            cdelt=None,
            sip=sip,
        )

    def cards(self, delta: tuple[int, int] = (0, 0)) -> list[tuple[str, Any]]:
        """Return (keyword, value) for an array whose first pixel lies `delta` before that of these terms."""
        out: list[tuple[str, Any]] = [("WCSAXES", 2), ("CTYPE1", self.ctype[0]), ("CTYPE2", self.ctype[1])]
        out += [("CUNIT1", "deg"), ("CUNIT2", "deg")]
        out += [(f"CRPIX{k + 1}", self.crpix[k] + delta[k]) for k in range(2)]
        out += [(f"CRVAL{k + 1}", self.crval[k]) for k in range(2)]
        out += [(f"CDELT{k + 1}", v) for k, v in enumerate(self.cdelt or (1.0, 1.0))]
        out += [(f"PC{i + 1}_{j + 1}", self.matrix[i][j]) for i in range(2) for j in range(2)]
        poles = (("LONPOLE", self.lonpole), ("LATPOLE", self.latpole), ("EQUINOX", self.equinox))
        out += [(key, value) for key, value in poles if value is not None]
        out += [("RADESYS", self.radesys)] if self.radesys else []
        out += [(f"PV{axis}_{number}", value) for axis, number, value in self.pv]
        for name, table in zip(_SIP_NAMES, self.sip or (), strict=False):
            out.append((f"{name}_ORDER", len(table) - 1))
            out += [(f"{name}_{p}_{q}", v) for p, row in enumerate(table) for q, v in enumerate(row) if v != 0.0]
        return out


def number_card(key: str, value: float) -> fits.Card:
    """Return a card that holds a number to its last bit (astropy's own are cut at 20 digits)."""
    text = repr(float(value)).upper()
    return fits.Card.fromstring(f"{key:<8}= {text:>20}")


def _rows(matrix: F64) -> tuple[Two, Two]:
    return (float(matrix[0, 0]), float(matrix[0, 1])), (float(matrix[1, 0]), float(matrix[1, 1]))


def _table(values: F64) -> Table:
    return tuple(tuple(float(v) for v in row) for row in values)


def _mapped(first: Table, second: Table, m: F64) -> tuple[Table, Table]:
    """Return the tables of matrix^-1 f(matrix w) for those of the two parts of f; both have the larger order."""
    size = max(len(first), len(second))
    pair = np.zeros((2, size, size))
    for out, table in zip(pair, (first, second), strict=True):
        out[: len(table), : len(table)] = table
    tables = np.einsum("ij,jpq->ipq", np.linalg.inv(m), np.stack([_substituted(t, m) for t in pair]))
    return _table(tables[0]), _table(tables[1])


def _substituted(table: F64, m: F64) -> F64:
    """Return the table of f(m w) for that of f: each term x^p y^q becomes terms of the same order."""
    out = np.zeros_like(table)
    for p, q in np.argwhere(table):  # a SIP table has a few dozen terms
        first = _expanded(float(m[0, 0]), float(m[0, 1]), int(p))
        second = _expanded(float(m[1, 0]), float(m[1, 1]), int(q))
        for k, value in enumerate(np.convolve(first, second)):
            out[p + q - k, k] += table[p, q] * value
    return out


@lru_cache(maxsize=256)
def _expanded(a: float, b: float, power: int) -> tuple[float, ...]:
    """Coefficients of x^(power - k) y^k in (a x + b y)^power."""
    return tuple(comb(power, k) * a ** (power - k) * b**k for k in range(power + 1))


def sip_tables(powers: Sequence[F64]) -> tuple[Table, ...]:
    """Return arrays [p, q] as the tables of `WcsTerms`."""
    return tuple(_table(np.asarray(t, np.float64)) for t in powers)
