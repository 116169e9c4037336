"""The order of visits in a run of ``pipetask``: ``--graph-fixup middleware.ordering.by_visit``.

A detector is associated with what earlier visits stored, which no dataset says. Numbers of visits rise with time.
Loading this module also says what the server of forked processes loads once (``--start-method forkserver``): all that a
quantum would load otherwise, the program, the Butler's parts and the tasks.
"""

import multiprocessing
import uuid
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from lsst.daf.butler import DataCoordinate
from lsst.pipe.base.execution_graph_fixup import ExecutionGraphFixup

__all__ = ["PRELOADED", "VisitOrder", "by_visit"]

PRELOADED = (
    "lsst.ctrl.mpexec.cli.pipetask",
    "lsst.daf.butler.datastore.cache_manager",
    "lsst.daf.butler.datastore.composites",
    "lsst.daf.butler.datastore.file_templates",
    "lsst.daf.butler.datastores.file_datastore.get",
    "lsst.daf.butler.delegates.arrowtable",
    "lsst.daf.butler.formatters.parquet",
    "lsst.daf.butler.formatters.typeless",
    "astropy.wcs",
    "pyarrow.dataset",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "middleware.formatters",
    "association.export_task",
    "association.preload_task",
    "association.standardize_task",
    "association.task",
    "calibration.characterize_task",
    "calibration.joint.task",
    "calibration.recalibrate_task",
    "calibration.summary.consolidate",
    "diffim.task",
    "diffim.template_task",
    "forced.task",
    "middleware.warm",
)
multiprocessing.set_forkserver_preload(list(PRELOADED))


class VisitOrder(ExecutionGraphFixup):
    """Quanta of some tasks wait for all those of the visit before, of the same instrument.

    One quantum of each visit is its gate: it waits for the visit before, and the others wait for it; so there are two
    edges for each quantum, not one for each pair.

    Parameters
    ----------
    labels
        Of the tasks; those that the graph lacks are passed over.
    """

    def __init__(self, *labels: str) -> None:
        self._labels = labels

    def fixup_graph(self, xgraph: Any, quanta_by_task: "Mapping[str, Mapping[DataCoordinate, uuid.UUID]]") -> None:
        """Add the edges."""
        for label in self._labels:
            visits: dict[tuple[str, int], list[tuple[int, uuid.UUID]]] = {}
            for data_id, quantum in quanta_by_task.get(label, {}).items():
                key = (str(data_id["instrument"]), int(data_id["visit"]))
                visits.setdefault(key, []).append((int(data_id["detector"]), quantum))
            for before, after in pairwise(sorted(visits)):
                if before[0] != after[0]:
                    continue
                gate, *others = [quantum for _, quantum in sorted(visits[after])]
                xgraph.add_edges_from((quantum, gate) for _, quantum in visits[before])
                xgraph.add_edges_from((gate, quantum) for quantum in others)


def by_visit() -> VisitOrder:
    """Return the order of the pipelines of this package."""
    return VisitOrder("associateApdb")
