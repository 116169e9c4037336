"""Statistics of groups of values: sorted once, then sums and order statistics by segments, without a loop over groups."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Groups"]

Array = NDArray[np.float64]


class Groups:
    """Values of several columns grouped by code; rows where any of them is not finite are left out.

    Parameters
    ----------
    codes
        Group of each row, 0 to `count` - 1.
    count
        Number of groups; empty ones give NaN.
    columns
        Arrays as long as `codes`.
    order_by
        Column by which the rows of a group are ordered.
    """

    def __init__(self, codes: NDArray[np.int64], count: int, order_by: str | None = None, **columns: Array) -> None:
        good = np.all([np.isfinite(v) for v in columns.values()], axis=0)
        keys = (columns[order_by][good], codes[good]) if order_by else (codes[good],)
        order = np.flatnonzero(good)[np.lexsort(keys)]
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

    def quantile(self, values: Array, fraction: float) -> Array:
        """Quantile of each group, linear between the two neighbouring values."""
        order = np.lexsort((values, self.codes))
        ranked = values[order]
        place = self._begin + (self.n - 1) * fraction
        low = np.floor(place)
        held = self.n > 0
        first = np.where(held, low, 0).astype(np.int64)
        second = np.where(held, np.minimum(low + 1, self._begin + self.n - 1), 0).astype(np.int64)
        if not len(ranked):
            return np.full(self.count, np.nan)
        part = np.where(held, place - low, 0.0)
        return np.where(held, ranked[first] * (1 - part) + ranked[second] * part, np.nan)

    def where(self, condition: NDArray[np.bool_], values: Array) -> Array:
        """Return the values of the groups that fulfil a condition, NaN for the others."""
        return np.where(condition, values, np.nan)
