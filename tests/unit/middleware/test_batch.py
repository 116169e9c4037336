"""Jobs of a batch, and the environment that BPS runs in."""

import sys
from types import SimpleNamespace

import pytest

from middleware.batch.clustering import order_visits
from service.commands.butler.bps import bps_environment


class Clusters:
    """A graph of clusters as BPS has it: a cluster is (name, [(task, instrument, visit)])."""

    def __init__(self, *clusters):
        self.infos, self.edges, self._clusters = {}, set(), []
        for name, quanta in clusters:
            nodes = [f"{name}-{k}" for k in range(len(quanta))]
            for node, (task, instrument, visit) in zip(nodes, quanta, strict=True):
                self.infos[node] = {"task_label": task, "data_id": {"instrument": instrument, "visit": visit}}
            self._clusters.append(SimpleNamespace(name=name, qgraph_node_ids=nodes))

    def clusters(self):
        return self._clusters

    def get_quantum_info(self, node):
        return self.infos[node]

    def add_dependency(self, parent, child):
        self.edges.add((parent, child))


def test_association_waits_for_the_visit_before_of_the_same_camera():
    dia = "associateApdb"
    graph = Clusters(
        ("c", [(dia, "a", 20), (dia, "a", 20)]), ("image", [("calibrateImage", "a", 3)]), ("b", [(dia, "a", 3)]),
        ("other", [(dia, "z", 7)]), ("d", [("standardizeDiaSource", "a", 17122009979), (dia, "a", 17122009979)]),
    )  # fmt: skip
    order_visits(graph)
    assert graph.edges == {("b", "c"), ("c", "d")}
    with pytest.raises(ValueError, match="2 visits"):
        order_visits(Clusters(("all", [(dia, "a", 1), (dia, "a", 2)])))


def test_bps_finds_this_installation_and_writes_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = bps_environment({"PATH": "/usr/bin", "HOME": "/h", "PWD": "/elsewhere"})
    assert made["PWD"] == str(tmp_path)
    assert made["CTRL_MPEXEC_DIR"] == made["DAF_BUTLER_DIR"] == sys.prefix and made["HOME"] == "/h"
    assert made["PATH"].startswith(f"{sys.prefix}/bin") and made["PATH"].endswith("/usr/bin")
