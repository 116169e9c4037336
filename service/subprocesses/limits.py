"""What a child process that opens foreign files may use: memory, size of files, processor time for one file."""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["STUCK", "OutOfTime", "contain", "cpu_allowance_s", "cpu_limited"]

CPU_BASE_S, CPU_BYTES_PER_S = 4.0, 4e6  # xz and bzip2 give what they hold several times as fast
STUCK = signal.SIGVTALRM  # ends a process whose call into a library does not come back
LEAST_TIMER_S = 0.05
KILL_AFTER_S = 2  # where one call into a library does not come back


class OutOfTime(BaseException):
    """The processor time is used up; no handler on the way may take it for an error of its own."""


def contain(memory_bytes: int, file_bytes: int, *, with_parent: bool = True) -> None:
    """Limit this process: address space, size of a file that it writes, no core file; leave signals to whoever started it.

    Parameters
    ----------
    with_parent
        Die by SIGKILL with the thread that started this process (Linux).
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if with_parent and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def cpu_allowance_s(paths: Iterable["str | os.PathLike[str]"]) -> float:
    """Return the seconds of processor time that files may take to open: by their size on disk, so that bombs get little."""
    size = 0
    for path in paths:
        try:
            size += Path(path).stat().st_size
        except OSError:  # the one who opens it says so
            continue
    return CPU_BASE_S + size / CPU_BYTES_PER_S


@contextmanager
def cpu_limited(seconds: float) -> Iterator[None]:
    """Bound the processor time that the main thread, which must be the one, uses in the body.

    A call into a library that does not come back ends the process by `STUCK` soon after: by a timer of the processor time from
    now on, as RLIMIT_CPU counts by another clock than `getrusage` and so is seconds off in a process that has worked long.

    Raises
    ------
    OutOfTime
        It is used up.
    """
    active, begun = True, time.thread_time()

    def stop(_number: int, _frame: object) -> None:
        left = seconds - (time.thread_time() - begun)
        if active and left > 0:  # it was used by other threads
            signal.setitimer(signal.ITIMER_PROF, max(left, LEAST_TIMER_S))
        elif active:
            raise OutOfTime

    threads = os.cpu_count() or 1  # the timer counts the time of all
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, threads * seconds + KILL_AFTER_S)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        active = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, before)
