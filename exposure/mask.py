"""The named mask planes and their bits.

The rule of NaN, mask and variance, used everywhere: a pixel is *good* when its value is finite, its variance is finite
and positive, and none of the planes that the step excludes is set. NaN pixels carry ``NO_DATA``.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from exposure.threads import in_bands

__all__ = ["PLANES", "plane_bits", "remap", "usable_pixels"]

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


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _usable(image: Any, variance: Any, mask: Any, bits: int, out: Any, first: int, last: int) -> None:
    for y in range(first, last):
        for x in range(image.shape[1]):
            v = variance[y, x]
            out[y, x] = np.isfinite(image[y, x]) and v > 0 and v < np.inf and (mask[y, x] & bits) == 0


def usable_pixels(
    image: NDArray[np.float32], variance: NDArray[np.float32], mask: NDArray[np.int32], bits: int
) -> NDArray[np.bool_]:
    """Return the pixels that are good by the rule above, with the planes of `bits` excluded."""
    out = np.empty(image.shape, np.bool_)
    in_bands(lambda first, last: _usable(image, variance, mask, np.int32(bits), out, first, last), image.shape[0])
    return out
