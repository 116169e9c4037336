"""Errors of the alerts room."""

from tasks.errors import CallerError, TransientError

__all__ = ["AlertError", "BrokerUnavailable"]


class AlertError(CallerError):
    """A packet or an alert file cannot be read or written."""

    code = "alert"


class BrokerUnavailable(TransientError):
    """Kafka does not answer, or refused a transaction: build a new producer and try again."""

    code = "broker_unavailable"
