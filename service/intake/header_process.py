"""The child process that reads headers of foreign files: one question on standard input, one answer, each a line of JSON."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from service.observe.log import hide, set_up_log
from service.settings import Settings
from service.subprocesses.limits import OutOfTime, contain, cpu_allowance_s, cpu_limited
from tasks.errors import AlertProdError

__all__ = ["main"]

log = logging.getLogger("alertprod.headers")


def _answer(path: Path, instrument: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what the headers say; whatever happens is a typed error that names the file."""
    from exposure.errors import FitsUnreadable
    from service.intake.headers import read_facts

    allowed = cpu_allowance_s([path])
    try:
        with cpu_limited(allowed):
            return read_facts(path, instrument, facts)
    except AlertProdError as error:
        return {"error": error.as_dict()}
    except OutOfTime:
        said = FitsUnreadable(f"{path.name}: its header takes more than {allowed:.0f} s of processor time: refused")
    except MemoryError:
        said = FitsUnreadable(f"{path.name}: its header needs more memory than it may (ALERTPROD_HEADER_MEMORY_GB)")
    except Exception as error:  # what libraries raise on broken files is their own affair
        log.exception("%s", path)
        said = FitsUnreadable(f"{path.name} cannot be used: {type(error).__name__}: {str(error)[:300]}")
    return {"error": said.as_dict()}


def main() -> None:
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w")  # whatever prints to stdout by mistake must not break the protocol
    os.dup2(2, 1)
    settings = Settings()
    set_up_log("headers", logging.WARNING)
    hide(settings.secrets())
    import exposure.instrument
    import exposure.io.plain  # noqa: F401 (loaded before the first question: what follows is the file's own time)

    # it ends with its standard input; the thread that started it may end before
    contain(int(settings.header_memory_gb * (1 << 30)), 0, with_parent=False)
    print(json.dumps({"ready": os.getpid()}), file=out, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = _answer(Path(question["path"]), question["instrument"], question["facts"])
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
