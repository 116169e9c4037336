"""A job process: reads claims (and announcements, to prepare) from standard input, a JSON line each, and answers so.

Only here is pixel code run. The process is started by the supervisor, dies with it, and has limits of memory and file size.
"""

import json
import logging
import os
import sys
from typing import Any

from lsst.pipe.base import NoWorkFound

from apdb import Claim, VisitState
from service.observe.log import about_visit, hide, set_up_log
from service.settings import Settings
from service.subprocesses.limits import contain
from tasks.errors import AlertProdError, NoWork

__all__ = ["main"]

_GIB = 1 << 30


def _answer(claim: Claim, run: Any) -> dict[str, Any]:
    """Run one claim and turn whatever happens into an answer."""
    try:
        return dict(run(claim))
    except (NoWork, NoWorkFound) as error:
        return {"state": VisitState.NO_WORK, "code": getattr(error, "code", "no_work"), "text": str(error)}
    except AlertProdError as error:
        error.at(claim.visit, claim.detector)
        state = "retry" if error.retriable else VisitState.FAILED
        return {"state": state, "code": error.code, "text": str(error)}
    except MemoryError:
        return {
            "state": "retry",
            "code": "out_of_memory",
            "text": f"visit {claim.visit}, detector {claim.detector}: out of memory",
        }
    except Exception as error:
        logging.getLogger("alertprod.job").exception("visit %d, detector %d", claim.visit, claim.detector)
        text = f"visit {claim.visit}, detector {claim.detector}: {type(error).__name__}: {error}"
        return {"state": VisitState.FAILED, "code": "internal", "text": text}


def _prepared(announcement: dict[str, Any], processor: Any) -> dict[str, Any]:
    """Read what an announced visit will need; that it cannot be is no failure of anything."""
    try:
        return dict(processor.prepare(announcement))
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}"}


def _processor(settings: Settings) -> Any:
    from service.processing.visit import Processor
    from service.startup import reuse_memory

    reuse_memory()
    return Processor(settings)


def main() -> None:
    """Serve claims until standard input ends."""
    out = os.fdopen(os.dup(1), "w")  # whatever prints to stdout by mistake must not break the protocol
    os.dup2(2, 1)
    settings = Settings()
    set_up_log("job", logging.WARNING)
    hide(settings.secrets())
    contain(int(settings.job_memory_gb * _GIB), int(settings.job_file_gb * _GIB))
    try:
        processor = _processor(settings)
    except AlertProdError as error:
        print(json.dumps({"start": error.as_dict()}), file=out, flush=True)
        sys.exit(1)
    print(json.dumps({"ready": os.getpid()}), file=out, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "prepare" in asked:
            answer = _prepared(asked["prepare"], processor)
        else:
            claim = Claim(**asked)
            with about_visit(claim.visit, claim.detector, claim.attempt, claim.message):
                answer = _answer(claim, processor.run)
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
