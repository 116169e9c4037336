"""Where a template lies whose stars are not at their places: moved, mirrored, turned, or of another field."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffim.errors import DifferencingError
from diffim.matching.registration import match_lists
from exposure import Exposure
from exposure.mask import plane_bits
from exposure.stars import Stars
from tasks.arrays import F64

__all__ = ["Elsewhere", "find_elsewhere", "moved_by"]

REACH = 60.0  # px
LISTED = 200  # brightest sources that are compared
ENOUGH = 0.4  # of the shorter list: fewer pairs are chance
FLIPS = {
    "mirrored left to right": (-1, 1),
    "mirrored top to bottom": (1, -1),
    "turned by 180 degrees": (-1, -1),
}


@dataclass(frozen=True)
class Elsewhere:
    """Where the stars of the template lie: what to say of it, and the shift (px) where it is nothing but one."""

    text: str
    shift: tuple[float, float] | None = None


def find_elsewhere(science: Exposure, stars: Stars, template_stars: Stars) -> Elsewhere:
    """Compare the lists of bright sources of the two images (frame px): moved, mirrored or turned?"""
    x0, y0, width, height = science.bbox
    cx, cy = x0 + (width - 1) / 2, y0 + (height - 1) / 2
    first, second = (s.brightest_first() for s in (stars, template_stars))
    a, b = (s.take(np.arange(min(len(s), LISTED))) for s in (first, second))
    shift = _shift(a.x, a.y, b.x, b.y)
    if shift is not None:
        return Elsewhere(f"its stars lie ({shift[0]:+.1f}, {shift[1]:+.1f}) px from those of the image", shift)
    for name, (sx, sy) in FLIPS.items():
        if _shift(a.x, a.y, cx + sx * (b.x - cx), cy + sy * (b.y - cy)) is not None:
            return Elsewhere(f"it is {name}")
    return Elsewhere(f"no shift up to {REACH:.0f} px brings their stars together: it is of another field, or turned")


def _shift(x: F64, y: F64, u: F64, v: F64) -> tuple[float, float] | None:
    """Return the median shift of two lists that are one but for a shift, None of others."""
    if min(x.size, u.size) < 5:
        return None
    try:
        first, second = match_lists(x, y, u, v, REACH, 3.0)
    except DifferencingError:
        return None
    if first.size < ENOUGH * min(x.size, u.size):
        return None
    return float(np.median(u[second] - x[first])), float(np.median(v[second] - y[first]))


def moved_by(template: Exposure, shift: tuple[float, float]) -> Exposure:
    """Return a template moved by whole pixels so that what lay at p + shift lies at p; its box stays, gaps have no data."""
    dx, dy = (int(np.floor(s + 0.5)) for s in shift)
    height, width = template.image.shape

    def moved(plane: NDArray[Any], fill: float) -> NDArray[Any]:
        out = np.full_like(plane, fill)
        rows = slice(max(0, -dy), min(height, height - dy)), slice(max(0, dy), min(height, height + dy))
        columns = slice(max(0, -dx), min(width, width - dx)), slice(max(0, dx), min(width, width + dx))
        out[rows[0], columns[0]] = plane[rows[1], columns[1]]
        return out

    return replace(
        template,
        image=moved(template.image, np.nan),
        variance=moved(template.variance, np.nan),
        mask=moved(template.mask, plane_bits(["NO_DATA"])),
        metadata=dict(template.metadata),
    )
