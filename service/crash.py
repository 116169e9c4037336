"""Named crash points for fault tests: the process kills itself with SIGKILL there when the setting names one."""

import os
import signal

__all__ = ["crash_at"]


def crash_at(name: str, chosen: str) -> None:
    """Die here if `chosen` names this point (``ALERTPROD_CRASH_POINT``)."""
    if chosen and chosen == name:
        os.kill(os.getpid(), signal.SIGKILL)
