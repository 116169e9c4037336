"""Why a visit message cannot be entered: its own fault, or that of something outside that may pass."""

import psycopg

from apdb.database import first_line
from service.errors import BadMessage, OutOfMemory
from service.failures import typed
from tasks.errors import AlertProdError, TransientError

__all__ = ["reason_of"]


def reason_of(error: BaseException) -> AlertProdError:
    """Return why a message becomes a dead letter: what is wrong with it itself.

    Raises
    ------
    TransientError
        It may be another's fault: try again.
    """
    if isinstance(error, TransientError):
        raise error
    if isinstance(error, psycopg.DataError):
        return BadMessage(f"the database cannot hold it: {first_line(error)}")
    if isinstance(error, UnicodeError):
        return BadMessage(f"it holds text that is none: {error.reason if hasattr(error, 'reason') else error}")
    if isinstance(error, MemoryError):
        raise OutOfMemory("the memory of the ingest is used up") from error
    reason = typed(error)
    if isinstance(error, psycopg.Error | OSError):
        raise TransientError(f"{reason.code}: {reason}") from error
    return reason
