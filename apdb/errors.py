"""Errors of the database room."""

from tasks.errors import CallerError, TransientError

__all__ = [
    "ApdbError",
    "BadQuery",
    "Busy",
    "DatabaseUnavailable",
    "IdLayoutConflict",
    "InconsistentSchemaError",
    "KeyReused",
    "LeaseLost",
    "NotFound",
    "ReleasesExhausted",
    "SchemaMismatch",
    "VisitConflict",
    "VisitEnded",
    "VisitRunning",
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


class VisitRunning(VisitConflict):
    """The visit is being processed: it can be replaced or withdrawn when it has ended."""

    code = "visit_running"


class VisitEnded(VisitConflict):
    """The visit has ended: what was asked for is for those that have not, or ended in another way."""

    code = "visit_ended"


class KeyReused(ApdbError):
    """An Idempotency-Key came before with another content."""

    code = "key_reused"


class ReleasesExhausted(ApdbError):
    """Every release slot of a visit is used up: there are no ids for another replacement."""

    code = "releases_exhausted"


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
