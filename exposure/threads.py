"""How many threads pixel code may use: all cores in a command, one in each of several job processes."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

__all__ = ["in_bands", "thread_count"]


def thread_count() -> int:
    """Return ``ALERTPROD_THREADS``, or the number of cores that this process may use."""
    asked = os.environ.get("ALERTPROD_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else len(os.sched_getaffinity(0))


def in_bands(function: Callable[[int, int], object], rows: int, least: int = 64) -> None:
    """Call ``function(first, last)`` for bands of rows, in threads; `function` must release the GIL to gain from it."""
    threads = min(thread_count(), max(1, rows // least))
    if threads == 1:
        function(0, rows)
        return
    edges = [rows * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(function, a, b) for a, b in pairwise(edges)]:
            done.result()
