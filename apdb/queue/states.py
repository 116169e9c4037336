"""The states of a visit in the ledger."""

from enum import StrEnum

__all__ = ["FINAL_STATES", "VisitState"]


class VisitState(StrEnum):
    """Life of a visit: queued -> running -> done | no_work | failed; a retriable failure goes back to queued.

    The members are strings: SQL parameters and JSON hold their values.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    NO_WORK = "no_work"
    FAILED = "failed"


FINAL_STATES = (VisitState.DONE, VisitState.NO_WORK, VisitState.FAILED)
