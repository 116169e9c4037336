"""Errors of the Python door; what the rooms raise comes through as it is."""

from tasks.errors import CallerError

__all__ = ["InputType"]


class InputType(CallerError, TypeError):
    """An argument of a type or shape that the function cannot use."""

    code = "input_type"
