"""Sky coordinates of other frames than ICRS: galactic, supergalactic, ecliptic, FK4 and FK5 of any equinox.

The transformations are those of astropy; positions are directions alone, at no distance.
"""

import re
from functools import lru_cache
from typing import Any

import numpy as np

from exposure.errors import WcsUnsupported
from tasks.arrays import F64

__all__ = ["SkyFrame", "sky_frame"]

_FK4_BEFORE = 1984.0
_SAME_AS_ICRS = re.compile("ICRS|GAIA.*|GCRS")
_ROTATED = ("fk5", "galactic", "supergalactic", "barycentricmeanecliptic")
_J2000, _B1950 = 2000.0, 1950.0


class SkyFrame:
    """One frame by the name of astropy's, with its equinox.

    Parameters
    ----------
    kind
        ``fk5``, ``fk4``, ``fk4noeterms``, ``galactic``, ``supergalactic`` or ``barycentricmeanecliptic``.
    equinox
        Julian year (Besselian for FK4); None where the frame has none.
    """

    def __init__(self, kind: str, equinox: float | None = None) -> None:
        self.kind, self.equinox = kind, equinox

    def to_icrs(self, lon: F64, lat: F64) -> tuple[F64, F64]:
        """Return ICRS (ra, dec) in degrees of positions in this frame; NaN stays NaN."""
        if self.kind in _ROTATED:
            return _rotated(_rotation(self.kind, self.equinox), lon, lat)
        from astropy.coordinates import ICRS

        return _moved(_frame(self.kind, self.equinox), ICRS(), lon, lat)

    def from_icrs(self, ra: F64, dec: F64) -> tuple[F64, F64]:
        """Return longitude and latitude in degrees of ICRS positions."""
        if self.kind in _ROTATED:
            return _rotated(_rotation(self.kind, self.equinox).T, ra, dec)
        from astropy.coordinates import ICRS

        return _moved(ICRS(), _frame(self.kind, self.equinox), ra, dec)


@lru_cache(maxsize=64)
def _frame(kind: str, equinox: float | None) -> Any:
    from astropy.coordinates import frame_transform_graph
    from astropy.time import Time

    frame = frame_transform_graph.lookup_name(kind)
    if equinox is None:
        return frame()
    return frame(equinox=Time(equinox, format="byear" if kind.startswith("fk4") else "jyear"))


@lru_cache(maxsize=64)
def _rotation(kind: str, equinox: float | None) -> F64:
    """The matrix from a frame to ICRS: astropy's own, of the three axes, so that it is not made for every call."""
    from astropy.coordinates import ICRS

    lon, lat = _moved(_frame(kind, equinox), ICRS(), np.array([0.0, 90.0, 0.0]), np.array([0.0, 0.0, 90.0]))
    return _unit_vectors(lon, lat).T


def _unit_vectors(lon: F64, lat: F64) -> F64:
    a, d = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], -1)


def _rotated(matrix: F64, lon: F64, lat: F64) -> tuple[F64, F64]:
    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    with np.errstate(invalid="ignore"):
        v = np.moveaxis(_unit_vectors(lon, lat), -1, 0)
        x, y, z = (m[0] * v[0] + m[1] * v[1] + m[2] * v[2] for m in matrix)  # no BLAS: the same bits at any length
        return np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))


def _moved(start: Any, end: Any, lon: F64, lat: F64) -> tuple[F64, F64]:
    import astropy.units as u
    from astropy.coordinates import UnitSphericalRepresentation

    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    if lon.size == 0:
        return np.zeros(lon.shape), np.zeros(lon.shape)
    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.0)
    directions = UnitSphericalRepresentation(np.where(good, lon, 0.0) * u.deg, np.where(good, lat, 0.0) * u.deg)
    there = start.realize_frame(directions).transform_to(end).represent_as(UnitSphericalRepresentation)
    degrees = (there.lon.to_value(u.deg), there.lat.to_value(u.deg))
    return np.where(good, degrees[0], np.nan), np.where(good, degrees[1], np.nan)


def sky_frame(prefix: str, radesys: str, equinox: float | None, said: str) -> SkyFrame | None:
    """Return the frame of a WCS, None for ICRS.

    Without RADESYS the FITS standard has FK4 for an EQUINOX before 1984, FK5 after, and ICRS where there is none. FK4
    is taken at the epoch of its equinox, as astropy does.

    Parameters
    ----------
    prefix
        Of the longitude: ``RA``, ``GLON``, ``ELON`` or ``SLON``.
    radesys, equinox
        Values of the cards, an empty text and None where there are none.
    said
        The file, for messages.

    Raises
    ------
    WcsUnsupported
        A frame that moves with place or time; the message names the card.
    """
    if prefix == "GLON":
        return SkyFrame("galactic")
    if prefix == "SLON":
        return SkyFrame("supergalactic")
    if prefix not in ("RA", "ELON"):
        raise WcsUnsupported(f"{said}: CTYPE names {prefix} coordinates, which have no fixed place in ICRS")
    system = radesys or ("ICRS" if equinox is None else "FK4" if equinox < _FK4_BEFORE else "FK5")
    if prefix == "ELON":
        if system not in ("ICRS", "FK5", "J2000"):
            raise WcsUnsupported(f"{said}: ecliptic coordinates with RADESYS={system!r}: only ICRS and FK5 are known")
        return SkyFrame("barycentricmeanecliptic", _J2000 if equinox is None else equinox)
    if _SAME_AS_ICRS.fullmatch(system):
        return None
    if system in ("FK5", "J2000"):
        return SkyFrame("fk5", _J2000 if equinox is None or system == "J2000" else equinox)
    if system in ("FK4", "FK4-NO-E", "B1950"):
        kind = "fk4noeterms" if system == "FK4-NO-E" else "fk4"
        return SkyFrame(kind, _B1950 if equinox is None or system == "B1950" else equinox)
    raise WcsUnsupported(f"{said}: RADESYS={radesys!r} is a frame that cannot be brought to ICRS")
