"""Quanta to jobs, with the order of visits: ``clusterAlgorithm: middleware.batch.clustering.by_visit``.

What BPS calls ``ordering`` is not known to every batch system (Parsl has none); edges between jobs are.
"""

from itertools import pairwise
from typing import Any

__all__ = ["ORDERED", "by_visit", "order_visits"]

ORDERED = "associateApdb"


def by_visit(config: Any, qgraph: Any, name: str) -> Any:
    """Return clusters as the section ``cluster`` of the configuration says; jobs of association wait for the visit before.

    Parameters
    ----------
    config, qgraph, name
        As BPS gives them to a ``clusterAlgorithm``.
    """
    from lsst.ctrl.bps.quantum_clustering_funcs import dimension_clustering

    graph = dimension_clustering(config, qgraph, name)
    order_visits(graph)
    return graph


def order_visits(graph: Any) -> None:
    """Let every cluster with association wait for those of the visit before, of the same instrument.

    Raises
    ------
    ValueError
        A cluster holds association of several visits: cluster it by instrument and visit.
    """
    visits: dict[tuple[str, int], list[str]] = {}
    for cluster in graph.clusters():
        infos = [graph.get_quantum_info(node) for node in cluster.qgraph_node_ids]
        keys = {
            (str(i["data_id"]["instrument"]), int(i["data_id"]["visit"])) for i in infos if i["task_label"] == ORDERED
        }
        if len(keys) > 1:
            raise ValueError(
                f"cluster {cluster.name} holds {ORDERED} of {len(keys)} visits: give it `dimensions: instrument, visit`"
            )
        for key in keys:
            visits.setdefault(key, []).append(cluster.name)
    for before, after in pairwise(sorted(visits)):
        if before[0] == after[0]:
            for parent in visits[before]:
                for child in visits[after]:
                    graph.add_dependency(parent, child)
