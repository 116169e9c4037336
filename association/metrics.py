"""Metrics of a run of `DiaPipelineTask`, from its metadata, and of the database."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from apdb import Database
from apdb.rows import single_row
from association.errors import AssociationError

__all__ = ["COUNTS", "MetricComputationError", "run_metrics", "total_unassociated_objects"]

COUNTS = ("numNewDiaObjects", "numUnassociatedDiaObjects", "numTotalSolarSystemObjects", "numAssociatedSsObjects")


class MetricComputationError(AssociationError):
    """The metadata holds something that is no number."""

    code = "metric"


def run_metrics(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that the metadata of one run gives; what is missing gives none.

    `COUNTS` as they are, and fracUpdatedDiaObjects = updated / (updated + unassociated).

    Raises
    ------
    MetricComputationError
        A value is no number.
    """
    out = {name: _number(metadata, name) for name in COUNTS if name in metadata}
    names = ("numUpdatedDiaObjects", "numUnassociatedDiaObjects")
    if all(name in metadata for name in names):
        updated, others = (_number(metadata, name) for name in names)
        if updated + others > 0:
            out["fracUpdatedDiaObjects"] = updated / (updated + others)
    return out


def _number(metadata: Mapping[str, Any], name: str) -> float:
    value = metadata[name]
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise MetricComputationError(f"metadata {name} is {value!r}, not a number")
    return float(value)


def total_unassociated_objects(database: Database) -> int:
    """Return how many objects of the database have one source."""
    with database.session() as connection:
        row = single_row(connection.execute('SELECT count(*) FROM "DiaObjectLast" WHERE "nDiaSources" = 1'))
    return int(row[0])
