"""How large the areas of set pixels are, without a label for every pixel: rows of runs, joined to those above."""

from typing import Any

import numpy as np

from tasks.arrays import Flags
from tasks.compiled import compiled

__all__ = ["largest_area"]


def largest_area(flags: Flags) -> int:
    """Return how many pixels the largest 4-connected area of set pixels has; 0 where none is set."""
    return int(_largest(flags))


@compiled
def _runs(row: Any, starts: Any, ends: Any) -> int:
    """Write where runs of set pixels start and where they end; returns how many there are."""
    n = 0
    before = False
    for x in range(row.shape[0]):
        if row[x] != before:
            if before:
                ends[n] = x
                n += 1
            else:
                starts[n] = x
            before = row[x]
    if before:
        ends[n] = row.shape[0]
        n += 1
    return n


@compiled
def _root(parents: Any, k: int) -> int:
    while parents[k] != k:
        parents[k] = parents[parents[k]]
        k = parents[k]
    return k


@compiled
def _largest(flags: Any) -> int:
    height, width = flags.shape
    most = width // 2 + 1  # runs of a row
    starts, ends, numbers = np.zeros((2, most), np.int32), np.zeros((2, most), np.int32), np.zeros((2, most), np.int64)
    parents, sizes = np.zeros(4 * most, np.int32), np.zeros(4 * most, np.int32)
    used, above, largest = 0, 0, 0
    for y in range(height):
        now, last = y % 2, 1 - y % 2
        n = _runs(flags[y], starts[now], ends[now])
        if used + n > parents.shape[0]:  # room for many rows at once: sizes double
            parents = np.concatenate((parents, np.zeros_like(parents)))
            sizes = np.concatenate((sizes, np.zeros_like(sizes)))
        first = 0
        for k in range(n):
            own = used
            used += 1
            parents[own], sizes[own] = own, ends[now, k] - starts[now, k]
            while first < above and ends[last, first] <= starts[now, k]:
                first += 1
            run = first
            while run < above and starts[last, run] < ends[now, k]:
                a, b = _root(parents, own), _root(parents, numbers[last, run])
                if a != b:
                    parents[b] = a
                    sizes[a] += sizes[b]
                run += 1
            numbers[now, k] = own
            largest = max(largest, sizes[_root(parents, own)])
        above = n
    return largest
