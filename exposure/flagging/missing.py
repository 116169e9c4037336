"""The door: what every image passes when it comes in, so that missing is missing everywhere behind it.

A pixel without data has ``NO_DATA``: its value is not finite (or a stand-in for infinity), its variance is none (not
finite, zero, negative) or one of those "big" numbers that resampling programs write for "unknown".
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from exposure.errors import BadPixels, UnitsExtreme
from exposure.mask import plane_bits
from exposure.quantiles import scatter
from exposure.threads import in_bands
from tasks.arrays import F32
from tasks.compiled import compiled

if TYPE_CHECKING:
    from exposure.exposure import Exposure

__all__ = ["forget_missing", "note_missing", "refuse_missing"]

BIG = 1e29  # SWarp and SExtractor write 1e30
UNKNOWN = 1e7  # times the usual variance: not even the brightest star of an image has that
LEAST_NOISE, MOST_NOISE = 5e-12, 1e17  # beyond, squares and their sums leave single precision
CONTRAST = 1e6  # of the brightest pixels over the noise, which no image has
SAMPLE = 250_000


def note_missing(exposure: "Exposure", *, clear: bool = False) -> int:
    """Set ``NO_DATA`` where a pixel has no value or no variance, in place; returns how many pixels have data.

    Parameters
    ----------
    clear
        Make image and variance NaN there too.
    """
    most = _most(exposure.variance)
    counts: list[int] = []
    bits = np.int32(plane_bits(["NO_DATA"]))
    planes = exposure.image, exposure.variance, exposure.mask
    in_bands(lambda a, b: counts.append(_note(*planes, bits, np.float32(most), clear, a, b)), exposure.height)
    return sum(counts)


def refuse_missing(exposure: "Exposure", name: str = "the image") -> None:
    """Note what is missing; `name` is what messages speak of.

    Raises
    ------
    BadPixels
        No pixel with data is left.
    UnitsExtreme
        Values whose squares cannot be kept as variances.
    """
    if note_missing(exposure) == 0:
        raise BadPixels(f"{name} holds no {_missing(exposure)}", **exposure.where)
    step = max(1, int(np.sqrt(exposure.image.size / SAMPLE)))
    some = exposure.image[::step, ::step].astype(np.float64)
    some = some[np.abs(some) < np.inf]
    noise, most = scatter(some), float(np.abs(some).max(initial=0.0))
    # an image without noise, as made for a test, scatters by next to nothing; its sources are of usual units
    if (0 < noise < LEAST_NOISE and most < LEAST_NOISE * CONTRAST) or noise > MOST_NOISE:
        raise UnitsExtreme(
            f"the pixels of {name} scatter by {noise:.3g} of its units, which must be {LEAST_NOISE:g} to {MOST_NOISE:g}: "
            "multiply them by a factor, and count it in the zero point",
            **exposure.where,
        )


def forget_missing(exposure: "Exposure") -> None:
    """Make image and variance NaN where a pixel has no data, in place: whatever was computed there is no measurement."""
    missing = exposure.flagged("NO_DATA")
    if missing.any():
        exposure.image[missing] = exposure.variance[missing] = np.nan


def _missing(exposure: "Exposure") -> str:
    if not np.isfinite(exposure.image).any():
        return "finite pixel (all are NaN, or of one value)"
    if exposure.good().any() or not _known(exposure.variance):
        return "pixel with data"
    return "pixel with a positive, finite variance: is that plane a variance?"


def _known(variance: F32) -> bool:
    """Whether there is a variance plane: one of nothing but NaN stands for a variance that is still to be measured."""
    return bool(not np.isnan(variance.flat[0]) or not np.isnan(variance).all())


def _most(variance: F32) -> float:
    """Return the least variance that means "unknown"; NaN where there is no variance plane at all."""
    if not _known(variance):
        return float("nan")
    step = max(1, int(np.sqrt(variance.size / SAMPLE)))
    some = variance[::step, ::step]
    some = some[np.isfinite(some) & (some > 0)]
    below = some[some < BIG]
    if not below.size:
        return float("inf")
    return min(BIG, UNKNOWN * float(np.median(below)))


@compiled
def _note(image: Any, variance: Any, mask: Any, no_data: Any, most: Any, clear: bool, first: int, last: int) -> int:
    """Mark some rows; returns how many pixels have data."""
    left = 0
    measured, big, nothing = not np.isnan(most), np.float32(1e29), np.float32(np.nan)
    for y in range(first, last):
        for x in range(image.shape[1]):
            v = variance[y, x]
            here = abs(image[y, x]) < big
            if measured:
                here &= (v > 0) & (v < most)
            if not here:
                mask[y, x] |= no_data
                if clear:
                    image[y, x] = variance[y, x] = nothing
            elif mask[y, x] & no_data == 0:
                left += 1
    return left
