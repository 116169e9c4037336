"""Errors of the service room."""

from tasks.errors import CallerError, TransientError

__all__ = [
    "OTHER_CODES", "BadMessage", "DuplicateVisit", "FileMissing", "Forbidden", "ForbiddenLocation",
    "IssuerUnavailable", "JobCrashed", "MissingProgram", "NightFailed", "NoPartner", "NotAllowed", "OutOfMemory",
    "OutputError", "PortInUse", "SameImage", "ScratchInUse", "SettingsError", "SkyBusy", "StorageFull",
    "StorageUnavailable", "Unauthenticated", "WaitForEarlier", "help_path",
]  # fmt: skip

OTHER_CODES = (
    "headers_too_large",
    "method_not_allowed",
    "image_late",
    "no_answer",
    "request_timeout",
    "too_large",
    "too_many_requests",
    "unsupported_media_type",
    "worker_lost",
    "worker_stopped",
)  # of HTTP answers and of the ledger: no class of their own


class SettingsError(CallerError):
    """A setting has a value that cannot be used, or one that is needed has none."""

    code = "settings"


class Unauthenticated(CallerError):
    """It is not known who is asking."""

    code = "unauthenticated"


class Forbidden(CallerError):
    """Who is asking may not do it."""

    code = "forbidden"


class IssuerUnavailable(TransientError):
    """The keys of the OpenID Connect issuer cannot be had."""

    code = "issuer_unavailable"


class FileMissing(CallerError):
    """A file or a directory that was named is not there."""

    code = "file_not_found"


class NotAllowed(CallerError):
    """The user that the program runs as may not read or write there."""

    code = "permission_denied"


class StorageFull(TransientError):
    """No room is left where something is written."""

    code = "storage_full"


class StorageUnavailable(TransientError):
    """Reading or writing a file failed for another reason."""

    code = "storage_unavailable"


class OutOfMemory(TransientError):
    """The memory, or what a job may have of it, is used up."""

    code = "out_of_memory"


class PortInUse(CallerError):
    """Another program listens on the port."""

    code = "port_in_use"


class BadMessage(CallerError):
    """The visit message breaks its schema."""

    code = "bad_message"


class QuotaExceeded(CallerError):
    """More visits than somebody may submit in a day."""

    code = "quota_exceeded"


class ForbiddenLocation(CallerError):
    """A URI that is not a file below an allowed directory."""

    code = "forbidden_location"


class JobCrashed(TransientError):
    """The job process died or ran out of its time.

    `status` is what a process ended with (minus the number of a signal), None of one that gave no answer.
    """

    code = "job_crashed"
    status: int | None = None


class WaitForEarlier(TransientError):
    """An earlier visit of the same patch is not done yet."""

    code = "waiting"


class SkyBusy(TransientError):
    """Another visit holds the patch of sky for longer than one waits."""

    code = "sky_busy"


class MissingProgram(CallerError):
    """A program that an embedded server needs is not installed."""

    code = "missing_program"


class OutputError(CallerError):
    """A file that is to be written cannot be: its name, its folder or the disk is not right."""

    code = "output"


class SameImage(CallerError):
    """The image and the template are the same."""

    code = "same_image"


class NoPartner(CallerError):
    """An image of a file has no partner in the other file."""

    code = "no_partner"


class ScratchInUse(CallerError):
    """The directory of a server belongs to another process that lives."""

    code = "directory_in_use"


class DuplicateVisit(CallerError):
    """Two frames of a night have one visit number and one detector, by the headers."""

    code = "duplicate_visit"


class NightFailed(CallerError):
    """None of the frames of a night could be processed."""

    code = "night_failed"


def help_path(code: str) -> str:
    """Return the page of the documentation that says what an error code means and what to do."""
    return f"docs/errors/{code}.md"
