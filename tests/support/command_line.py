"""Commands of the line as people run them, several in one process: loading it takes longest."""

import os
import signal
import subprocess
import sys

__all__ = ["hear_signals", "run"]

_PROGRAM = """
import os, shlex, sys
from service.commands.main import main
for line in sys.argv[1:]:
    words = shlex.split(line)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        os.environ[name] = value
    sys.argv = ["alertprod", *words]
    try:
        main()
    except SystemExit as end:
        print(f"@@ {end.code}", file=sys.stderr, flush=True)
"""


def run(*lines: str, timeout_s: float = 120, **environment: str) -> list[tuple[str, str]]:
    """Return exit status and standard error of each line; ``NAME=VALUE`` in front stays set for the later ones."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("ALERTPROD_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PROGRAM, *lines], env={**own, "COLUMNS": "300", **environment}, capture_output=True,
        text=True, timeout=timeout_s, check=True,
    )  # fmt: skip
    parts = done.stderr.split("@@ ")
    said = [parts[0], *(p.partition("\n")[2] for p in parts[1:])]
    return [(p.partition("\n")[0], text) for p, text in zip(parts[1:], said, strict=False)]


def hear_signals():
    """Undo what a shell does to programs in the background, or nohup: signals that are ignored stay so in children."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
