"""What becomes of a visit after an attempt: done, given up, tried again, or given back as if nothing had been."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apdb import Claim, VisitState
from apdb.queue.claims import Patience

__all__ = ["NOT_ITS_FAULT", "RESOURCE", "Next", "after", "runs_alone"]

# waiting for others, or ended by whoever stops the worker: none of the allowed attempts is used up
NOT_ITS_FAULT = ("waiting", "sky_busy", "worker_stopped")
# what took a process with it, or all of its memory: the next attempt has nothing beside it in this worker
RESOURCE = ("out_of_memory", "job_crashed", "worker_lost")
_SOON_S = 0.5


@dataclass(frozen=True)
class Next:
    """What the ledger is told: when to try again (seconds; None is never), the state otherwise, whether it counts."""

    retry_in_s: float | None
    state: VisitState = VisitState.FAILED
    counts: bool = True


def runs_alone(claim: Claim) -> bool:
    """Whether the attempt before ended a process or used up memory, so that others are kept from harm."""
    return claim.last_error in RESOURCE


def after(answer: Mapping[str, Any], claim: Claim, patience: Patience) -> Next:
    """Return what follows the answer of a job that did not end well."""
    state, code = answer["state"], answer.get("code")
    if code in NOT_ITS_FAULT:
        return Next(0.0 if code == "worker_stopped" else _SOON_S, counts=False)
    if state == "retry" and claim.failures + 1 < patience.attempts:
        return Next(patience.pause_s(claim.failures))
    return Next(None, VisitState.NO_WORK if state == VisitState.NO_WORK else VisitState.FAILED)
