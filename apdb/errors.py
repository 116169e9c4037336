"""Errors of the database room."""

from tasks.errors import CallerError, TransientError

__all__ = ["ApdbError", "DatabaseUnavailable", "LeaseLost", "SchemaMismatch", "VisitConflict"]


class ApdbError(CallerError):
    """The request does not fit the database."""

    code = "apdb"


class VisitConflict(ApdbError):
    """The same (visit, detector) came before with another message."""

    code = "visit_conflict"


class SchemaMismatch(ApdbError):
    """The database has another schema version than this program."""

    code = "schema_version"


class DatabaseUnavailable(TransientError):
    """The database does not answer, or asked to try again."""

    code = "database_unavailable"


class LeaseLost(TransientError):
    """Another attempt at this visit has taken over: this one must not write."""

    code = "lease_lost"
