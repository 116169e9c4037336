"""The root of every error that this project raises.

::

    AlertProdError
      +-- CallerError        the request or its input is wrong; repeating it cannot help
      +-- TransientError     something outside failed; repeating it may help
      +-- AlgorithmError     the science code could not do it on this image
      +-- NoWork             nothing to do for this image (not a failure)

Each room derives its own classes from these in its ``errors.py``. The first three are those of the client of alerts, which
knows no room.
"""

from alertprod_client.errors import AlertProdError, CallerError, TransientError

__all__ = ["AlertProdError", "AlgorithmError", "CallerError", "NoWork", "TransientError"]


class AlgorithmError(AlertProdError):
    """The science code could not do its work on this image."""

    code = "algorithm"


class NoWork(AlertProdError):
    """There is nothing to do for this image; the visit ends well without alerts."""

    code = "no_work"
