"""Asteroids on two-body orbits about the Sun, seen from the Earth."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from astropy.coordinates import get_body_barycentric_posvel, solar_system_ephemeris
from astropy.time import Time

from exposure.photocalib import AB_ZEROPOINT
from tasks.arrays import F64

__all__ = ["Asteroids", "make_asteroids"]

GM_SUN = 2.9591220828559093e-4  # au^3 / d^2


def _heliocentric_earth(mjd_tai: float) -> tuple[F64, F64]:
    """Return position and velocity (3,) of the Earth from the Sun, au and au/d, ICRS axes."""
    time = Time(mjd_tai, format="mjd", scale="tai")
    with solar_system_ephemeris.set("builtin"):
        earth, earth_v = get_body_barycentric_posvel("earth", time)
        sun, sun_v = get_body_barycentric_posvel("sun", time)
    return (earth - sun).xyz.to_value("au"), (earth_v - sun_v).xyz.to_value("au/d")


@dataclass(frozen=True)
class Asteroids:
    """State vectors (N, 3) at `epoch`, au and au/d, heliocentric ICRS; flux nJy at the epoch."""

    designation: list[str]
    epoch: float
    position: F64
    velocity: F64
    flux: F64

    def at(self, mjd: float) -> tuple[F64, F64]:
        """Return heliocentric positions and velocities, by 32 leapfrog steps (error < 1e-9 au over 30 days)."""
        steps = 32
        h = (mjd - self.epoch) / steps
        p, v = self.position.copy(), self.velocity.copy()
        for _ in range(steps if h else 0):
            v = v - 0.5 * h * GM_SUN * p / np.linalg.norm(p, axis=1, keepdims=True) ** 3
            p = p + h * v
            v = v - 0.5 * h * GM_SUN * p / np.linalg.norm(p, axis=1, keepdims=True) ** 3
        return p, v

    def ephemerides(self, mjd: float) -> pd.DataFrame:
        """Return the solar-system table of one time: designation, ephRa, ephDec (deg), vectors (au, au/d), Vmag."""
        earth, earth_v = _heliocentric_earth(mjd)
        p, v = self.at(mjd)
        topo = p - earth
        delta = np.linalg.norm(topo, axis=1)
        out = pd.DataFrame({"designation": self.designation})
        out["mjd"] = mjd
        out["ephRa"] = np.degrees(np.arctan2(topo[:, 1], topo[:, 0])) % 360
        out["ephDec"] = np.degrees(np.arcsin(topo[:, 2] / np.where(delta > 0, delta, 1)))
        for k, axis in enumerate("xyz"):
            out[f"helio_{axis}"], out[f"topo_{axis}"] = p[:, k], topo[:, k]
            out[f"helio_v{axis}"], out[f"topo_v{axis}"] = v[:, k], v[:, k] - earth_v[k]
        out["ephVmag"] = AB_ZEROPOINT - 2.5 * np.log10(self.flux)
        return out


def make_asteroids(
    rng: np.random.Generator, n: int, centre: tuple[float, float], radius: float, mjd: float, faint: float
) -> Asteroids:
    """Return main-belt bodies near the centre (deg) of the field at `mjd`, on nearly circular orbits."""
    earth, _ = _heliocentric_earth(mjd)
    ra = np.radians(centre[0] + rng.uniform(-0.7, 0.7, n) * radius / np.cos(np.radians(centre[1])))
    dec = np.radians(centre[1] + rng.uniform(-0.35, 0.35, n) * radius)
    sight = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1).reshape(n, 3)
    topo = rng.uniform(1.4, 2.4, (n, 1))
    position = earth + topo * sight
    r = np.linalg.norm(position, axis=1, keepdims=True)
    pole = np.array([0.0, -0.3978, 0.9175]) + rng.normal(0, 0.1, (n, 3))  # near the ecliptic pole
    along = np.cross(pole, position)
    along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-12)
    velocity = along * np.sqrt(GM_SUN / r) * rng.uniform(0.95, 1.05, (n, 1))
    names = [f"2026 S{chr(65 + k % 25)}{k // 25 or ''}" for k in range(n)]
    return Asteroids(names, mjd, position, velocity, faint * 10 ** rng.uniform(0.7, 1.5, n))
