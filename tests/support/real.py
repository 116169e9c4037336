"""Where the real data are."""

import os
from pathlib import Path

import pytest

__all__ = ["REAL_DATA", "real_data"]

REAL_DATA = Path(os.environ.get("ALERTPROD_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real_data(name: str) -> Path:
    """Return a folder of real data, or skip the test with the reason."""
    folder = REAL_DATA / name
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set ALERTPROD_REAL_DATA)")
    return folder
