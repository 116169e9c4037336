"""The root of every error that this project raises.

::

    AlertProdError
      +-- CallerError        the request or its input is wrong; repeating it cannot help
      +-- TransientError     something outside failed; repeating it may help
      +-- AlgorithmError     the science code could not do it on this image
      +-- NoWork             nothing to do for this image (not a failure)

`OfTheImage` is said of a class beside that: its cause lies in one image, and others are not concerned.

Each room derives its own classes from these in its ``errors.py``. The first three are those of the client of alerts, which
knows no room.
"""

from alertprod_client.errors import AlertProdError, CallerError, TransientError

__all__ = ["AlertProdError", "AlgorithmError", "CallerError", "NoWork", "OfTheImage", "TransientError"]


class OfTheImage:
    """An error whose cause lies in the data of one image: a run of many images goes on without it."""


class AlgorithmError(AlertProdError, OfTheImage):
    """The science code could not do its work on this image."""

    code = "algorithm"


class NoWork(AlertProdError):
    """There is nothing to do for this image; the visit ends well without alerts."""

    code = "no_work"
