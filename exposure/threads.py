"""How pixel code uses the machine: threads (all cores in a command, one in each of several job processes) and memory."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

__all__ = ["in_bands", "reuse_memory", "thread_count"]

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


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


def reuse_memory(kept_mb: int = 128) -> None:
    """Let glibc keep freed image planes for the next ones; elsewhere nothing is done.

    A plane of 64 MB otherwise goes back to the system each time, and its pages are fetched and cleared anew: a fifth of
    the time of a subtraction. At most `kept_mb` of unused memory are held at the end of the heap.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, kept_mb << 20)
