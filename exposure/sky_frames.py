"""Sky coordinates of other frames than ICRS: galactic, supergalactic, ecliptic, FK4 and FK5 of any equinox.

The transformations are those of astropy; positions are directions alone, at no distance.
"""

import re
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure.errors import WcsUnsupported

__all__ = ["SkyFrame", "sky_frame"]

F64 = NDArray[np.float64]
_FK4_BEFORE = 1984.0
_SAME_AS_ICRS = re.compile("ICRS|GAIA.*|GCRS")
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

    @cached_property
    def _frame(self) -> Any:
        from astropy.coordinates import frame_transform_graph
        from astropy.time import Time

        frame = frame_transform_graph.lookup_name(self.kind)
        if self.equinox is None:
            return frame()
        besselian = self.kind.startswith("fk4")
        return frame(equinox=Time(self.equinox, format="byear" if besselian else "jyear"))

    def to_icrs(self, lon: F64, lat: F64) -> tuple[F64, F64]:
        """Return ICRS (ra, dec) in degrees of positions in this frame; NaN stays NaN."""
        from astropy.coordinates import ICRS

        return _moved(self._frame, ICRS(), lon, lat)

    def from_icrs(self, ra: F64, dec: F64) -> tuple[F64, F64]:
        """Return longitude and latitude in degrees of ICRS positions."""
        from astropy.coordinates import ICRS

        return _moved(ICRS(), self._frame, ra, dec)


def _moved(start: Any, end: Any, lon: F64, lat: F64) -> tuple[F64, F64]:
    import astropy.units as u
    from astropy.coordinates import UnitSphericalRepresentation

    lon, lat = np.broadcast_arrays(np.asarray(lon, np.float64), np.asarray(lat, np.float64))
    if lon.size == 0:
        return np.zeros(lon.shape), np.zeros(lon.shape)
    good = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 90.0)
    at = UnitSphericalRepresentation(np.where(good, lon, 0.0) * u.deg, np.where(good, lat, 0.0) * u.deg)
    there = start.realize_frame(at).transform_to(end).represent_as(UnitSphericalRepresentation)
    found = (there.lon.to_value(u.deg), there.lat.to_value(u.deg))
    return np.where(good, found[0], np.nan), np.where(good, found[1], np.nan)


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
