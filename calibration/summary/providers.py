"""Choosing one of several overrides for a detector: global, per tract, per HEALPix pixel."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from exposure import ExposureCatalog, SkyWcs
from exposure.io.exposure_catalog import ExposureRecord
from tasks.arrays import F64, Box

__all__ = ["GlobalInput", "HealpixInput", "PossiblyMultipleInput", "TractInput", "sky_centre"]

Best = tuple[int, ExposureRecord | None]


class PossiblyMultipleInput(Protocol):
    """One or several catalogues, of which one is best for a detector."""

    def best_for_detector(self, detector: int, center: F64 | None = None, bbox: Box | None = None) -> Best:
        """Return (region id, record); (-1, None) where no catalogue has the detector; `bbox` is in px.

        Parameters
        ----------
        center
            Unit vector of the detector's middle; None: made with each candidate's own WCS.
        bbox
            x0, y0, width, height of the detector.
        """
        ...


def sky_centre(wcs: SkyWcs | None, bbox: Box | None) -> F64 | None:
    """Return the unit vector (3,) of the centroid of the polygon of the box's corners on the sky."""
    if wcs is None or bbox is None:
        return None
    from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

    x0, y0, w, h = bbox
    ra, dec = wcs.pixel_to_sky(
        np.array([x0 - 0.5, x0 + w - 0.5, x0 + w - 0.5, x0 - 0.5]),
        np.array([y0 - 0.5, y0 - 0.5, y0 + h - 0.5, y0 + h - 0.5]),
    )
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        return None
    points = [UnitVector3d(LonLat.fromDegrees(a, b)) for a, b in zip(ra, dec, strict=True)]
    middle = ConvexPolygon.convexHull(points).getCentroid()
    return np.array([middle.x(), middle.y(), middle.z()])


@dataclass(frozen=True)
class GlobalInput:
    """One catalogue for the whole sky."""

    catalog: ExposureCatalog

    def best_for_detector(self, detector: int, center: F64 | None = None, bbox: Box | None = None) -> Best:
        """Return (-1, record or None); `center` and `bbox` do not count."""
        return -1, self.catalog.find(detector)


@dataclass(frozen=True)
class TractInput:
    """A catalogue per tract; the tract whose centre is nearest to the detector's middle wins, the first of equals.

    Parameters
    ----------
    catalogs
        By tract.
    centers
        Unit vectors of the tracts' centres.
    """

    catalogs: Mapping[int, ExposureCatalog]
    centers: Mapping[int, F64]

    def best_for_detector(self, detector: int, center: F64 | None = None, bbox: Box | None = None) -> Best:
        """Return (tract, record)."""
        best: Best = (-1, None)
        nearest = np.inf
        for tract, record, middle in _candidates(self.catalogs, detector, center, bbox):
            distance = _angle(middle, self.centers[tract])
            if distance < nearest:
                best, nearest = (int(tract), record), distance
        return best


@dataclass(frozen=True)
class HealpixInput:
    """A catalogue per HEALPix pixel (nested) of one order.

    A pixel that holds the detector's middle wins; of several, or of none, the one with the nearest centroid.
    """

    catalogs: Mapping[int, ExposureCatalog]
    order: int

    def best_for_detector(self, detector: int, center: F64 | None = None, bbox: Box | None = None) -> Best:
        """Return (pixel, record)."""
        from lsst.sphgeom import HealpixPixelization, UnitVector3d

        grid = HealpixPixelization(self.order)
        best: Best = (-1, None)
        nearest = (True, np.inf)  # those that hold the middle come first
        for pixel, record, middle in _candidates(self.catalogs, detector, center, bbox):
            outside = grid.index(UnitVector3d(*(float(v) for v in middle))) != pixel
            centroid = grid.pixel(pixel).getCentroid()
            key = (outside, _angle(middle, np.array([centroid.x(), centroid.y(), centroid.z()])))
            if key < nearest:
                best, nearest = (int(pixel), record), key
        return best


def _candidates(
    catalogs: Mapping[int, ExposureCatalog], detector: int, center: F64 | None, bbox: Box | None
) -> Iterator[tuple[int, ExposureRecord, F64]]:
    """Yield region, record and the detector's middle (unit vector) of each catalogue that has the detector."""
    for region, catalog in catalogs.items():
        record = catalog.find(detector)
        if record is None:
            continue
        middle = center if center is not None else sky_centre(record.wcs, bbox)
        if middle is not None:
            yield region, record, middle


def _angle(a: F64, b: F64) -> float:
    """Return the angle (rad) between two unit vectors."""
    return float(2 * np.arcsin(min(1.0, 0.5 * float(np.linalg.norm(np.asarray(a) - np.asarray(b))))))
