"""The named mask planes and their bits.

The rule of NaN, mask and variance, used everywhere: a pixel is *good* when its value is finite, its variance is finite
and positive, and none of the planes that the step excludes is set. NaN pixels carry ``NO_DATA``.
"""

from collections.abc import Iterable
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["PLANES", "plane_bits", "remap"]

_NAMES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA", "NOT_DEBLENDED",
    "STREAK", "INJECTED", "INJECTED_CORE", "INJECTED_TEMPLATE", "INJECTED_CORE_TEMPLATE", "HIGH_VARIANCE",
    "SAT_TEMPLATE", "SPIKE", "FAKE",
)  # fmt: skip

PLANES = MappingProxyType({name: bit for bit, name in enumerate(_NAMES)})


def plane_bits(planes: Iterable[str]) -> int:
    """Return the OR of the bits of `planes`; an unknown name counts as an empty plane."""
    return sum(1 << PLANES[p] for p in set(planes) if p in PLANES)


def remap(mask: NDArray[np.integer], names: dict[str, int]) -> NDArray[np.int32]:
    """Move the bits of a mask with its own plane numbers (name -> bit) to ours; planes we do not know are dropped."""
    if all(PLANES.get(name) == bit for name, bit in names.items()):
        return mask.astype(np.int32)
    out = np.zeros(mask.shape, dtype=np.int32)
    for name, bit in names.items():
        if name in PLANES:
            out |= ((mask >> bit) & 1).astype(np.int32) << PLANES[name]
    return out
