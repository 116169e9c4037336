"""Masked pixels in pictures: one colour for each kind, and the legend of those that are shown."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffim.pictures.blocks import in_blocks
from exposure.mask import plane_bits
from tasks.arrays import F32, I32

__all__ = ["KINDS", "binned_kinds", "kinds_of", "legend_handles", "painted"]

SHARE = 0.25  # of the pixels that one dot of a picture stands for


class Kind(NamedTuple):
    """Planes that are shown alike: name, colour (RGBA, 0 to 1). Pixels that can still be used are seen through it."""

    name: str
    planes: tuple[str, ...]
    colour: tuple[float, float, float, float]


# what comes first is shown where several are set
KINDS = (
    Kind("no data", ("NO_DATA",), (0.12, 0.23, 0.40, 1.0)),
    Kind("saturated", ("SAT", "SAT_TEMPLATE"), (0.80, 0.20, 0.12, 1.0)),
    Kind("bad", ("BAD",), (0.55, 0.25, 0.68, 1.0)),
    Kind("cosmic ray", ("CR",), (0.18, 0.60, 0.34, 1.0)),
    Kind("streak", ("STREAK",), (0.0, 0.60, 0.62, 0.6)),
    Kind("suspect", ("SUSPECT", "HIGH_VARIANCE", "SPIKE"), (0.60, 0.40, 0.20, 0.6)),
    Kind("edge", ("EDGE",), (0.36, 0.50, 0.72, 0.6)),
)


def kinds_of(mask: I32) -> NDArray[np.int8]:
    """Return the number of the kind of each pixel of a mask, in its shape (height, width); -1 where it is not masked."""
    out = np.full(mask.shape, -1, np.int8)
    for number in reversed(range(len(KINDS))):
        out[(mask & plane_bits(KINDS[number].planes)) != 0] = number
    return out


def binned_kinds(mask: I32, step: int) -> NDArray[np.int8]:
    """Return the kinds of blocks of `step` x `step` px: the first that a quarter of the pixels have."""
    if step == 1:
        return kinds_of(mask)
    blocks = in_blocks(mask, step)
    out = np.full((blocks.shape[0], blocks.shape[2]), -1, np.int8)
    for number in reversed(range(len(KINDS))):
        there = (blocks & plane_bits(KINDS[number].planes)) != 0
        out[there.mean((1, 3)) >= SHARE] = number
    return out


def painted(kinds: NDArray[np.int8]) -> F32:
    """Return the colours, shape (..., 4), RGBA from 0 to 1, of kinds; transparent for -1."""
    table = np.array([(0.0, 0.0, 0.0, 0.0), *(k.colour for k in KINDS)], np.float32)
    return table[kinds.astype(np.int64) + 1]


def legend_handles(*shown: NDArray[np.int8]) -> list[Any]:
    """Return what a legend needs to name the kinds that were shown (arrays of any shape)."""
    from matplotlib.patches import Patch

    seen = {int(number) for kinds in shown for number in np.unique(kinds) if number >= 0}
    return [Patch(facecolor=KINDS[n].colour, edgecolor="0.3", label=KINDS[n].name) for n in sorted(seen)]
