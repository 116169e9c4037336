"""The use case behind both doors, HTTP and Kafka: check a visit message and enter it into the ledger."""

import logging
from typing import Any

from apdb import Ledger
from service.errors import help_path
from service.intake.headers import ReadsHeaders
from service.intake.message import parse_message, resolve_message
from service.observe.log import about
from service.observe.traces import current_traceparent, trace_id
from service.settings import Settings

__all__ = ["describe", "submit_visit"]

log = logging.getLogger("alertprod.submit")


def submit_visit(data: Any, settings: Settings, ledger: Ledger, headers: ReadsHeaders) -> tuple[dict[str, Any], bool]:
    """Enter a visit; returns its description and whether it is new. `headers` reads those of the image where they are needed.

    Raises
    ------
    BadMessage, ForbiddenLocation, VisitConflict, VisitRunning, ReleasesExhausted, InstrumentError, FitsUnreadable,
    DatabaseUnavailable
    """
    from exposure.instrument import load_instrument  # reads times: loaded by the first message

    message = resolve_message(parse_message(data), [*settings.data_roots, settings.upload_dir], headers)
    slots = load_instrument(message.instrument).packer().n_releases
    entered = {"traceparent": current_traceparent(), **message.as_json()}
    row, new = ledger.submit(entered, *message.key, slots)
    known = trace_id(row["message"].get("traceparent"))
    with about(visit=row["visit"], detector=row["detector"], trace_id=known):
        log.info("visit %d, detector %d: %s", row["visit"], row["detector"], "entered" if new else "is known")
    return describe(row), new


def describe(row: dict[str, Any]) -> dict[str, Any]:
    """Return what a client sees of a ledger row."""
    error = None
    if row["errorCode"]:
        error = {"code": row["errorCode"], "message": row["errorText"], "help": help_path(row["errorCode"])}
    return {
        "visit": row["visit"],
        "detector": row["detector"],
        "state": row["state"],
        "attempt": row["attempt"],
        "instrument": row["instrument"],
        "band": row["band"],
        "midpointMjdTai": row["midpointMjdTai"],
        "release": row["release"],
        "traceId": trace_id(row["message"].get("traceparent")),
        "counts": row["counts"],
        "seconds": row["seconds"],
        "error": error,
        "createdAt": row["createdAt"].isoformat(),
        "updatedAt": row["updatedAt"].isoformat(),
        "finishedAt": None if row["finishedAt"] is None else row["finishedAt"].isoformat(),
    }
