"""What goes wrong while alerts are read; the root of the errors of the whole project.

::

    AlertProdError
      +-- CallerError             the request or its input is wrong; repeating it cannot help
      |     +-- AlertError        a packet cannot be read
      |     +-- FilterError       a filter expression is not understood
      +-- TransientError          something outside failed; repeating it may help
            +-- BrokerUnavailable
                  +-- BrokerRefused
"""

from typing import Any

__all__ = [
    "AlertError",
    "AlertProdError",
    "BrokerRefused",
    "BrokerUnavailable",
    "CallerError",
    "FilterError",
    "TransientError",
]


class AlertProdError(Exception):
    """Base of all errors of this project.

    Parameters
    ----------
    message
        What was expected, what came, and what to do.
    visit, detector
        The image it is about, when there is one.
    """

    code: str = "internal"
    retriable: bool = False

    def __init__(self, message: str, *, visit: int | None = None, detector: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.visit = visit
        self.detector = detector

    def __str__(self) -> str:
        where = [f"{k} {v}" for k, v in (("visit", self.visit), ("detector", self.detector)) if v is not None]
        return f"{', '.join(where)}: {self.message}" if where else self.message

    def at(self, visit: int | None, detector: int | None) -> "AlertProdError":
        """Name the image the error is about, where it has a name (keeps what was set before)."""
        self.visit = visit if self.visit is None else self.visit
        self.detector = detector if self.detector is None else self.detector
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the parts that the ledger and HTTP replies carry."""
        return {"code": self.code, "message": str(self), "retriable": self.retriable}


class CallerError(AlertProdError, ValueError):
    """The request or its input is wrong; repeating it cannot help."""

    code = "bad_input"


class TransientError(AlertProdError):
    """Something outside failed; repeating it may help."""

    code = "transient"
    retriable = True


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
