"""A tiling of template sets as the sky map of a Butler's registry: tiles are patches, blocks of about 1.5 deg are tracts.

Rings of tiles would be poor tracts: every visit would fall into two, and a joint fit would run twice.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from lsst.sphgeom import Angle, Box, ConvexPolygon, LonLat, UnitVector3d

from diffim.templates.tiling import SkyTiling, Tile
from tasks.arrays import F64, Flags

__all__ = ["TRACT_DEG", "Place", "SkyMap"]

TRACT_DEG = 1.5
_PREFIX = "tiles_"
_ROW = 1000  # numbers of tracts in a row of them: 360 deg / 1.5 deg are 240


@dataclass(frozen=True)
class Place:
    """Where a tile is: tract, and row and column in it."""

    tract: int
    row: int
    column: int


@dataclass(frozen=True)
class SkyMap:
    """Tracts and patches of a tiling."""

    tiling: SkyTiling

    @property
    def name(self) -> str:
        """Name in a registry: tilings of equal numbers are one sky map."""
        t = self.tiling
        return f"{_PREFIX}{t.pixel_scale!r}_{t.inner}_{t.border}"

    @classmethod
    def named(cls, name: str) -> "SkyMap | None":
        """Return the sky map of a name that `name` gave, None of another."""
        parts = name.removeprefix(_PREFIX).split("_")
        if not name.startswith(_PREFIX) or len(parts) != 3:
            return None
        return cls(SkyTiling(float(parts[0]), int(parts[1]), int(parts[2])))

    @property
    def digest(self) -> bytes:
        """What tells this sky map from all others."""
        t = self.tiling
        return hashlib.sha1(
            f"{t.pixel_scale!r} {t.inner} {t.border} {TRACT_DEG}".encode(), usedforsecurity=False
        ).digest()

    @property
    def rows(self) -> int:
        """Rings of tiles in a tract."""
        return max(1, round(TRACT_DEG / self.tiling.step))

    @property
    def columns(self) -> int:
        """An upper bound of the columns of tiles in a tract."""
        return 2 * self.rows + 2

    @property
    def tract_max(self) -> int:
        """All tracts have smaller numbers."""
        return _ROW * (int(180 / (self.rows * self.tiling.step)) + 2)

    def place(self, tile: Tile) -> Place:
        """Return tract, row and column of a tile: it belongs to the tract that has its middle."""
        row = tile.ring // self.rows
        segments, tiles = self._segments(row), self.tiling.columns(tile.ring)
        segment = (2 * tile.column + 1) * segments // (2 * tiles)
        first = -((segments - 2 * segment * tiles) // (2 * segments))  # the first whose middle is in the segment
        return Place(_ROW * row + segment, tile.ring - row * self.rows, tile.column - first)

    def patch(self, cell: Place) -> int:
        """Return the number of a patch in its tract."""
        return cell.row * self.columns + cell.column

    def owned(self, ra: F64, dec: F64, tract: int, patch: int) -> Flags:
        """Return whether positions (N,), degrees, are of a patch: each is of one, though patches overlap."""
        rings, columns = self.tiling.numbers(ra, dec)
        pairs, which = np.unique(np.stack([rings, columns], axis=1), axis=0, return_inverse=True)
        places = [self.place(self.tiling.tile(int(ring), int(column))) for ring, column in pairs]
        return np.array([(p.tract, self.patch(p)) == (tract, patch) for p in places], np.bool_)[which.ravel()]

    def tract_region(self, tract: int) -> Box:
        """Return where a tract's tiles reach: all that it may ever have."""
        row, segment = divmod(tract, _ROW)
        height, width = self.rows * self.tiling.step, 360.0 / self._segments(row)
        low = -90 + row * height
        box = Box.fromDegrees(segment * width, max(low, -90), (segment + 1) * width, min(low + height, 90))
        reach = Angle.fromDegrees(self.tiling.step * (0.5 + self.tiling.border / self.tiling.inner) * np.sqrt(2))
        return box.dilatedBy(reach)

    @staticmethod
    def patch_region(tile: Tile) -> ConvexPolygon:
        """Return the sky that a tile covers, its border included."""
        edge = np.array([-0.5, tile.size - 0.5])
        ra, dec = tile.wcs.pixel_to_sky(edge[[0, 1, 1, 0]], edge[[0, 0, 1, 1]])
        return ConvexPolygon(
            [UnitVector3d(LonLat.fromDegrees(float(r), float(d))) for r, d in zip(ra, dec, strict=True)]
        )

    def _segments(self, row: int) -> int:
        """Return the number of tracts in a row of them."""
        height = self.rows * self.tiling.step
        low, high = -90 + row * height, -90 + (row + 1) * height
        nearest = 0.0 if low < 0 < high else min(abs(low), abs(high))
        return max(1, int(360 * np.cos(np.radians(min(nearest, 90.0))) / TRACT_DEG))
