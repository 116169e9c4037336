"""Sky regions of a visit and its detectors."""

from typing import Any

import numpy as np

from exposure import ExposureCatalog

__all__ = ["visit_geometry"]


def visit_geometry(catalog: ExposureCatalog) -> dict[str, Any]:
    """Return ``visit`` (hull of all corners) and ``detectors`` (by id) as ``lsst.sphgeom.ConvexPolygon``."""
    from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

    detectors, every = {}, []
    for row in catalog.table:
        ra, dec = np.asarray(row["raCorners"]), np.asarray(row["decCorners"])
        if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
            continue
        points = [UnitVector3d(LonLat.fromDegrees(float(a), float(b))) for a, b in zip(ra, dec, strict=True)]
        detectors[int(row["id"])] = ConvexPolygon.convexHull(points)
        every += points
    return {"visit": ConvexPolygon.convexHull(every) if every else None, "detectors": detectors}
