"""Loaded by servers of forked processes: what costs every process time is done once for all of them.

A Butler's configuration is read (0.3 s), and numba learns of the types that it knows (0.6 s), as it does at the first call
of a compiled function.
"""

import logging
import tempfile
from pathlib import Path

import numpy as np

from middleware.repository import Repository
from tasks.arrays import F64
from tasks.compiled import compiled

__all__: list[str] = []


@compiled
def _sum(values: F64) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


try:
    with tempfile.TemporaryDirectory() as folder:
        Repository.create(Path(folder) / "repository").butler.close()
    _sum(np.zeros(1))
except Exception as error:  # the server would end, and nothing run: every process makes it for itself then
    logging.getLogger("alertprod.middleware").warning("nothing can be made ahead of time: %s", error)
