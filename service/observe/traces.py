"""The one key by which a visit is followed from its entry to the topic: the trace id of W3C Trace Context.

A visit keeps the ``traceparent`` with which it was sent (in the message, or in the header of the request or of the Kafka
message), or gets a new one when it is entered; log lines, the state of the visit and the headers of its alerts have its id.
"""

import os
import random
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["current_traceparent", "name_request", "new_traceparent", "trace_id", "tracing"]

# version, trace id, parent id, flags; of a later version more may follow (Trace Context, section 3.2)
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_current: ContextVar[str | None] = ContextVar("traceparent", default=None)
_random = (
    random.Random()
)  # names are no secrets: to ask the system for each lets go of the interpreter, and waits for it
os.register_at_fork(after_in_child=_random.seed)


def _new_id(digits: int = 32) -> str:
    """Return a name that nothing else has, of so many hexadecimal digits."""
    return f"{_random.getrandbits(4 * digits):0{digits}x}"


def name_request(scope: MutableMapping[str, Any]) -> str:
    """Return the name of a request, which it is given where it has none."""
    state: dict[str, Any] = scope.setdefault("state", {})
    if "request_id" not in state:
        state["request_id"] = _new_id()
    return str(state["request_id"])


def new_traceparent() -> str:
    """Return the context of a new trace."""
    return f"00-{_new_id()}-{_new_id(16)}-01"


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
