"""Errors of the service room."""

from tasks.errors import CallerError, TransientError

__all__ = [
    "BadMessage", "DuplicateVisit", "ForbiddenLocation", "JobCrashed", "MissingProgram", "NightFailed",
    "ScratchInUse", "WaitForEarlier",
]  # fmt: skip


class BadMessage(CallerError):
    """The visit message breaks its schema."""

    code = "bad_message"


class ForbiddenLocation(CallerError):
    """A URI that is not a file below an allowed directory."""

    code = "forbidden_location"


class JobCrashed(TransientError):
    """The job process died or ran out of its time."""

    code = "job_crashed"


class WaitForEarlier(TransientError):
    """An earlier visit of the same patch is not done yet."""

    code = "waiting"


class MissingProgram(CallerError):
    """A program that an embedded server needs is not installed."""

    code = "missing_program"


class ScratchInUse(CallerError):
    """The directory of a server belongs to another process that lives."""

    code = "directory_in_use"


class DuplicateVisit(CallerError):
    """Two frames of a night have one visit number and one detector, by the headers."""

    code = "duplicate_visit"


class NightFailed(CallerError):
    """None of the frames of a night could be processed."""

    code = "night_failed"
