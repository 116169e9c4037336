"""Errors of the alerts room; those of reading are the client's."""

from alertprod_client.errors import AlertError, BrokerRefused, BrokerUnavailable, FilterError
from tasks.errors import CallerError, TransientError

__all__ = [
    "AlertError",
    "ArchiveFull",
    "ArchiveUnavailable",
    "BrokerRefused",
    "BrokerUnavailable",
    "FilterError",
    "ProgressConflict",
    "RegistryUnavailable",
    "SchemaRefused",
]


class ArchiveUnavailable(TransientError):
    """The storage of the alert files does not answer, or refuses: what is written or read there waits."""

    code = "storage_unavailable"


class ArchiveFull(ArchiveUnavailable):
    """No room is left where alert files are written."""

    code = "storage_full"


class ProgressConflict(CallerError):
    """The progress in Kafka is that of another database: publishing by it would leave alerts out."""

    code = "progress_conflict"


class SchemaRefused(CallerError):
    """The schema registry finds the alert schema incompatible: nothing may be published."""

    code = "schema_refused"


class RegistryUnavailable(TransientError):
    """The schema registry does not answer, and the id of the schema was never learned."""

    code = "registry_unavailable"
