"""Errors of the service room."""

from tasks.errors import CallerError, TransientError

__all__ = [
    "BadMessage",
    "ForbiddenLocation",
    "JobCrashed",
    "MissingProgram",
    "OutputError",
    "SameImage",
    "WaitForEarlier",
]


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


class OutputError(CallerError):
    """A file that is to be written cannot be: its name, its folder or the disk is not right."""

    code = "output"


class SameImage(CallerError):
    """The image and the template are the same."""

    code = "same_image"
