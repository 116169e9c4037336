"""A job process without pixels for fault tests: the ``science`` of a claim says what happens to it.

``done`` commits as a real one does: session noted, sky locked, ledger and outbox in one transaction. ``sleep:S`` does so after
a while. ``kill`` and ``segv`` end this process, ``parent`` its supervisor too, ``hang`` stops both, at the first
attempt, while the sky is locked and the transaction open; ``memory`` and ``wait`` answer as a job does that is out of memory, or waits for another.
"""

import json
import os
import signal
import sys
import time

from apdb import Claim, Database, VisitState
from apdb.queue.claims import note_session
from apdb.queue.ledger import Outcome, finish
from apdb.queue.outbox import OutboxEntry, add
from apdb.sky.locks import sky_locks
from service.settings import Settings
from service.subprocesses.limits import contain

__all__ = ["PIXELS", "main"]

PIXELS = [600_000]  # the patch of every visit: all of them follow each other


def _commit(database: Database, claim: Claim, hang: bool) -> None:
    with database.connect() as connection:
        note_session(connection, claim.visit, claim.detector, claim.attempt)
        with sky_locks(connection, PIXELS), connection.transaction():
            finish(connection, claim.visit, claim.detector, claim.attempt, Outcome(VisitState.DONE, {"alerts": 1}, {}))
            add(connection, OutboxEntry(claim.visit, claim.detector, claim.attempt, f"{claim.visit}.avro", 1, "c"))
            if hang:
                os.kill(os.getppid(), signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGSTOP)


def _run(database: Database, claim: Claim) -> dict[str, str]:
    what, _, seconds = claim.message["science"].partition(":")
    time.sleep(float(seconds or 0))
    if what in ("kill", "segv", "parent"):
        if what == "parent":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGSEGV if what == "segv" else signal.SIGKILL)
    if what in ("memory", "wait"):
        return {"state": "retry", "code": {"memory": "out_of_memory", "wait": "sky_busy"}[what], "text": what}
    _commit(database, claim, hang=what == "hang" and claim.attempt == 1)
    return {"state": str(VisitState.DONE)}


def main() -> None:
    """Serve claims until standard input ends."""
    settings = Settings()
    contain(8 << 30, 1 << 30)
    database = Database(settings.database())
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({} if "prepare" in asked else _run(database, Claim(**asked))), flush=True)


if __name__ == "__main__":
    main()
