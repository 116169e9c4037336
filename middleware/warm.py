"""Loaded by the server of forked processes: what a Butler makes of its configuration (0.3 s) is made once for all of them."""

import logging
import tempfile
from pathlib import Path

from middleware.repository import Repository

__all__: list[str] = []

try:
    with tempfile.TemporaryDirectory() as folder:
        Repository.create(Path(folder) / "repository").butler.close()
except Exception as error:  # the server would end, and nothing run: every process makes it for itself then
    logging.getLogger("alertprod.middleware").warning("a Butler cannot be opened ahead of time: %s", error)
