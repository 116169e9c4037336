"""How pixel code uses the cores: all of them in a command, one in each of several job processes."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import TypeVar

__all__ = ["in_bands", "in_threads", "thread_count"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_POOLS: dict[int, ThreadPoolExecutor] = {}  # kept: to start threads takes as long as a pass over a mask
os.register_at_fork(after_in_child=_POOLS.clear)
_HERE = threading.local()


def thread_count() -> int:
    """Return ``ALERTPROD_THREADS``, or the number of cores that this process may use."""
    asked = os.environ.get("ALERTPROD_THREADS", "")
    return max(1, int(asked)) if asked.isdigit() else len(os.sched_getaffinity(0))


def in_bands(function: Callable[[int, int], object], rows: int, least: int = 64) -> None:
    """Call ``function(first, last)`` for bands of rows, in threads; `function` must release the GIL to gain from it.

    The calling thread takes the first band. Within a band there are no further ones: it is called for all rows at once.
    """
    threads = min(thread_count(), max(1, rows // least))
    if threads == 1 or getattr(_HERE, "band", False):
        function(0, rows)
        return
    edges = [rows * k // threads for k in range(threads + 1)]
    if threads not in _POOLS:
        _POOLS[threads] = ThreadPoolExecutor(threads - 1, "band")
    others = [_POOLS[threads].submit(_band, function, a, b) for a, b in pairwise(edges[1:])]
    try:
        _band(function, *edges[:2])
    finally:
        wait(others)
    for done in others:
        done.result()


def _band(function: Callable[[int, int], object], first: int, last: int) -> None:
    _HERE.band = True
    try:
        function(first, last)
    finally:
        _HERE.band = False


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the function of each item, made in threads as `in_bands` has them."""
    results: dict[int, Result] = {}

    def some(first: int, last: int) -> None:
        for k in range(first, last):
            results[k] = function(items[k])

    in_bands(some, len(items), least=1)
    return [
        results.pop(k) for k in range(len(items))
    ]  # what is found has no other owner: a kept traceback may hold `results`
