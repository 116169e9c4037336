"""Reference stars: positions and fluxes that relative or absolute calibration compares with."""

from dataclasses import dataclass
from os import PathLike

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from calibration.errors import CalibrationError
from exposure import Exposure, SkyWcs
from tasks.arrays import F64, Flags

__all__ = ["Matches", "ReferenceStars", "match_stars"]

COLUMNS = ("ra", "dec", "flux")


@dataclass(frozen=True)
class ReferenceStars:
    """Stars with ra, dec (deg) and flux (nJy)."""

    table: pd.DataFrame

    @classmethod
    def read(cls, path: "str | PathLike[str]") -> "ReferenceStars":
        """Read a Parquet table.

        Raises
        ------
        CalibrationError
            A column is missing.
        """
        table = pd.read_parquet(path)
        missing = [c for c in COLUMNS if c not in table]
        if missing:
            raise CalibrationError(f"the reference catalogue {path} lacks the columns {missing}")
        return cls(table)


@dataclass(frozen=True)
class Matches:
    """Matched pairs, all (N,).

    Parameters
    ----------
    x, y, x_ref, y_ref
        Detected and expected position, frame px.
    flux, flux_err, flux_ref
        Instrument units; nJy.
    """

    x: F64
    y: F64
    x_ref: F64
    y_ref: F64
    flux: F64
    flux_err: F64
    flux_ref: F64

    def __len__(self) -> int:
        return int(self.x.size)

    def subset(self, keep: Flags) -> "Matches":
        """Return the chosen pairs; `keep` is (N,)."""
        return Matches(*(getattr(self, f)[keep] for f in self.__dataclass_fields__))


def match_stars(
    exposure: Exposure, sources: pd.DataFrame, reference: ReferenceStars, wcs: SkyWcs, radius: float = 2.0
) -> Matches:
    """Match sources (x, y, psfFlux, psfFluxErr) to reference stars in the pixel frame, mutual nearest in `radius` px.

    Sources whose position is not finite, as where a fit failed, have no match.
    """
    sources = sources[np.isfinite(sources[["x", "y"]].to_numpy(np.float64)).all(1)]
    x, y = wcs.sky_to_pixel(reference.table.ra.to_numpy(), reference.table.dec.to_numpy())
    inside = exposure.contains(x, y, margin=5)
    ref_xy = np.stack([x[inside], y[inside]], axis=1)
    detections = sources[["x", "y"]].to_numpy(np.float64)
    if len(ref_xy) == 0 or len(detections) == 0:
        empty = np.zeros(0)
        return Matches(*(empty,) * 7)
    near = cKDTree(ref_xy).query(detections, distance_upper_bound=radius)
    distance, nearest = np.asarray(near[0]), np.asarray(near[1])
    ok = np.isfinite(distance)
    chosen = np.asarray(cKDTree(detections[ok]).query(ref_xy[nearest[ok]])[1])
    ok_index = np.flatnonzero(ok)
    mutual = chosen == np.arange(ok_index.size)
    s, r = ok_index[mutual], nearest[ok_index[mutual]]
    flux_ref = reference.table.flux.to_numpy(np.float64)[inside][r]
    return Matches(
        detections[s, 0],
        detections[s, 1],
        ref_xy[r, 0],
        ref_xy[r, 1],
        sources.psfFlux.to_numpy(np.float64)[s],
        sources.psfFluxErr.to_numpy(np.float64)[s],
        flux_ref,
    )
