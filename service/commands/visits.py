"""The command line of visits: ``alertprod visits submit|list|show|retry|cancel|withdraw``, by the database or an API.

The API is the one that ``ALERTPROD_API_URL`` names.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from apdb import VisitState
from service.commands.options import Detector, Json, Visit, open_database, operator, read_settings
from service.errors import BadMessage, FileMissing
from service.terminal import print_table
from tasks.errors import CallerError

__all__ = ["visits_app"]

MOST = 1_000  # messages of one request
visits_app = typer.Typer(no_args_is_help=True, help="Visits that came in: their states, counts and errors.")


@visits_app.command("list")
def list_visits(
    state: Annotated[VisitState | None, typer.Option(help="of this state only")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=100_000, help="the newest so many")] = 100,
    visit: Annotated[int | None, typer.Option(help="of this visit only")] = None,
    error: Annotated[str | None, typer.Option(help="with this code of an error only")] = None,
    night: Annotated[int | None, typer.Option(help="of this night only (integer part of MJD - 0.5)")] = None,
    as_json: Json = False,
) -> None:
    """List visits, the newest first; with their error where they failed."""
    descriptions = _all(limit, state=state, visit=visit, error=error, night=night)
    if as_json:
        print(json.dumps(descriptions, default=str))
        return
    print_table(
        ("visit", "detector", "state", "MJD (TAI)", "band", "alerts", "error"), [_line(v) for v in descriptions]
    )


@visits_app.command("show")
def show_visit(
    visit: Visit,
    detector: Annotated[int | None, typer.Argument(help="all of the visit by default")] = None,
    as_json: Json = False,
) -> None:
    """Show what became of a visit: state, times, counts, and the error with what to do.

    An API (ALERTPROD_API_URL) is asked for one detector; the database shows all of the visit. A visit that never came: status 1 (not_found).
    """
    descriptions = _of_visit(visit, detector)
    if as_json:
        print(json.dumps(descriptions[0] if detector is not None else descriptions, default=str))
        return
    for description in descriptions:
        title = f"visit {description['visit']}, detector {description['detector']}"
        print_table(("what", "value"), _pairs(description), title=title)


@visits_app.command("withdraw")
def withdraw(
    visit: Visit,
    detector: Detector,
    reason: Annotated[str, typer.Option(help="why: kept in the audit, and told to the readers of alerts")],
    as_json: Json = False,
) -> None:
    """Take back what a visit stored: its objects are made anew without it, and readers of its alerts are told.

    It asks the database, never an API. A visit that is being processed is refused (visit_running).
    """
    from astropy.time import Time

    from apdb.visit.withdraw import withdraw_visit

    rows = withdraw_visit(open_database(), visit, detector, float(Time.now().tai.mjd), reason)
    if as_json:
        print(json.dumps({"visit": visit, "detector": detector, "rows": rows}))
        return
    print(f"{rows} rows of visit {visit}, detector {detector} are withdrawn")


@visits_app.command("submit")
def submit(
    file: Annotated[
        Path, typer.Argument(help="messages: a JSON object, a list, or one object a line; - is standard input")
    ],
    key: Annotated[
        str | None, typer.Option(help="Idempotency-Key: the same again, after a doubt, gets the same answer")
    ] = None,
    as_json: Json = False,
) -> None:
    """Enter visits; what cannot be entered does the others no harm, and is named (exit status 1)."""
    results: list[dict[str, Any]] = []
    messages = _messages(file)
    for first in range(0, len(messages), MOST):
        part = None if key is None else f"{key}{f'.{first // MOST}' if first else ''}"
        results += _submitted(messages[first : first + MOST], part)["results"]
    if as_json:
        print(json.dumps(results))
    else:
        rows = [
            (r.get("visit", "-"), r.get("detector", "-"), r.get("state", "refused"), _new_or_error(r)) for r in results
        ]
        print_table(("visit", "detector", "state", ""), rows)
    raise typer.Exit(1 if any("error" in r for r in results) else 0)


@visits_app.command("cancel")
def cancel(visit: Visit, detector: Detector, as_json: Json = False) -> None:
    """Cancel a visit that has not ended, also one that is being processed; what was stored before stays."""
    _change("cancel", visit, detector, as_json)


@visits_app.command("retry")
def retry(visit: Visit, detector: Detector, as_json: Json = False) -> None:
    """Queue a visit again that failed, had no work or was cancelled; one that pauses between attempts goes on at once."""
    _change("retry", visit, detector, as_json)


@visits_app.command("announce", context_settings={"ignore_unknown_options": True})  # declinations may be negative
def announce_next(
    ra: Annotated[float, typer.Argument(help="centre, ICRS degrees")],
    dec: Annotated[float, typer.Argument(help="centre, ICRS degrees")],
    radius: Annotated[float, typer.Option(help="degrees, of the circle that the image lies in")],
    band: Annotated[str, typer.Option(help="one of u g r i z y")],
    templates: Annotated[str | None, typer.Option(help="template set")] = None,
    seconds: Annotated[float, typer.Option(help="after which it is of no use")] = 900.0,
) -> None:
    """Say where the telescope will look: workers without a visit read templates and history of that place beforehand."""
    from service.access.client import remote_api, tell
    from service.intake.announcement import parse_announcement

    given = {"ra": ra, "dec": dec, "radiusDeg": radius, "band": band, "templates": templates, "expiresS": seconds}
    announcement = parse_announcement(given)
    content = announcement.model_dump(mode="json", exclude_none=True)
    if (url := remote_api()) is not None:
        number = tell(url, "/v1/next-visits", content)["id"]
    else:
        from apdb.announcements import announce

        seconds = content.pop("expiresS")
        with open_database().session() as connection:
            number = announce(connection, content, seconds)["id"]
    print(f"next visit {number} is announced")


def _change(what: str, visit: int, detector: int, as_json: bool) -> None:
    from service.access.client import remote_api, tell

    if (url := remote_api()) is not None:
        description = tell(url, f"/v1/visits/{visit}/{detector}/{what}")
    else:
        from apdb.queue.changes import cancel_visit, retry_visit
        from service.intake.submit import describe

        change = {"cancel": cancel_visit, "retry": retry_visit}[what]
        description = describe(change(open_database(), visit, detector))
    if as_json:
        print(json.dumps(description))
        return
    print(f"visit {visit}, detector {detector}: {description['state']}")


def _messages(file: Path) -> list[Any]:
    """Return the messages of a file."""
    from service.intake.message import decode_message

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise FileMissing(f"{file}: cannot be read: {error.strerror}") from error
    try:
        whole = decode_message(data)
    except BadMessage:
        return [decode_message(line) for line in data.splitlines() if line.strip()]
    return whole if isinstance(whole, list) else [whole]


def _submitted(messages: list[Any], key: str | None) -> dict[str, Any]:
    from service.access.client import remote_api, tell

    if (url := remote_api()) is not None:
        headers = {} if key is None else {"Idempotency_Key": key}
        return dict(tell(url, "/v1/visits/batch", {"visits": messages}, **headers))
    from apdb.queue.keys import RequestKey
    from service.intake.headers import HeaderReader
    from service.intake.submit import Submission, content_digest

    settings = read_settings()
    named = None if key is None else RequestKey(operator(), key, content_digest("command", messages))
    headers_of = HeaderReader(settings, 1)
    try:
        (_, answer), _ = Submission(settings, headers_of, open_database(), named).many(messages)
    finally:
        headers_of.close()
    return dict(answer)


def _new_or_error(result: dict[str, Any]) -> str:
    error = result.get("error")
    return f"{error['code']}: {error['message']}" if error else ("" if result["new"] else "came before")


def _all(limit: int, **which: Any) -> list[dict[str, Any]]:
    from service.access.client import ask, remote_api

    if (url := remote_api()) is not None:
        rows = ask(url, "/v1/visits", order="newest", limit=limit, **which)["rows"]
        errors = ({"code": row["errorCode"], "message": ""} if row["errorCode"] else None for row in rows)
        return [{**r, "counts": {"alerts": r["nAlerts"]}, "error": e} for r, e in zip(rows, errors, strict=True)]
    from apdb import Ledger
    from service.intake.submit import describe

    return [describe(row) for row in Ledger(open_database()).rows(limit=limit, **which)]


def _of_visit(visit: int, detector: int | None) -> list[dict[str, Any]]:
    from apdb.errors import NotFound
    from service.access.client import ask, remote_api

    if (url := remote_api()) is not None:
        if detector is None:
            raise CallerError("an API is asked for one detector: 'alertprod visits show VISIT DETECTOR'")
        return [ask(url, f"/v1/visits/{visit}/{detector}")]
    from apdb import Ledger
    from service.intake.submit import describe

    rows = Ledger(open_database()).rows(visit=visit, detector=detector, limit=100_000)
    if not rows:
        raise NotFound("it never came: 'alertprod visits list' shows those that did", visit=visit, detector=detector)
    return [describe(row) for row in rows]


def _line(visit: dict[str, Any]) -> tuple[object, ...]:
    error = visit["error"]
    return (
        visit["visit"],
        visit["detector"],
        visit["state"],
        _number(visit["midpointMjdTai"], 5),
        visit["band"] or "-",
        (visit["counts"] or {}).get("alerts", "-"),
        f"{error['code']}: {error['message']}" if error else "",
    )


def _pairs(visit: dict[str, Any]) -> list[tuple[str, object]]:
    error, nested = visit["error"], ("counts", "seconds", "error", "visit", "detector")
    out: list[tuple[str, object]] = [(k, "-" if v is None else v) for k, v in visit.items() if k not in nested]
    out += [(k, v) for k, v in (visit["counts"] or {}).items()]
    out += [(f"seconds, {k}", _number(v, 2)) for k, v in (visit["seconds"] or {}).items()]
    if error:
        out += [("error", error["code"]), ("", error["message"]), ("what to do", error["help"])]
    return out


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
