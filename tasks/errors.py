"""The root of every error that this project raises.

::

    AlertProdError
      +-- CallerError        the request or its input is wrong; repeating it cannot help
      +-- TransientError     something outside failed; repeating it may help
      +-- AlgorithmError     the science code could not do it on this image
      +-- NoWork             nothing to do for this image (not a failure)

Each room derives its own classes from these in its ``errors.py``.
"""

from typing import Any

__all__ = ["AlertProdError", "AlgorithmError", "CallerError", "NoWork", "TransientError"]


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


class AlgorithmError(AlertProdError):
    """The science code could not do its work on this image."""

    code = "algorithm"


class NoWork(AlertProdError):
    """There is nothing to do for this image; the visit ends well without alerts."""

    code = "no_work"
