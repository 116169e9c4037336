"""A displacement of a tangent plane that is given on a regular grid: what no polynomial follows, such as the atmosphere's."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tasks.arrays import F64

__all__ = ["DisplacementGrid"]

_MARGIN = 4  # nodes around what is cut out: a spline's coefficients forget its border by 4 x per node


@dataclass(frozen=True)
class DisplacementGrid:
    """A map of a plane to itself: places less their displacement, a cubic B-spline through the values at the nodes.

    Beyond the border it is that of the nearest place on it.

    Parameters
    ----------
    first
        x and y of the first node, arcsec in the plane.
    step
        Distance of nodes, arcsec.
    values
        (2, ny, nx) arcsec along x and y.
    """

    first: tuple[float, float]
    step: float
    values: F64

    @cached_property
    def _coefficients(self) -> F64:
        from scipy.ndimage import spline_filter  # a quarter of a second to import, and few WCS have a grid

        return np.stack([spline_filter(v, order=3, mode="mirror") for v in self.values])

    def displacement(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Return the displacement at places of the plane (any shape), arcsec along x and y."""
        from scipy.ndimage import map_coordinates

        _, ny, nx = self.values.shape
        row = np.clip((np.asarray(y) - self.first[1]) / self.step, 0.0, ny - 1.0)
        column = np.clip((np.asarray(x) - self.first[0]) / self.step, 0.0, nx - 1.0)
        at = np.stack([row, column])
        dx, dy = (map_coordinates(c, at, order=3, mode="mirror", prefilter=False) for c in self._coefficients)
        return np.asarray(dx, np.float64), np.asarray(dy, np.float64)

    def __call__(self, x: F64, y: F64) -> tuple[F64, F64]:
        """Map places: x and y less their displacement."""
        dx, dy = self.displacement(x, y)
        return np.asarray(x - dx, np.float64), np.asarray(y - dy, np.float64)

    def cut(self, x: F64, y: F64) -> "DisplacementGrid":
        """Return the part that the box around some places (N,) needs."""
        spans = []
        for lowest, places, count in zip(self.first, (x, y), self.values.shape[:0:-1], strict=True):
            low = int(np.floor((places.min() - lowest) / self.step)) - _MARGIN
            high = int(np.ceil((places.max() - lowest) / self.step)) + _MARGIN + 1
            start = min(max(low, 0), count - 1)
            spans.append(slice(start, max(min(high, count), start + 1)))
        across, down = spans
        first = self.first[0] + across.start * self.step, self.first[1] + down.start * self.step
        return DisplacementGrid(first, self.step, self.values[:, down, across])

    def to_dict(self) -> dict[str, Any]:
        """Return the grid as plain lists and numbers."""
        return {"first": self.first, "step": self.step, "displacement": self.values.tolist()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "DisplacementGrid":
        """Read what `to_dict` made."""
        first = float(raw["first"][0]), float(raw["first"][1])
        return cls(first, float(raw["step"]), np.array(raw["displacement"], np.float64))
