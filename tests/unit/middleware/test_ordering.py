"""The order of visits in a graph of quanta."""

import importlib
import uuid
from itertools import product

import networkx
from lsst.daf.butler import DataCoordinate, DimensionUniverse

from middleware.ordering import PRELOADED, by_visit

UNIVERSE = DimensionUniverse()


def test_every_quantum_of_a_visit_waits_for_all_of_the_visit_before():
    graph, quanta = networkx.DiGraph(), {}
    for name, visit, detector in product(("a", "b"), (17122009979000, 3, 20), range(4)):
        number = uuid.uuid4()
        data_id = DataCoordinate.standardize(
            instrument=name, visit=visit, detector=detector, physical_filter="r", band="r", day_obs=1,
            universe=UNIVERSE, dimensions=UNIVERSE.conform(["visit", "detector"]),
        )  # fmt: skip
        quanta[data_id] = number
        graph.add_node(number)
    by_visit().fixup_graph(graph, {"associateApdb": quanta, "another": {}})
    assert networkx.is_directed_acyclic_graph(graph)
    for (one, first), (two, second) in product(quanta.items(), repeat=2):
        waits = first in networkx.ancestors(graph, second)
        assert waits or not (one["instrument"] == two["instrument"] and one["visit"] < two["visit"])
        assert not waits or one["instrument"] == two["instrument"]
    assert graph.number_of_edges() == 2 * 2 * (4 + 3)
    by_visit().fixup_graph(graph, {})  # a graph without the task


def test_what_the_fork_server_loads_is_there():
    for name in PRELOADED:  # the server would pass over one that is not
        assert importlib.import_module(name).__name__ == name
