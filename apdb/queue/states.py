"""The states of a visit."""

from enum import StrEnum

__all__ = ["VisitState"]


class VisitState(StrEnum):
    """Life of a visit: queued -> running -> done | no_work | failed; a retriable failure goes back to queued."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    NO_WORK = "no_work"
    FAILED = "failed"
