"""What a process does first, so that it starts soon and image planes cost it little."""

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np

__all__ = ["collector_off", "fetched", "load_numba", "reuse_memory", "settle"]

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # of glibc's mallopt


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


@contextmanager
def fetched(size: int) -> Iterator[None]:
    """Fetch and clear `size` bytes of memory beside what is done meanwhile (a command loads its modules).

    With `reuse_memory` they are at hand afterwards: the first planes that are read need not wait for the system.
    """
    block = np.empty(max(size, 1), np.uint8)
    clearing = threading.Thread(target=ctypes.memset, args=(block.ctypes.data, 0, block.size), daemon=True)
    clearing.start()
    try:
        yield
    finally:
        clearing.join()


@contextmanager
def collector_off() -> Iterator[None]:
    """Spare a short command the cyclic collector, which looks through all that was loaded, again and again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def settle(*modules: str) -> threading.Thread:
    """Load modules beside what goes on, then spare the cyclic collector all that is there; returns the thread that does.

    For a process that answers: a look through all that it has loaded takes 0.1 to 0.2 s, in which nobody is answered.
    """

    def load() -> None:
        for name in modules:
            import_module(name)
        gc.collect()
        gc.freeze()

    thread = threading.Thread(target=load, daemon=True, name="settle")
    thread.start()
    return thread


def load_numba() -> None:
    """Load numba without its look for a BLAS: that loads scipy.linalg, for products that no compiled function of ours has."""
    modules: dict[str, object] = sys.modules  # type: ignore[assignment]
    if "scipy.linalg" not in modules:
        modules["scipy.linalg"] = None  # to import it is an error now
        try:
            import numba.np.arraymath  # noqa: F401
        finally:
            del modules["scipy.linalg"]
