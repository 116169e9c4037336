"""The states of a visit in the ledger."""

from enum import StrEnum

__all__ = ["FINAL_STATES", "VisitState"]


class VisitState(StrEnum):
    """Life of a visit: (waiting ->) queued -> running -> done | no_work | failed; a retriable failure goes back to queued.

    One whose image is late waits for it; one that is not wanted any more is cancelled. One that is taken back for good is
    withdrawn; with a replacement, which is queued again, its rows leave when that is stored.

    The members are strings: SQL parameters and JSON hold their values.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    NO_WORK = "no_work"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WITHDRAWN = "withdrawn"


FINAL_STATES = (VisitState.DONE, VisitState.NO_WORK, VisitState.FAILED, VisitState.CANCELLED, VisitState.WITHDRAWN)
