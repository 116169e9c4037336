"""The command line of alerts: ``alertprod alerts held|release|drop``."""

import json

import typer
from rich.console import Console
from rich.table import Table

from service.options import Json, open_database

__all__ = ["alerts_app"]

alerts_app = typer.Typer(no_args_is_help=True, help="Alerts that are held back.")


@alerts_app.command("held")
def list_held(as_json: Json = False) -> None:
    """List visits whose alerts are held because the subtraction failed the quality gate."""
    from apdb.holds import held

    with open_database().session() as connection:
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
    from apdb.holds import release_held

    with open_database().session() as connection:
        count = release_held(connection, visit, detector)
    print(f"{count} alerts of visit {visit}, detector {detector} go to the relay")


@alerts_app.command()
def drop(visit: int, detector: int) -> None:
    """Never publish the held alerts of a visit (its sources stay)."""
    from apdb.holds import drop_held

    with open_database().session() as connection:
        count = drop_held(connection, visit, detector)
    print(f"{count} alerts of visit {visit}, detector {detector} are dropped")
