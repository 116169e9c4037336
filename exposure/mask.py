"""The named mask planes and their bits.

The rule of NaN, mask and variance, used everywhere: a pixel is *good* when its value is finite, its variance is finite
and positive, and none of the planes that the step excludes is set. NaN pixels carry ``NO_DATA``.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure.threads import in_bands
from tasks.arrays import F32, I32, Flags
from tasks.compiled import compiled

__all__ = [
    "PIXEL_FLAGS",
    "PLANES",
    "count_flagged",
    "flagged_pixels",
    "is_usable",
    "plane_bits",
    "remap",
    "set_bits",
    "spread_bits",
    "translate",
    "true_places",
    "usable_pixels",
]

_NAMES = (
    "BAD", "SAT", "INTRP", "CR", "EDGE", "DETECTED", "DETECTED_NEGATIVE", "SUSPECT", "NO_DATA", "NOT_DEBLENDED",
    "STREAK", "INJECTED", "INJECTED_CORE", "INJECTED_TEMPLATE", "INJECTED_CORE_TEMPLATE", "HIGH_VARIANCE",
    "SAT_TEMPLATE", "SPIKE", "FAKE", "INEXACT_PSF",
)  # fmt: skip

PLANES = MappingProxyType({name: bit for bit, name in enumerate(_NAMES)})

RUN = 128  # pixels of a row that are looked at once before each is looked at

# planes that become flags of measured positions, by the names of the flags
PIXEL_FLAGS = {
    "edge": "EDGE", "interpolated": "INTRP", "saturated": "SAT", "cr": "CR", "bad": "BAD", "suspect": "SUSPECT",
    "streak": "STREAK", "injected": "INJECTED", "injected_template": "INJECTED_TEMPLATE", "nodata": "NO_DATA",
    "high_variance": "HIGH_VARIANCE", "sat_template": "SAT_TEMPLATE", "spike": "SPIKE", "inexact_psf": "INEXACT_PSF",
}  # fmt: skip


def plane_bits(planes: Iterable[str]) -> int:
    """Return the OR of the bits of `planes`; an unknown name counts as an empty plane."""
    return sum(1 << PLANES[p] for p in set(planes) if p in PLANES)


def remap(mask: NDArray[np.integer], names: dict[str, int]) -> I32:
    """Move the bits of a mask with its own plane numbers (name -> bit) to ours; planes we do not know are dropped."""
    shared = {name: bit for name, bit in names.items() if name in PLANES}
    if mask.dtype.itemsize > 4 or any(bit > 30 for bit in shared.values()):
        out = np.zeros(mask.shape, dtype=np.int32)
        for name, bit in shared.items():
            out |= ((mask >> bit) & 1).astype(np.int32) << PLANES[name]
        return out
    own = mask.astype(np.int32)
    if all(PLANES[name] == bit for name, bit in shared.items()):
        own &= np.int32(plane_bits(shared))
        return own
    old = np.array([1 << bit for bit in shared.values()], np.int32)
    _renamed(own, 0, old, np.array([plane_bits([name]) for name in shared], np.int32))
    return own


@compiled
def is_usable(value: Any, variance: Any, flags: Any, bits: int) -> Any:
    """Whether a pixel is good by the rule above; without branches: loops that call it are vectorised."""
    most = np.float32(np.inf)
    return (abs(value) < most) & (variance > np.float32(0)) & (variance < most) & ((flags & bits) == 0)


@compiled
def _usable(image: Any, variance: Any, mask: Any, bits: Any, out: Any, first: int, last: int) -> None:
    for y in range(first, last):
        pixels, variances, flags, row = image[y], variance[y], mask[y], out[y]
        for x in range(row.shape[0]):
            row[x] = is_usable(pixels[x], variances[x], flags[x], bits)


def usable_pixels(image: F32, variance: F32, mask: I32, bits: int) -> Flags:
    """Return the pixels that are good by the rule above, with the planes of `bits` excluded."""
    out = np.empty(image.shape, np.bool_)
    in_bands(lambda first, last: _usable(image, variance, mask, np.int32(bits), out, first, last), image.shape[0])
    return out


@compiled
def _flagged(mask: Any, bits: Any, out: Any, first: int, last: int) -> None:
    for y in range(first, last):
        for x in range(mask.shape[1]):
            out[y, x] = (mask[y, x] & bits) != 0


def flagged_pixels(mask: I32, bits: int) -> Flags:
    """Return where any of the bits is set."""
    out = np.empty(mask.shape, np.bool_)
    in_bands(lambda first, last: _flagged(mask, np.int32(bits), out, first, last), mask.shape[0])
    return out


@compiled
def _count(mask: Any, other: Any, bits: Any, first: int, last: int) -> Any:
    total = 0
    for y in range(first, last):
        row, second = mask[y], other[y]
        in_row: Any = np.int32(0)
        for x in range(row.shape[0]):
            in_row = np.int32(in_row + (np.int32(1) if (row[x] | second[x]) & bits != 0 else np.int32(0)))
        total += in_row
    return total


def count_flagged(mask: I32, other: I32, bits: int) -> int:
    """Return in how many pixels any of the bits is set in either of two masks."""
    counts: list[int] = []
    in_bands(lambda first, last: counts.append(_count(mask, other, np.int32(bits), first, last)), mask.shape[0])
    return sum(counts)


@compiled
def true_places(row: Any, out: Any) -> int:
    """Write to `out` the indices of the true values of a row, whose length is a multiple of 8; return how many there are."""
    words, n = row.view(np.uint64), 0
    for word in range(words.shape[0]):
        if words[word] != 0:  # most are zero: eight pixels are passed over at once
            for x in range(8 * word, 8 * word + 8):
                if row[x]:
                    out[n] = x
                    n += 1
    return n


@compiled
def _set(mask: Any, where: Any, bits: Any, first: int, last: int) -> None:
    for y in range(first, last):
        for x in range(mask.shape[1]):
            if where[y, x]:
                mask[y, x] |= bits


def set_bits(mask: I32, where: Flags, bits: int) -> None:
    """Set bits where asked, in place."""
    in_bands(lambda first, last: _set(mask, where, np.int32(bits), first, last), mask.shape[0])


@compiled
def _any(row: Any, bits: Any) -> bool:
    """Whether any pixel has any of the bits; most have none, and this is vectorised."""
    seen: Any = np.int32(0)
    for x in range(row.shape[0]):
        seen = np.int32(seen | (row[x] & bits))
    return bool(seen != 0)


@compiled
def _translate(mask: Any, kept: Any, old: Any, new: Any, first: int, last: int) -> None:
    others = np.int32(~kept)
    for y in range(first, last):
        for low in range(0, mask.shape[1], RUN):
            row = mask[y, low : low + RUN]
            if not _any(row, others):
                continue
            for x in range(row.shape[0]):
                value = row[x] & kept
                for k in range(old.shape[0]):
                    if row[x] & old[k]:
                        value |= new[k]
                row[x] = value


def _renamed(mask: I32, kept: int, old: I32, new: I32) -> None:
    in_bands(lambda first, last: _translate(mask, np.int32(kept), old, new, first, last), mask.shape[0])


def translate(mask: I32, kept: int, renamed: dict[str, str]) -> None:
    """Leave a mask with the bits of `kept`, and each plane of `renamed` under its new name; nothing else."""
    old = np.array([plane_bits([a]) for a in renamed], np.int32)
    new = np.array([plane_bits([b]) for b in renamed.values()], np.int32)
    _renamed(mask, kept, old, new)


@compiled
def _grow(mask: Any, bits: Any, put: Any, disc: Any, offset: Any, out: Any, first: int, last: int) -> None:
    """Set bits in rows `first` to `last` of `out`; `disc` (2, K) holds the steps in y and x from a pixel to its disc."""
    height, width = mask.shape
    y0, x0 = offset
    dy, dx = disc[0], disc[1]
    for y in range(max(0, first + y0 - dy[-1]), min(height, last + y0 + dy[-1])):
        for low in range(0, width, RUN):
            if not _any(mask[y, low : low + RUN], bits):
                continue
            for x in range(low, min(low + RUN, width)):
                m = mask[y, x] & bits
                if m == 0:
                    continue
                inner = (y == 0 or mask[y - 1, x] & m == m) and (y == height - 1 or mask[y + 1, x] & m == m)
                inner = inner and (x == 0 or mask[y, x - 1] & m == m) and (x == width - 1 or mask[y, x + 1] & m == m)
                if inner:  # a pixel outside is nearer to the rim
                    if first <= y - y0 < last and 0 <= x - x0 < out.shape[1]:
                        out[y - y0, x - x0] |= m if put == 0 else put
                    continue
                for k in range(dy.shape[0]):
                    j, i = y - y0 + dy[k], x - x0 + dx[k]
                    if first <= j < last and 0 <= i < out.shape[1]:
                        out[j, i] |= m if put == 0 else put


def spread_bits(
    mask: I32,
    bits: int,
    radius: float,
    out: I32,
    offset: tuple[int, int] = (0, 0),
    put: int = 0,
) -> None:
    """OR the bits of `mask`, grown by a disc, into `out`, whose pixel [0, 0] is the pixel `offset` (y, x) of `mask`.

    With `put` those bits, none of `bits`, are set instead, and `out` may be `mask` itself.
    """
    reach = int(radius + 0.25)
    g = np.arange(-reach, reach + 1)
    disc = np.stack(np.nonzero(g[:, None] ** 2 + g[None, :] ** 2 <= (radius + 0.25) ** 2)) - reach
    in_bands(
        lambda first, last: _grow(mask, np.int32(bits), np.int32(put), disc, offset, out, first, last), out.shape[0]
    )
