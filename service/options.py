"""What the commands share: options, and the database of the settings."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from tasks.errors import CallerError

if TYPE_CHECKING:
    from apdb import Database
    from service.settings import Settings

__all__ = ["DryRun", "Json", "key_values", "open_database", "read_settings"]

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would be done, do nothing")]


def key_values(given: list[str]) -> dict[str, Any]:
    """Return ``name=value`` pairs as a mapping; values are read as YAML.

    Raises
    ------
    CallerError
        Something without a name or without an equals sign.
    """
    out = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise CallerError(f"expected option=value, got {text!r}")
        out[name] = yaml.safe_load(value)
    return out


def read_settings() -> "Settings":
    """Return the effective settings."""
    from service.settings import Settings  # loaded by the commands that need them

    return Settings()  # type: ignore[call-arg]


def open_database() -> "Database":
    """Return the database that the settings name."""
    from apdb import Database

    return Database(read_settings().database())
