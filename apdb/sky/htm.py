"""Vectorised HTM pixel ids (Kunszt, Szalay & Thakar 2001), equal to those of ``lsst.sphgeom``, and region covers."""

from functools import lru_cache

import numpy as np
from lsst.sphgeom import ConvexPolygon, HtmPixelization, LonLat, Region, UnitVector3d
from numpy.typing import ArrayLike

from tasks.arrays import F64, I64
from tasks.compiled import compiled
from tasks.sphere import unit_vectors

__all__ = ["HTM_LEVEL", "HTM_ROOTS", "cover", "htm_ids", "polygon"]

HTM_LEVEL = 20
_X, _Y, _Z = np.eye(3)
# corners of the eight roots, ids 8..15
HTM_ROOTS = np.array(
    [
        [_X, -_Z, _Y], [_Y, -_Z, -_X], [-_X, -_Z, -_Y], [-_Y, -_Z, _X],
        [_X, _Z, -_Y], [-_Y, _Z, -_X], [-_X, _Z, _Y], [_Y, _Z, _X],
    ]
)  # fmt: skip


def htm_ids(ra: ArrayLike, dec: ArrayLike, level: int = HTM_LEVEL) -> I64:
    """Return the HTM ids, shape (N,), of positions.

    Parameters
    ----------
    ra, dec
        Shape (N,) or scalars, deg (ICRS).
    level
        Subdivisions of the eight root triangles.
    """
    out: I64 = _descend(unit_vectors(np.atleast_1d(ra), np.atleast_1d(dec)), HTM_ROOTS, level)
    return out


@compiled
def _descend(points: F64, roots: F64, level: int) -> I64:
    """Return the ids (N,) of unit vectors `points` (N, 3): the root triangle of each, then its children down to `level`.

    `roots`, (8, 3, 3), are the corners of the root triangles with the ids 8 to 15.
    """
    out = np.empty(points.shape[0], np.int64)
    a, b, c = np.empty(3), np.empty(3), np.empty(3)
    ab, bc, ca = np.empty(3), np.empty(3), np.empty(3)
    for k in range(points.shape[0]):
        p = points[k]
        quadrant = (0 if p[0] >= 0 else 1) if p[1] >= 0 else (2 if p[0] < 0 else 3)
        root = quadrant if p[2] < 0 else 7 - quadrant
        a[:], b[:], c[:] = roots[root, 0], roots[root, 1], roots[root, 2]
        pixel = np.int64(root + 8)
        for _ in range(level):
            _middle(a, b, ab)
            _middle(b, c, bc)
            _middle(c, a, ca)
            if _beside(ab, ca, p):
                child = 0
                b[:], c[:] = ab, ca
            elif _beside(bc, ab, p):
                child = 1
                a[:] = b
                b[:], c[:] = bc, ab
            elif _beside(ca, bc, p):
                child = 2
                a[:] = c
                b[:], c[:] = ca, bc
            else:
                child = 3
                a[:], b[:], c[:] = bc, ca, ab
            pixel = pixel * 4 + child
        out[k] = pixel
    return out


@compiled
def _middle(a: F64, b: F64, out: F64) -> None:
    x, y, z = a[0] + b[0], a[1] + b[1], a[2] + b[2]
    length = np.sqrt(x * x + y * y + z * z)
    out[0], out[1], out[2] = x / length, y / length, z / length


@compiled
def _beside(m: F64, n: F64, p: F64) -> bool:
    """Return whether p lies on the left of the great circle from m to n."""
    x = m[1] * n[2] - m[2] * n[1]
    y = m[2] * n[0] - m[0] * n[2]
    z = m[0] * n[1] - m[1] * n[0]
    return bool(x * p[0] + y * p[1] + z * p[2] >= 0)


@lru_cache(maxsize=32)
def _pixelization(level: int) -> HtmPixelization:
    return HtmPixelization(level)


def polygon(ra: ArrayLike, dec: ArrayLike) -> ConvexPolygon:
    """Return the convex hull of positions: right ascensions and declinations in deg (ICRS), of equal shapes."""
    lonlats = [LonLat.fromDegrees(float(r), float(d)) for r, d in zip(np.ravel(ra), np.ravel(dec), strict=True)]
    return ConvexPolygon([UnitVector3d(p) for p in lonlats])


def cover(region: Region, level: int = HTM_LEVEL, max_ranges: int = 64) -> list[tuple[int, int]]:
    """Return half-open id ranges that cover a region; at most `max_ranges`, so the cover may overshoot."""
    return [(int(lo), int(hi)) for lo, hi in _pixelization(level).envelope(region, max_ranges)]
