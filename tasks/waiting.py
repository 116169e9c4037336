"""Waiting for something outside of this process."""

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(holds: Callable[[], bool], within_s: float, pause_s: float = 0.1) -> bool:
    """Ask again and again until a condition holds; returns whether it did in time.

    Parameters
    ----------
    holds
        Asked at least once, also when there is no time; what it raises ends the wait.
    within_s
        Seconds after which it is not asked again.
    pause_s
        Seconds between two questions.
    """
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
    return True
