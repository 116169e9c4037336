"""Folders that all workers of a test run share: the first that asks fills one, the others wait."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["shared_folder"]


def shared_folder(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return a folder of the run that `fill` has filled once."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # that of the run; each worker has one below it
    folder = root / name
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / ".filled"
        if not done.exists():
            folder.mkdir()
            fill(folder)
            done.touch()
    return folder
