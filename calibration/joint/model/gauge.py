"""Which chips are held so that maps of chips and of visits do not trade places: one of each group that hangs together."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from exposure.camera import Camera
from tasks.arrays import I64

__all__ = ["held_chips"]


def held_chips(visit: I64, chip: I64, detectors: I64, camera: Camera, middle: tuple[float, float]) -> list[int]:
    """Return one chip of each connected group of visits and chips: that nearest to a place (mm) of the focal plane.

    Parameters
    ----------
    visit, chip
        (I,) index of both of each image.
    detectors
        (C,) detector of each chip.
    """
    n = int(visit.max()) + 1
    size = n + detectors.size
    links = coo_array((np.ones(visit.size), (visit, n + chip)), shape=(size, size))
    group = connected_components(links, directed=False)[1][n:]
    out = []
    for g in np.unique(group):
        of = np.flatnonzero(group == g)
        nearest = camera.nearest([int(d) for d in detectors[of]], *middle)
        out.append(int(of[np.flatnonzero(detectors[of] == nearest)[0]]))
    return out
