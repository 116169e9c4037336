"""Errors of this room."""

from tasks.errors import CallerError

__all__ = ["RepositoryError"]


class RepositoryError(CallerError):
    """A Butler's repository cannot be made, opened or filled as asked."""

    code = "repository"
