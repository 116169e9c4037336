"""The sky of a synthetic survey: static stars and galaxies, and everything that changes."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from simulation.orbits import Asteroids, make_asteroids
from tasks.arrays import F64

__all__ = ["Sky", "SkySettings", "make_sky"]


@dataclass(frozen=True)
class Sky:
    """Everything that shines. Fluxes nJy, angles degrees, times MJD TAI.

    ``stars``: starId, ra, dec, flux, period, amplitude, phase (amplitude 0 = constant).
    ``galaxies``: ra, dec, flux, re_arcsec, axis_ratio, angle, sersic.
    ``transients``: transientId, ra, dec, t0, peak, rise, fall, host.
    """

    centre: tuple[float, float]
    stars: pd.DataFrame
    galaxies: pd.DataFrame
    transients: pd.DataFrame
    asteroids: Asteroids

    def star_flux(self, mjd: float) -> F64:
        """Return the flux (N,), nJy, of every star at a time: a sine in flux plus its second harmonic."""
        s = self.stars
        phase = 2 * np.pi * (mjd / np.where(s.period > 0, s.period, 1.0) + s.phase)
        wave = (np.sin(phase) + 0.3 * np.sin(2 * phase)) / 1.2
        return np.asarray(s.flux * (1 + s.amplitude * wave), dtype=np.float64)

    def transient_flux(self, mjd: float) -> F64:
        """Return the flux (N,), nJy, of every transient: exponential rise to the peak at t0, exponential fall after it."""
        t = mjd - self.transients.t0.to_numpy()
        rise, fall = self.transients.rise.to_numpy(), self.transients.fall.to_numpy()
        shape = np.where(t < 0, np.exp(np.minimum(t, 0) / rise), np.exp(-np.maximum(t, 0) / fall))
        return np.asarray(self.transients.peak.to_numpy() * np.where(t < -6 * rise, 0.0, shape))


def _scatter(rng: np.random.Generator, n: int, centre: tuple[float, float], radius: float) -> tuple[F64, F64]:
    """Uniform positions in a square of half side `radius` degrees on the tangent plane (small fields)."""
    u, v = rng.uniform(-radius, radius, n), rng.uniform(-radius, radius, n)
    dec = centre[1] + v
    return (centre[0] + u / np.cos(np.radians(dec))) % 360.0, dec


@dataclass(frozen=True)
class SkySettings:
    """What a sky is made of: counts are for the whole field.

    Parameters
    ----------
    centre, radius_deg
        RA and Dec of the middle, and half the side of the square that is filled, degrees.
    mjd, span_days
        When the variable sky begins, and for how long transients explode.
    faint_njy
        Flux of the faintest star.
    """

    seed: int
    centre: tuple[float, float]
    radius_deg: float
    stars: int
    galaxies: int
    variables: int
    transients: int
    asteroids: int
    mjd: float
    span_days: float
    faint_njy: float = 1000.0


def make_sky(s: SkySettings) -> Sky:
    """Make a sky; equal settings give an equal sky.

    Star counts follow N(>F) ~ F^-0.7 from `faint_njy` up to 2e4 times that. Transients explode near galaxies within
    the span; bodies of the main belt cross the centre of the field near `mjd`.
    """
    rng = np.random.default_rng([s.seed, 1])
    ra, dec = _scatter(rng, s.stars, s.centre, s.radius_deg)
    flux = np.minimum(s.faint_njy * rng.uniform(size=s.stars) ** (-1 / 0.7), 2e4 * s.faint_njy)
    stars = pd.DataFrame({"starId": np.arange(s.stars), "ra": ra, "dec": dec, "flux": flux})
    stars["period"], stars["amplitude"], stars["phase"] = 0.0, 0.0, rng.uniform(size=s.stars)
    able = np.flatnonzero((flux > 8 * s.faint_njy) & (flux < 300 * s.faint_njy))
    chosen = rng.permutation(able)[: s.variables]
    stars.loc[chosen, "period"] = 10 ** rng.uniform(-0.5, 0.8, chosen.size)
    stars.loc[chosen, "amplitude"] = rng.uniform(0.2, 0.5, chosen.size)
    two, three, four = (np.random.default_rng([s.seed, k]) for k in (2, 3, 4))
    galaxies = _make_galaxies(two, s.galaxies, s.centre, s.radius_deg, s.faint_njy)
    transients = _make_transients(three, s.transients, galaxies, s.mjd, s.span_days, s.faint_njy)
    asteroids = make_asteroids(four, s.asteroids, s.centre, s.radius_deg, s.mjd, s.faint_njy)
    return Sky(s.centre, stars, galaxies, transients, asteroids)


def _make_galaxies(
    rng: np.random.Generator, n: int, centre: tuple[float, float], radius: float, faint: float
) -> pd.DataFrame:
    """Return galaxies of sizes, shapes and profiles as in deep surveys; fluxes follow N(>F) ~ F^-0.9."""
    ra, dec = _scatter(rng, n, centre, radius)
    flux = np.minimum(2.5 * faint * rng.uniform(size=n) ** (-1 / 0.9), 2e3 * faint)
    size = np.clip(0.36 * (flux / (2.5 * faint)) ** 0.22 * rng.lognormal(0, 0.3, n), 0.25, 2.8)
    return pd.DataFrame(
        {
            "ra": ra,
            "dec": dec,
            "flux": flux,
            "re_arcsec": size,
            "axis_ratio": rng.uniform(0.3, 1, n),
            "angle": rng.uniform(0, np.pi, n),
            "sersic": rng.choice([1.0, 1.0, 1.5, 2.5], n),
        }
    )


def _make_transients(
    rng: np.random.Generator, n: int, galaxies: pd.DataFrame, mjd: float, span: float, faint: float
) -> pd.DataFrame:
    """Return transients near galaxies, with their times in days and peaks in nJy."""
    n = n if len(galaxies) else 0
    host = rng.choice(max(len(galaxies), 1), n, replace=n > len(galaxies))
    distance = galaxies.re_arcsec.to_numpy()[host] * rng.uniform(0.3, 2.5, n) / 3600
    theta = rng.uniform(0, 2 * np.pi, n)
    dec = galaxies.dec.to_numpy()[host] + distance * np.sin(theta)
    ra = galaxies.ra.to_numpy()[host] + distance * np.cos(theta) / np.cos(np.radians(dec))
    return pd.DataFrame(
        {
            "transientId": np.arange(n),
            "ra": ra,
            "dec": dec,
            "t0": mjd + rng.uniform(0.35, 0.9, n) * span,
            "peak": faint * 10 ** rng.uniform(0.5, 1.8, n),
            "rise": rng.uniform(0.03, 0.1, n) * span,
            "fall": rng.uniform(0.4, 1.0, n) * span,
            "host": host,
        }
    )
