"""A fixed tiling of the sky: rings of declination cut into equal tiles, each a TAN image that overlaps its neighbours."""

from dataclasses import dataclass

import numpy as np

from exposure import SkyWcs
from tasks.arrays import F64, I64

__all__ = ["SkyTiling", "Tile"]


@dataclass(frozen=True)
class Tile:
    """One tile: ring and column, its WCS and its side in px (inner area plus a border on each side)."""

    ring: int
    column: int
    wcs: SkyWcs
    size: int

    @property
    def name(self) -> str:
        """File stem of the tile."""
        return f"tile_{self.ring:05d}_{self.column:05d}"


@dataclass(frozen=True)
class SkyTiling:
    """Tiles of `inner` px at `pixel_scale` arcsec, each with a `border` that overlaps the next."""

    pixel_scale: float
    inner: int = 1024
    border: int = 64

    @property
    def step(self) -> float:
        """Height of a ring in degrees."""
        rings = int(np.ceil(180.0 / (self.inner * self.pixel_scale / 3600.0)))
        return 180.0 / rings

    def columns(self, ring: int) -> int:
        """Return the number of tiles of a ring."""
        low, high = -90 + ring * self.step, -90 + (ring + 1) * self.step
        nearest = 0.0 if low < 0 < high else min(abs(low), abs(high))
        return max(1, int(np.ceil(360.0 * np.cos(np.radians(nearest)) / self.step)))

    def tile(self, ring: int, column: int) -> Tile:
        """Return one tile."""
        size = self.inner + 2 * self.border
        dec = -90 + (ring + 0.5) * self.step
        ra = (column + 0.5) * 360.0 / self.columns(ring)
        s, c = self.pixel_scale / 3600.0, (size - 1) / 2
        return Tile(ring, column, SkyWcs.tan((c, c), (ra, dec), [[-s, 0], [0, s]]), size)

    def bounds(self, ring: int, column: int) -> tuple[float, float, float, float]:
        """Return the inner area of a tile: ra from and to, dec from and to (degrees)."""
        width = 360.0 / self.columns(ring)
        low = -90 + ring * self.step
        return column * width, (column + 1) * width, low, low + self.step

    def overlapping(self, ra: F64, dec: F64) -> list[Tile]:
        """Return the tiles whose inner area holds any of the positions (N,), degrees (sample an image densely enough)."""
        rings, columns = self.numbers(ra, dec)
        return [
            self.tile(ring, column) for ring, column in sorted(set(zip(rings.tolist(), columns.tolist(), strict=True)))
        ]

    def numbers(self, ra: F64, dec: F64) -> tuple[I64, I64]:
        """Return ring and column (N,) of the tile whose inner area holds each of the positions (N,), degrees."""
        rings = np.clip(((dec + 90) / self.step).astype(np.int64), 0, round(180 / self.step) - 1)
        present, which = np.unique(rings, return_inverse=True)
        counts = np.array([self.columns(int(ring)) for ring in present], np.int64)[which]
        return rings, np.clip((ra % 360 / 360 * counts).astype(np.int64), 0, counts - 1)
