"""What the commands share: options, and the database of the settings."""

from typing import TYPE_CHECKING, Annotated

import typer

from service.settings import Settings

if TYPE_CHECKING:
    from apdb import Database

__all__ = ["DryRun", "Json", "open_database"]

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, do nothing")]


def open_database() -> "Database":
    """Return the database that the settings name."""
    from apdb import Database

    return Database(Settings().database())  # type: ignore[call-arg]
