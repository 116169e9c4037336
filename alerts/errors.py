"""Errors of the alerts room."""

from tasks.errors import CallerError, TransientError

__all__ = [
    "AlertError",
    "BrokerRefused",
    "BrokerUnavailable",
    "FilterError",
    "ProgressConflict",
    "RegistryUnavailable",
    "SchemaRefused",
]


class AlertError(CallerError):
    """A packet or an alert file cannot be read or written."""

    code = "alert"


class FilterError(CallerError):
    """A filter expression is not understood."""

    code = "alert_filter"


class BrokerUnavailable(TransientError):
    """Kafka does not answer, or refused a transaction: build a new producer and try again."""

    code = "broker_unavailable"


class BrokerRefused(BrokerUnavailable):
    """Kafka answers and refuses: wrong password, certificate or access rights. Tried again after an operator acted."""

    code = "broker_refused"


class ProgressConflict(CallerError):
    """The progress in Kafka is that of another database: publishing by it would leave alerts out."""

    code = "progress_conflict"


class SchemaRefused(CallerError):
    """The schema registry finds the alert schema incompatible: nothing may be published."""

    code = "schema_refused"


class RegistryUnavailable(TransientError):
    """The schema registry does not answer, and the id of the schema was never learned."""

    code = "registry_unavailable"
