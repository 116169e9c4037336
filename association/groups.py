"""Statistics of groups of values: sorted once, then sums and order statistics by segments, without a loop over groups."""

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["Groups"]

Array = NDArray[np.float64]


class Groups:
    """Values of several columns grouped by code; rows where any of them is not finite are left out.

    Parameters
    ----------
    codes
        Group of each row, 0 to `count` - 1, in ascending order.
    count
        Number of groups; empty ones give NaN.
    columns
        Arrays as long as `codes`; the rows of a group keep their order.
    """

    def __init__(self, codes: NDArray[np.int64], count: int, **columns: Array) -> None:
        order = np.flatnonzero(np.all([np.isfinite(v) for v in columns.values()], axis=0))
        self.count = count
        self.codes = codes[order]
        self.columns = {name: v[order].astype(np.float64) for name, v in columns.items()}
        self.n = np.bincount(self.codes, minlength=count).astype(np.int64)
        self._begin = np.concatenate([[0], np.cumsum(self.n)[:-1]])

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def sum(self, values: Array) -> Array:
        """Sum of each group (0 for an empty one)."""
        return np.asarray(np.bincount(self.codes, weights=values, minlength=self.count), np.float64)

    def mean(self, values: Array) -> Array:
        """Mean of each group."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sum(values) / self.n

    def spread(self, per_group: Array) -> Array:
        """Give each row the value of its group."""
        return per_group[self.codes]

    def quantiles(self, values: Array, *fractions: float) -> Array:
        """Quantiles of each group, shape (fractions, groups), linear between the two neighbouring values."""
        out: Array = _quantiles(self._begin, self.n, values, np.array(fractions))
        return out

    def where(self, condition: NDArray[np.bool_], values: Array) -> Array:
        """Return the values of the groups that fulfil a condition, NaN for the others."""
        return np.where(condition, values, np.nan)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _quantiles(begin: NDArray[np.int64], n: NDArray[np.int64], values: Array, fractions: Array) -> Array:
    out = np.full((fractions.size, n.size), np.nan)
    for k in range(n.size):
        if n[k] == 0:
            continue
        ranked = np.sort(values[begin[k] : begin[k] + n[k]])
        for q in range(fractions.size):
            place = (n[k] - 1) * fractions[q]
            low = int(place)
            high = min(low + 1, n[k] - 1)
            out[q, k] = ranked[low] + (ranked[high] - ranked[low]) * (place - low)
    return out
