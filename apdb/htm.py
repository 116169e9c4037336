"""Vectorised HTM pixel ids (Kunszt, Szalay & Thakar 2001), equal to those of ``lsst.sphgeom``, and region covers."""

from functools import lru_cache

import numpy as np
from lsst.sphgeom import ConvexPolygon, HtmPixelization, LonLat, Region, UnitVector3d
from numpy.typing import ArrayLike, NDArray

__all__ = ["HTM_LEVEL", "cover", "htm_ids", "polygon", "unit_vectors"]

HTM_LEVEL = 20
_X, _Y, _Z = np.eye(3)
# corners of the eight roots, ids 8..15
_ROOTS = np.array(
    [
        [_X, -_Z, _Y], [_Y, -_Z, -_X], [-_X, -_Z, -_Y], [-_Y, -_Z, _X],
        [_X, _Z, -_Y], [-_Y, _Z, -_X], [-_X, _Z, _Y], [_Y, _Z, _X],
    ]
)  # fmt: skip


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return (N, 3) unit vectors of positions in degrees."""
    r, d = np.radians(np.asarray(ra, np.float64)), np.radians(np.asarray(dec, np.float64))
    return np.stack([np.cos(d) * np.cos(r), np.cos(d) * np.sin(r), np.sin(d)], axis=-1)


def htm_ids(ra: ArrayLike, dec: ArrayLike, level: int = HTM_LEVEL) -> NDArray[np.int64]:
    """Return HTM ids of positions in degrees."""
    p = unit_vectors(np.atleast_1d(ra), np.atleast_1d(dec))
    x, y, z = p.T
    quadrant = np.where(y >= 0, np.where(x >= 0, 0, 1), np.where(x < 0, 2, 3))
    root = np.where(z < 0, quadrant, 7 - quadrant)
    a, b, c = (_ROOTS[root][:, k] for k in range(3))
    out = root + 8
    for _ in range(level):
        ab, bc, ca = _middle(a, b), _middle(b, c), _middle(c, a)
        corner = [np.einsum("ij,ij->i", np.cross(m, n), p) >= 0 for m, n in ((ab, ca), (bc, ab), (ca, bc))]
        child = np.select(corner, [0, 1, 2], 3)
        pick = [(child == k)[:, None] for k in range(3)]
        a, b, c = np.select(pick, [a, b, c], bc), np.select(pick, [ab, bc, ca], ca), np.select(pick, [ca, ab, bc], ab)
        out = out * 4 + child
    return out.astype(np.int64)


def _middle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    m = a + b
    return np.asarray(m / np.linalg.norm(m, axis=1, keepdims=True))


@lru_cache(maxsize=32)
def _pixelization(level: int) -> HtmPixelization:
    return HtmPixelization(level)


def polygon(ra: ArrayLike, dec: ArrayLike) -> ConvexPolygon:
    """Return the convex hull of positions in degrees."""
    lonlats = [LonLat.fromDegrees(float(r), float(d)) for r, d in zip(np.ravel(ra), np.ravel(dec), strict=True)]
    return ConvexPolygon([UnitVector3d(p) for p in lonlats])


def cover(region: Region, level: int = HTM_LEVEL, max_ranges: int = 64) -> list[tuple[int, int]]:
    """Return half-open id ranges that cover a region; at most `max_ranges`, so the cover may overshoot."""
    return [(int(lo), int(hi)) for lo, hi in _pixelization(level).envelope(region, max_ranges)]
