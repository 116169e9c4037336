"""What the commands share: options, and the database of the settings."""

import getpass
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from service.terminal import say
from tasks.errors import CallerError

if TYPE_CHECKING:
    from apdb import Database
    from service.settings import Settings

__all__ = [
    "BadPixelMap",
    "Detector",
    "DryRun",
    "Json",
    "Visit",
    "key_values",
    "open_database",
    "operator",
    "read_settings",
]

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
BadPixelMap = Annotated[
    Path | None,
    typer.Option(
        "--bad-pixels", metavar="MAP", help="FITS map, or list of regions (.yaml), instead of the instrument file's"
    ),
]
Visit = Annotated[int, typer.Argument(help="visit number")]
Detector = Annotated[int, typer.Argument(help="detector number")]
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


def operator() -> str:
    """Return who runs the command, for the record."""
    try:
        return f"command:{getpass.getuser()}"
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"command:{os.getuid()}"


def read_settings() -> "Settings":
    """Return the effective settings; names that nothing reads are reported on standard error, once.

    Raises
    ------
    SettingsError
        A value that cannot be used.
    """
    from service.settings import load_settings  # loaded by the commands that need them

    _warn_of_names()
    return load_settings()


@lru_cache(maxsize=1)
def _warn_of_names() -> None:
    from service.settings import unknown_names

    for name, nearest in unknown_names(os.environ):
        advice = "'alertprod config' lists them" if nearest is None else f"did you mean {nearest}?"
        say(f"alertprod: warning: {name} is set, and is no setting: {advice}", error=True)


def open_database(*, migrated: bool = True) -> "Database":
    """Return the database that the settings name.

    Parameters
    ----------
    migrated
        Refuse one whose schema is not that of this program.

    Raises
    ------
    SettingsError, DatabaseUnavailable, SchemaMismatch
    """
    from apdb import Database

    database = Database(read_settings().database())
    if migrated:
        database.check_schema()
    return database
