"""Quantiles of many pixels, several times faster than numpy's own: those select ranks one by one and look for NaN.

A single rank is selected, and a whole array sorted, with vector instructions; several ranks at once are not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.arrays import F64

__all__ = ["median", "quantiles", "scatter"]


def median(values: NDArray[Any]) -> float:
    """Return the median of a flat array without NaN; NaN if it is empty."""
    if not values.size:
        return float("nan")
    middle = values.size // 2
    parted = np.partition(values, middle)
    high = float(parted[middle])
    return high if values.size % 2 else 0.5 * (float(parted[:middle].max()) + high)


def scatter(values: NDArray[Any]) -> float:
    """Return the median absolute deviation from the median in units of that of a unit Gaussian; NaN if there is none."""
    return 1.4826 * median(np.abs(values - values.dtype.type(median(values)))) if values.size else float("nan")


def quantiles(values: NDArray[Any], *fractions: float) -> F64:
    """Return the quantiles of a flat array without NaN that is not empty, linear between its values."""
    place = np.array(fractions) * (values.size - 1)
    low = np.minimum(place.astype(np.int64), max(values.size - 2, 0))
    ordered = np.sort(values)
    below, above = (ordered[k].astype(np.float64) for k in (low, np.minimum(low + 1, values.size - 1)))
    return np.asarray(below + (place - low) * (above - below))
