"""The command line of alerts: ``alertprod alerts held|release|drop``."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.settings import Settings

__all__ = ["alerts_app"]

alerts_app = typer.Typer(no_args_is_help=True, help="Alerts that are held back.")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


@alerts_app.command("held")
def list_held(as_json: Json = False) -> None:
    """List visits whose alerts are held because the subtraction failed the quality gate."""
    from apdb import Database
    from apdb.holds import held

    with Database(Settings().database()).session() as connection:  # type: ignore[call-arg]
        rows = held(connection)
    if as_json:
        print(json.dumps(rows, default=str))
        return
    table = Table("visit", "detector", "attempt", "alerts", "why", "since", title="held")
    for row in rows:
        table.add_row(*(str(v) for v in row.values()))
    Console().print(table)


@alerts_app.command()
def release(visit: int, detector: int) -> None:
    """Publish the held alerts of a visit after all."""
    from apdb import Database
    from apdb.holds import release_held

    with Database(Settings().database()).session() as connection:  # type: ignore[call-arg]
        count = release_held(connection, visit, detector)
    print(f"{count} alerts of visit {visit}, detector {detector} go to the relay")


@alerts_app.command()
def drop(visit: int, detector: int) -> None:
    """Never publish the held alerts of a visit (its sources stay)."""
    from apdb import Database
    from apdb.holds import drop_held

    with Database(Settings().database()).session() as connection:  # type: ignore[call-arg]
        count = drop_held(connection, visit, detector)
    print(f"{count} alerts of visit {visit}, detector {detector} are dropped")
