"""The command line of visits: ``alertprod visits list|show``, from the database, or from the API that ``ALERTPROD_API_URL`` names."""

import json
from typing import Annotated, Any

import typer

from apdb import VisitState
from service.commands.options import Json, open_database
from service.terminal import print_table
from tasks.errors import CallerError

__all__ = ["visits_app"]

visits_app = typer.Typer(no_args_is_help=True, help="Visits that came in: their states, counts and errors.")


@visits_app.command("list")
def list_visits(
    state: Annotated[VisitState | None, typer.Option(help="of this state only")] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=100_000, help="the newest so many")] = 100,
    as_json: Json = False,
) -> None:
    """List visits, the newest first; with their error where they failed."""
    descriptions = _all(state, limit)
    if as_json:
        print(json.dumps(descriptions, default=str))
        return
    print_table(
        ("visit", "detector", "state", "MJD (TAI)", "band", "alerts", "error"), [_line(v) for v in descriptions]
    )


@visits_app.command("show")
def show_visit(
    visit: int,
    detector: Annotated[int | None, typer.Argument(help="all of the visit by default")] = None,
    as_json: Json = False,
) -> None:
    """Show what became of a visit: state, times, counts, and the error with what to do."""
    descriptions = _of_visit(visit, detector)
    if as_json:
        print(json.dumps(descriptions[0] if detector is not None else descriptions, default=str))
        return
    for description in descriptions:
        title = f"visit {description['visit']}, detector {description['detector']}"
        print_table(("what", "value"), _pairs(description), title=title)


def _all(state: VisitState | None, limit: int) -> list[dict[str, Any]]:
    from service.access.client import ask, remote_api

    if (url := remote_api()) is not None:
        rows = ask(url, "/v1/visits", state=state, limit=limit)["rows"]
        errors = ({"code": row["errorCode"], "message": ""} if row["errorCode"] else None for row in rows)
        return [{**r, "counts": {"alerts": r["nAlerts"]}, "error": e} for r, e in zip(rows, errors, strict=True)]
    from apdb import Ledger
    from service.intake.submit import describe

    return [describe(row) for row in Ledger(open_database()).rows(state=state, limit=limit)]


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
