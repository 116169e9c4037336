"""Errors and warnings of the Python door; what the rooms raise comes through as it is."""

from tasks.errors import CallerError

__all__ = ["InputType", "WcsUnusable"]


class InputType(CallerError, TypeError):
    """An argument of a type or shape that the function cannot use."""

    code = "input_type"


class WcsUnusable(UserWarning):
    """The header of an image has a WCS that cannot be used; the image was read without it."""
