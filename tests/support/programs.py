"""Programs that are not of Python: where they are, or why a test is skipped; what deployment files call of our own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer

from service.commands.main import app

__all__ = ["parse_command", "program_or_skip"]

TOOLS = Path(__file__).parents[2] / ".venv" / "tools" / "bin"


def program_or_skip(name: str) -> str:
    """Return the path of a program; where it is not here the test is skipped."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS))
    if found is None:
        pytest.skip(f"no {name} here: 'make programs' fetches it")
    return found


def parse_command(arguments: Sequence[str]) -> None:
    """Let our command line read arguments without running them; an unknown command or option raises."""
    command, rest = typer.main.get_command(app), list(arguments)
    while (commands := getattr(command, "commands", None)) is not None:
        command = commands[rest.pop(0)]
    command.make_context("alertprod", rest).close()
