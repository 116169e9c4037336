"""Errors of the association room."""

from tasks.errors import AlgorithmError, CallerError, OfTheImage

__all__ = ["AssociationError", "DuplicateRecords", "TimeRefused", "TooManyDiaObjects"]


class AssociationError(CallerError):
    """The input of association is wrong."""

    code = "association"


class TimeRefused(AssociationError, OfTheImage):
    """The time of an exposure lies in the future, or in a past that the survey cannot have."""

    code = "time_refused"


class DuplicateRecords(AlgorithmError):
    """An id occurs twice: the visit is in the database already, or the input is broken."""

    code = "duplicate_records"


class TooManyDiaObjects(AlgorithmError):
    """So many new objects that the subtraction must have failed."""

    code = "too_many_objects"
