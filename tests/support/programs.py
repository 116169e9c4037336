"""Programs that are not of Python: where they are, or why a test is skipped."""

import shutil
from pathlib import Path

import pytest

__all__ = ["program_or_skip"]

TOOLS = Path(__file__).parents[2] / ".venv" / "tools" / "bin"


def program_or_skip(name: str) -> str:
    """Return the path of a program; where it is not here the test is skipped."""
    found = shutil.which(name) or shutil.which(name, path=str(TOOLS))
    if found is None:
        pytest.skip(f"no {name} here: 'make programs' fetches it")
    return found
