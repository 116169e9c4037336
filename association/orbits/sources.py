"""What a source of ephemerides is, and the simplest of them: a table of positions."""

import logging
from typing import Protocol

import numpy as np
import pandas as pd

from association.designations import ss_object_id
from association.errors import AssociationError
from association.solar_system import no_bodies
from tasks.arrays import F64
from tasks.sphere import sky_positions, unit_vectors

MARGIN_DEG = 0.208  # beyond the circle around an image, as the published pipeline asks its service

__all__ = ["MARGIN_DEG", "Ephemerides", "FirstThatAnswers", "PositionTable", "SourceUnavailable", "place_columns"]


class SourceUnavailable(AssociationError):
    """A source of ephemerides does not answer."""

    code = "ephemerides_unavailable"


class Ephemerides(Protocol):
    """Knows where solar-system bodies are."""

    def around(self, mjd_tai: float, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
        """Return the bodies within a radius (deg) of a place at a time.

        Columns: ssObjectId, designation, ephRa and ephDec (deg), and where they are known ephVmag, ``helio_*`` and
        ``topo_*`` (x, y, z in au; vx, vy, vz in au/d; ICRS axes), ``MPCORB_*`` (the orbit).

        Raises
        ------
        SourceUnavailable
            There is no answer.
        """
        ...


def place_columns(helio: F64, topo: F64) -> dict[str, F64]:
    """Return ephRa, ephDec and the columns ``helio_*``, ``topo_*`` of positions and velocities, each of shape (N, 6)."""
    ra, dec = sky_positions(topo)
    axes = ("x", "y", "z", "vx", "vy", "vz")
    vectors = {
        f"{name}_{axis}": v[:, k] for name, v in (("helio", helio), ("topo", topo)) for k, axis in enumerate(axes)
    }
    return {"ephRa": ra, "ephDec": dec, **vectors}


class PositionTable:
    """Positions that were computed elsewhere, sampled in time.

    Parameters
    ----------
    table
        designation, mjd (TAI), topo_x, topo_y, topo_z in au, ``topo_v*``, ``helio_*``, ephVmag, ``MPCORB_*`` where known.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table.sort_values(["designation", "mjd"], ignore_index=True)
        self._mjd = self._table.mjd.to_numpy(np.float64)
        self._body = pd.factorize(self._table.designation)[0]

    def around(self, mjd_tai: float, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
        """Return the bodies whose samples bracket the time, within the radius."""
        out = self.at(mjd_tai)
        topo = out[["topo_x", "topo_y", "topo_z"]].to_numpy(np.float64)
        along = topo @ unit_vectors(ra, dec)
        kept = along >= np.cos(np.radians(min(radius_deg, 180.0))) * np.linalg.norm(topo, axis=1)
        out = pd.DataFrame(out[kept]).reset_index(drop=True)
        out.insert(0, "ssObjectId", np.array([ss_object_id(str(n)) for n in out.designation], dtype=np.int64))
        return out

    def at(self, mjd_tai: float) -> pd.DataFrame:
        """Return all bodies whose samples bracket a time: cubic between the samples where velocities are given."""
        early, last = self._mjd <= mjd_tai, np.r_[np.diff(self._body) != 0, np.ones(min(self._body.size, 1), bool)]
        ends = np.flatnonzero(early & np.r_[last[:-1] | ~early[1:], last[-1:]])
        ends = ends[~last[ends] | (self._mjd[ends] == mjd_tai)]
        before, after = self._table.iloc[ends], self._table.iloc[np.where(last[ends], ends, ends + 1)]
        step = after.mjd.to_numpy(np.float64) - before.mjd.to_numpy(np.float64)
        s = np.divide(mjd_tai - before.mjd.to_numpy(np.float64), step, out=np.zeros(step.size), where=step > 0)
        out: pd.DataFrame = before.reset_index(drop=True).drop(columns="mjd")
        for c in out.columns:
            if c.startswith(("helio_", "topo_")) or c == "ephVmag":
                a, b = before[c].to_numpy(np.float64), after[c].to_numpy(np.float64)
                out[c] = a + s * (b - a)
                velocity_column = f"{c[:-1]}v{c[-1]}"
                if c[-2:] in ("_x", "_y", "_z") and velocity_column in out.columns:
                    velocity_a, velocity_b = (
                        before[velocity_column].to_numpy(np.float64) * step,
                        after[velocity_column].to_numpy(np.float64) * step,
                    )
                    # the cubic through both places with both velocities
                    out[c] += s * (1 - s) * ((1 - s) * (velocity_a - (b - a)) - s * (velocity_b - (b - a)))
        topo = out[["topo_x", "topo_y", "topo_z"]].to_numpy(np.float64)
        out["ephRa"], out["ephDec"] = sky_positions(topo)
        return out


class FirstThatAnswers:
    """Asks one source after the other; none answering is told in the log and means no bodies."""

    def __init__(self, *sources: Ephemerides) -> None:
        self._sources = sources
        self._log = logging.getLogger("alertprod.ephemerides")

    def around(self, mjd_tai: float, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
        """Return the bodies that the first working source knows."""
        for source in self._sources:
            try:
                return source.around(mjd_tai, ra, dec, radius_deg)
            except AssociationError as error:
                self._log.warning("%s", error)
        return no_bodies()
