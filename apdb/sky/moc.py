"""Multi-order coverage maps (IVOA MOC 2.0): cells of HEALPix that HTM pixels cover, merged where four siblings are there."""

from collections.abc import Iterable

import numpy as np

from apdb.sky.htm import HTM_ROOTS
from tasks.arrays import F64, I64
from tasks.sphere import sky_positions

__all__ = ["MOC_ORDER", "healpix_of_htm", "moc_of_cells", "nuniq"]

MOC_ORDER = 9  # 6.9 arcmin: finer than the pixels by which the ledger knows where visits lie
CHUNK = 20_000  # HTM pixels that are taken apart together: 16 times as many triangles, each four points, 31 MB


def healpix_of_htm(pixels: Iterable[int], order: int = MOC_ORDER) -> I64:
    """Return the nested HEALPix cells, ascending, that hold a corner or the middle of a part of an HTM pixel.

    Parameters
    ----------
    pixels
        HTM ids, each of its own level.
    order
        Of the cells.
    """
    import hpgeom

    ids = np.unique(np.fromiter(pixels, np.int64))
    cells: list[I64] = [np.zeros(0, np.int64)]
    for level in np.unique(_levels(ids)).tolist():
        own = ids[_levels(ids) == level]
        # 5.3 arcmin for cells of 6.9: corners and middles of the parts meet every cell but for slivers
        parts = max(1, order - level + 1)
        step = max(1, CHUNK >> (2 * max(parts - 2, 0)))
        for first in range(0, own.size, step):
            ra, dec = sky_positions(_points(_corners(own[first : first + step], level), parts))
            cells.append(np.unique(hpgeom.angle_to_pixel(1 << order, ra, dec, nest=True, lonlat=True)))
    return np.unique(np.concatenate(cells)).astype(np.int64)


def _levels(ids: I64) -> I64:
    """Levels of HTM ids: those of level L are 8 * 4**L to 16 * 4**L - 1."""
    exponents = np.frexp(ids.astype(np.float64))[1]  # ids are below 2**53 at the levels of regions
    return np.asarray((exponents - 4) // 2, np.int64)


def _corners(ids: I64, level: int) -> F64:
    """Corners, shape (N, 3 corners, 3), of HTM pixels of one level, by their path from the root (Kunszt et al. 2001)."""
    corners: F64 = HTM_ROOTS[(ids >> (2 * level)) - 8]
    for step in reversed(range(level)):
        children = _children(corners)
        corners = children[np.arange(ids.size), (ids >> (2 * step)) & 3]
    return corners


def _children(corners: F64) -> F64:
    """The four parts, shape (N, 4, 3, 3), of triangles (N, 3, 3) in the order of their ids."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, bc, ca = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (a + b, b + c, c + a))
    parts = ((a, ab, ca), (b, bc, ab), (c, ca, bc), (bc, ca, ab))
    return np.stack([np.stack(p, axis=1) for p in parts], axis=1)


def _points(corners: F64, times: int) -> F64:
    """Corners, drawn in by a millionth, and middles, shape (M, 3), of the parts that triangles have after so many divisions."""
    for _ in range(times):
        corners = _children(corners).reshape(-1, 3, 3)
    middles = corners.mean(axis=1)
    inner = corners + 1e-6 * (middles[:, None] - corners)
    return np.concatenate([middles, inner.reshape(-1, 3)])


def moc_of_cells(cells: I64, order: int = MOC_ORDER) -> dict[int, I64]:
    """Return the cells by order, ascending, four siblings as their parent; orders without cells are left out."""
    out: dict[int, I64] = {}
    current = np.unique(cells)
    for level in range(order, -1, -1):
        parents, count = np.unique(current >> 2, return_counts=True)
        whole = parents[count == 4] if level else parents[:0]
        left = current[~np.isin(current >> 2, whole)]
        if left.size:
            out[level] = left
        current = whole
    return dict(sorted(out.items()))


def nuniq(moc: dict[int, I64]) -> I64:
    """Return the cells as the unique numbers of MOC 1.1, section 2.3.2: 4 * 4**order + cell, ascending."""
    parts = [np.zeros(0, np.int64), *(4 * 4**order + cells for order, cells in moc.items())]
    return np.asarray(np.sort(np.concatenate(parts)), np.int64)
