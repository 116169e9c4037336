"""Statistics of groups of values: sorted once, then sums and order statistics by segments, without a loop over groups."""

import numpy as np

from tasks.arrays import F64, I64, Flags
from tasks.compiled import compiled

__all__ = ["Groups"]


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

    def __init__(self, codes: I64, count: int, **columns: F64) -> None:
        order = np.flatnonzero(np.all([np.isfinite(v) for v in columns.values()], axis=0))
        self.count = count
        self.codes = codes[order]
        self.columns = {name: v[order].astype(np.float64) for name, v in columns.items()}
        self.n = np.bincount(self.codes, minlength=count).astype(np.int64)
        self._begin = np.concatenate([[0], np.cumsum(self.n)[:-1]])

    def __getitem__(self, name: str) -> F64:
        return self.columns[name]

    def sum(self, values: F64) -> F64:
        """Return the sum of each group, shape (groups,); 0 for an empty one."""
        return np.asarray(np.bincount(self.codes, weights=values, minlength=self.count), np.float64)

    def mean(self, values: F64) -> F64:
        """Return the mean of each group, shape (groups,); NaN for an empty one."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.sum(values) / self.n

    def per_row(self, per_group: F64) -> F64:
        """Return the value of each row's group, shape (rows,), of values of shape (groups,)."""
        return per_group[self.codes]

    def quantiles(self, values: F64, *fractions: float) -> F64:
        """Return quantiles of each group, shape (fractions, groups), linear between the two neighbouring values."""
        out: F64 = _quantiles(self._begin, self.n, values, np.array(fractions))
        return out

    def where(self, condition: Flags, values: F64) -> F64:
        """Return the values (groups,) of the groups that fulfil a condition, NaN for the others."""
        return np.where(condition, values, np.nan)


@compiled
def _quantiles(begin: I64, n: I64, values: F64, fractions: F64) -> F64:
    out = np.full((fractions.size, n.size), np.nan)
    for k in range(n.size):
        if n[k] == 0:
            continue
        ranked = np.sort(values[begin[k] : begin[k] + n[k]])
        for q in range(fractions.size):
            position = (n[k] - 1) * fractions[q]
            low = int(position)
            high = min(low + 1, n[k] - 1)
            out[q, k] = ranked[low] + (ranked[high] - ranked[low]) * (position - low)
    return out
