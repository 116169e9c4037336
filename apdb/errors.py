"""Errors of the database room."""

from tasks.errors import CallerError, TransientError

__all__ = [
    "ApdbError",
    "BadQuery",
    "Busy",
    "DatabaseUnavailable",
    "IdLayoutConflict",
    "InconsistentSchemaError",
    "LeaseLost",
    "NotFound",
    "SchemaMismatch",
    "VisitConflict",
]


class ApdbError(CallerError):
    """The request does not fit the database."""

    code = "apdb"


class BadQuery(ApdbError):
    """A question that the database cannot be asked."""

    code = "bad_query"


class NotFound(ApdbError):
    """What was asked for is not there."""

    code = "not_found"


class VisitConflict(ApdbError):
    """The same (visit, detector) came before with another message."""

    code = "visit_conflict"


class SchemaMismatch(ApdbError):
    """The database has another schema version than this program."""

    code = "schema_version"


class InconsistentSchemaError(SchemaMismatch):
    """Tables or columns that belong to the schema are not there, or are others."""

    code = "schema_inconsistent"


class IdLayoutConflict(ApdbError):
    """The ids of an instrument could meet those that the database has."""

    code = "id_layout"


class DatabaseUnavailable(TransientError):
    """The database does not answer, or asked to try again."""

    code = "database_unavailable"


class Busy(TransientError):
    """Too many questions at once."""

    code = "busy"


class LeaseLost(TransientError):
    """Another attempt at this visit has taken over: this one must not write."""

    code = "lease_lost"
