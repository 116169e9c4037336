"""Bodies of an orbit catalogue near a place on the sky: a coarse look at all, an integration of the few that are near."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from association.designations import ss_object_id
from association.orbits.dynamics import C_AU_PER_DAY, Planets, accelerations, propagate
from association.orbits.elements import OrbitError, heliocentric_states, read_comets, read_mpcorb
from association.orbits.observatory import geocentric
from association.orbits.sources import place_columns
from tasks.arrays import F64, I64
from tasks.compiled import compiled
from tasks.sphere import unit_vectors

__all__ = ["TAI_TO_TDB", "OrbitCatalog"]

TAI_TO_TDB = 32.184 / 86400  # days; what TDB adds to TT stays below 2 ms
_STATE = ["x", "y", "z", "vx", "vy", "vz"]
_MARGIN = np.radians(0.5)  # of the coarse look: bodies near the Earth move by degrees a day


class OrbitCatalog:
    """Orbits that were brought to one time.

    The states of all bodies are kept for the midnight (UTC of the MJD) nearest to the last visit. A visit looks at all of
    them with their first two derivatives and integrates those near its field to its own time.
    Positions are astrometric (corrected for light time; stellar aberration is shared with the reference stars).

    Parameters
    ----------
    orbits
        Rows of `read_mpcorb` or `read_comets`, or what `save` wrote.
    observatory
        Code of the Minor Planet Center.
    planets
        Positions of the planets; DE440 by default.

    Raises
    ------
    OrbitError
        The orbits lack columns, or the optional packages are not installed.
    """

    def __init__(self, orbits: pd.DataFrame, observatory: str = "500", planets: Planets | None = None) -> None:
        self._planets = planets or Planets()
        self._observatory = observatory
        geocentric(observatory, 60000.0)  # an unknown code is told at once
        self._orbits = orbits.reset_index(drop=True)
        if set(_STATE) <= set(orbits.columns):
            if self._orbits.state_mjd.nunique(dropna=False) != 1:
                raise OrbitError("prepared orbits of different times, or mixed with others: prepare them together")
            self._base = np.ascontiguousarray(self._orbits[_STATE].to_numpy(np.float64))
            self._base_mjd = float(self._orbits.state_mjd.iloc[0])
        else:
            self._base, self._base_mjd = self._from_elements()
        self._states, self._mjd = self._base, self._base_mjd

    @classmethod
    def read(cls, *paths: str | Path, observatory: str = "500", planets: Planets | None = None) -> "OrbitCatalog":
        """Read a prepared Parquet file, or files of the Minor Planet Center (comets: ``CometEls*``).

        Raises
        ------
        OrbitError
            A file cannot be read.
        """
        frames = []
        for path in map(Path, paths):
            if path.suffix == ".parquet":
                try:
                    frames.append(pd.read_parquet(path))
                except (OSError, ValueError) as error:
                    raise OrbitError(f"cannot read {path}: {error}") from error
            else:
                frames.append(read_comets(path) if path.name.startswith("CometEls") else read_mpcorb(path))
        return cls(pd.concat(frames, ignore_index=True), observatory, planets)

    def __len__(self) -> int:
        return len(self._orbits)

    def _from_elements(self) -> tuple[F64, float]:
        """Bring all bodies to the epoch that most share: those of other epochs are taken along from one to the next."""
        states = heliocentric_states(self._orbits)
        epochs = self._orbits.epoch_mjd.to_numpy(np.float64)
        values, counts = np.unique(epochs, return_counts=True)
        common = float(values[np.argmax(counts)])
        for epochs_in_order in (values[values < common], values[values > common][::-1]):
            moving = np.zeros(0, np.int64)
            for now, following in pairwise([*epochs_in_order.tolist(), common]):
                joining = np.flatnonzero(epochs == now)
                states[joining] += self._planets.state("sun", now)
                moving = np.concatenate([moving, joining])
                states[moving] = propagate(states[moving], now, following, self._planets)
        states[epochs == common] += self._planets.state("sun", common)
        return states, common

    def prepare(self, mjd: float, progress: Callable[[int, int], None] | None = None) -> None:
        """Bring all states to an MJD (TDB); minutes for a million bodies and some months."""
        self._base, self._base_mjd = propagate(self._base, self._base_mjd, mjd, self._planets, progress), mjd
        self._states, self._mjd = self._base, mjd

    def save(self, path: str | Path) -> None:
        """Write orbits and states as Parquet, which `read` takes up without integrating."""
        table = self._orbits.drop(columns=[*_STATE, "state_mjd"], errors="ignore")
        states = pd.DataFrame(self._base, columns=_STATE).assign(state_mjd=self._base_mjd)
        pd.concat([table, states], axis=1).to_parquet(path, index=False)

    def around(self, mjd_tai: float, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
        """Return the bodies within a radius: ssObjectId, designation, ephRa, ephDec (deg), ephVmag, vectors (au, au/d).

        Columns ``MPCORB_*`` are the orbits, for the alerts.
        """
        mjd = mjd_tai + TAI_TO_TDB
        night = float(round(mjd))
        if night != self._mjd:  # always from the same start: what is told does not depend on what was asked before
            self._states, self._mjd = propagate(self._base, self._base_mjd, night, self._planets), night
        observer = self._planets.state("earth", mjd) + geocentric(self._observatory, mjd_tai)
        towards = unit_vectors(ra, dec)
        sun = self._planets.places(self._mjd)[0]
        limit = np.cos(min(np.radians(radius_deg) + _MARGIN, np.pi))
        near = _near(self._states, mjd - self._mjd, observer[:3], sun, self._planets.masses[0], towards, limit)
        states = propagate(self._states[near], self._mjd, mjd, self._planets)
        seen = _light_time(states, accelerations(states, mjd, self._planets), observer[:3])
        topo = seen - observer
        inside = topo[:, :3] @ towards > np.cos(np.radians(radius_deg)) * np.linalg.norm(topo[:, :3], axis=1)
        helio = seen - self._planets.state("sun", mjd)
        return self._table(self._orbits.iloc[near[inside]], helio[inside], topo[inside])

    def _table(self, orbits: pd.DataFrame, helio: F64, topo: F64) -> pd.DataFrame:
        out: dict[str, Any] = {
            "ssObjectId": np.array([ss_object_id(p) for p in orbits.packed], np.int64),
            "designation": orbits.designation.to_numpy(object),
            "ephVmag": _magnitudes(orbits, helio[:, :3], topo[:, :3]),
            **place_columns(helio, topo),
        }
        elements = orbits.drop(columns=["packed", "designation", "slope", *_STATE, "state_mjd"], errors="ignore")
        carried = {f"MPCORB_{c}": elements[c].to_numpy() for c in elements.columns}
        names = {
            "MPCORB_designation": out["designation"],
            "MPCORB_packed_primary_provisional_designation": orbits.packed.to_numpy(object),
            "MPCORB_unpacked_primary_provisional_designation": out["designation"],
        }
        return pd.DataFrame({**out, **names, **carried})


@compiled
def _near(states: F64, dt: float, observer: F64, sun: F64, gm: float, towards: F64, limit: float) -> I64:
    """Return the rows of barycentric states (N, 6), au and au/d, that may be within an angle of a direction after `dt` days.

    Bodies go straight on, bent by the pull of the Sun (`gm`, at `sun`); `towards` is the unit vector from the `observer`,
    `limit` the cosine of the angle.
    """
    rows = np.empty(states.shape[0], np.int64)
    n = 0
    for k in range(states.shape[0]):
        dx, dy, dz = states[k, 0] - sun[0], states[k, 1] - sun[1], states[k, 2] - sun[2]
        r2 = dx * dx + dy * dy + dz * dz
        pull = -0.5 * dt * dt * gm / (r2 * np.sqrt(r2))
        x = states[k, 0] + dt * states[k, 3] + pull * dx - observer[0]
        y = states[k, 1] + dt * states[k, 4] + pull * dy - observer[1]
        z = states[k, 2] + dt * states[k, 5] + pull * dz - observer[2]
        if x * towards[0] + y * towards[1] + z * towards[2] > limit * np.sqrt(x * x + y * y + z * z):
            rows[n] = k
            n += 1
    return rows[:n].copy()


def _light_time(states: F64, pulls: F64, observer: F64) -> F64:
    """Return the states at which the light left that the observer sees now."""
    out = states.copy()
    for _ in range(3):
        back = np.linalg.norm(out[:, :3] - observer, axis=1, keepdims=True) / C_AU_PER_DAY
        out[:, :3] = states[:, :3] - back * states[:, 3:] + 0.5 * back * back * pulls
        out[:, 3:] = states[:, 3:] - back * pulls
    return out


def _magnitudes(orbits: pd.DataFrame, helio: F64, topo: F64) -> F64:
    """Return V magnitudes of the H, G system (Bowell et al. 1989, in Asteroids II); G = 0.15 where it is unknown.

    Comets (with a `slope` n): H + 5 log(delta) + 2.5 n log(r).
    """
    r, delta = np.linalg.norm(helio, axis=1), np.linalg.norm(topo, axis=1)
    phase = np.arccos(np.clip((helio * topo).sum(1) / (r * delta), -1, 1))
    half = np.tan(0.5 * phase)
    bright, opposed = np.exp(-3.33 * half**0.63), np.exp(-1.87 * half**1.22)
    slope = np.nan_to_num(orbits.g.to_numpy(np.float64), nan=0.15)
    with np.errstate(divide="ignore"):
        fading = 2.5 * np.log10((1 - slope) * bright + slope * opposed)
    h = orbits.h.to_numpy(np.float64)
    asteroid = h + 5 * np.log10(r * delta) - fading
    if "slope" not in orbits:
        return np.asarray(asteroid)
    activity = orbits.slope.to_numpy(np.float64)
    return np.asarray(np.where(np.isfinite(activity), h + 5 * np.log10(delta) + 2.5 * activity * np.log10(r), asteroid))
