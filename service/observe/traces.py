"""The one key by which a visit is followed from its entry to the topic: the trace id of W3C Trace Context.

A visit keeps the ``traceparent`` with which it was sent (in the message, or in the header of the request or of the Kafka
message), or gets a new one when it is entered; log lines, the state of the visit and the headers of its alerts have its id.
"""

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["current_traceparent", "new_traceparent", "trace_id", "tracing"]

# version, trace id, parent id, flags; of a later version more may follow (Trace Context, section 3.2)
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)


def new_traceparent() -> str:
    """Return the context of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def trace_id(traceparent: str | None) -> str | None:
    """Return the id of a trace, None where there is none, or none of this form."""
    match = _FORM.fullmatch(traceparent or "")
    if match is None or match[1] == "ff" or not (int(match[2], 16) and int(match[3], 16)):
        return None
    return match[2]


@contextmanager
def tracing(traceparent: str | None) -> Iterator[str]:
    """Work in a trace: the given one where it has the form, else a new one; yields its ``traceparent``."""
    chosen = traceparent if traceparent and trace_id(traceparent) else new_traceparent()
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)


def current_traceparent() -> str:
    """Return that of the work that goes on here; a new one where there is none."""
    return _current.get() or new_traceparent()
