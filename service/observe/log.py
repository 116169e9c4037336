"""One form of log line for every role and job process: a JSON object that says what it is about.

Every line has ``timestamp``, ``level``, ``logger``, ``event``, ``role`` and ``pid``; what is known of ``visit``, ``detector``,
``attempt``, ``trace_id``, ``principal`` and ``request_id`` stands beside it. Warnings of Python, what librdkafka says and what
ends a thread or the process come in the same form.
"""

import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars, merge_contextvars

from service.observe.traces import trace_id

__all__ = ["about", "about_visit", "hide", "json_line", "set_up_log", "text_of"]

# what records of the log may carry beside their text
FACTS = (
    "visit", "detector", "attempt", "trace_id", "principal", "request_id", "action", "target", "status", "address", "detail",
    "method", "path", "seconds", "bytes", "state", "code", "counts", "steps", "alerts", "topic", "partition", "offset", "session",
)  # fmt: skip
_HIDDEN: list[str] = []
_MASK = "********"
Event = MutableMapping[str, Any]


def hide(secrets: Iterable[str]) -> None:
    """Show none of these values in any line from now on; empty ones and those of less than four characters cannot be told."""
    wanted = {*_HIDDEN, *(s for s in secrets if len(s) >= 4)}
    _HIDDEN[:] = sorted(wanted, key=len, reverse=True)


def _hidden(_logger: Any, _name: str, event: Event) -> Event:
    for key, value in event.items():
        if isinstance(value, str):
            for secret in _HIDDEN:
                value = value.replace(secret, _MASK)
            event[key] = value
    return event


@contextmanager
def about(**facts: Any) -> Iterator[None]:
    """Let every line of the body, of this thread or task, carry what it is about; None is left out."""
    with bound_contextvars(**{k: v for k, v in facts.items() if v is not None}):
        yield


def about_visit(visit: int, detector: int, attempt: int, message: dict[str, Any]) -> Any:
    """Return `about` for an attempt at a visit."""
    return about(visit=visit, detector=detector, attempt=attempt, trace_id=trace_id(message.get("traceparent")))


def set_up_log(role: str, level: int = logging.INFO) -> None:
    """Let this process write JSON lines on standard error, whoever logs, warns or fails in it."""

    def whose(_logger: Any, _name: str, event: Event) -> Event:
        event.update(role=role, pid=os.getpid())
        return event

    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _hidden,
            structlog.processors.JSONRenderer(default=str),
        ],
        foreign_pre_chain=[
            merge_contextvars,
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(allow=FACTS),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            whose,
            structlog.processors.format_exc_info,
        ],
    )
    faulthandler.enable()  # a crash of compiled code says where
    logging.basicConfig(level=level, stream=sys.stderr, format="%(message)s")
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    for name in ("alembic", "httpx", "httpcore"):  # a line for every request that we make ourselves
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _tell_end
    threading.excepthook = _tell_thread


def _tell_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("alertprod").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _tell_thread(failed: threading.ExceptHookArgs) -> None:
    error = failed.exc_value or failed.exc_type()
    name = failed.thread.name if failed.thread else "a thread"
    logging.getLogger("alertprod").error("%s ended: %s", name, error, exc_info=error)


def json_line(text: str, logger: str, level: str = "warning", **facts: Any) -> str:
    """Return the line of a text that no logger wrote, such as what a library prints on standard error."""
    stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    event = {"event": text, **facts, "level": level, "logger": logger, "timestamp": stamp}
    return json.dumps(_hidden(None, "", event), default=str)


def text_of(line: str) -> str | None:
    """Return what a JSON line says to people, its traceback last; None when it is no line of this form."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    if not isinstance(entry, dict) or "event" not in entry:
        return None
    return "\n".join(str(entry[k]) for k in ("event", "exception") if entry.get(k))
