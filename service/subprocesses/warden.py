"""The warden of a scratch directory: it waits for the end of whoever started it, however that comes, and clears up.

Until then it has loaded nothing but the standard library, and sleeps.
"""

import signal
import sys
from contextlib import suppress
from pathlib import Path

__all__ = ["main"]

WAIT_S = 10.0


def main() -> None:
    """Wait for the end of standard input: the system closes it when the owner is gone, also when it was killed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when its owner does, and not before
    scratch = Path(sys.argv[1])
    with suppress(OSError):
        while sys.stdin.buffer.read(1):
            pass
    if (scratch / "owner").exists():
        from service.subprocesses.scratch import clear

        clear(scratch, WAIT_S)


if __name__ == "__main__":
    main()
