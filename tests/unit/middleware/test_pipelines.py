"""The pipelines of the package, as ``pipetask build`` reads them."""

import pytest
from lsst.pipe.base import Pipeline

# what a repository is filled with, and nothing computes
EXTERNAL = {
    "post_isr_image", "template_coadd", "template_stars", "reference_stars", "camera", "preloaded_ss_object",
}  # fmt: skip
MUST = {
    "AP": {"difference_image", "dia_source_detector", "apdb_marker", "dia_object_apdb", "preliminary_visit_summary"},
    "DRP": {"jointcalSkyWcsCatalog", "visit_summary", "visit_image", "apdb_marker", "dia_object_patch"},
}


@pytest.mark.parametrize("name", ["AP", "DRP"])
@pytest.mark.parametrize("camera", ["simcam", "decam", "hatp32"])
def test_every_input_that_is_not_external_has_a_producer(name, camera):
    pipeline = Pipeline.from_uri(f"resource://middleware.pipelines/{name}.yaml")
    pipeline.addInstrument(f"middleware.instrument.{camera}")
    graph = pipeline.to_graph()
    graph.resolve(dimensions=_universe())
    inputs = {name for name, node in graph.dataset_types.items() if graph.producer_of(name) is None}
    assert inputs <= EXTERNAL | {"packages"}, f"nothing makes {sorted(inputs - EXTERNAL)}"
    assert MUST[name] <= set(graph.dataset_types)
    labels = set(graph.tasks)
    for label, subset in graph.task_subsets.items():
        assert subset <= labels, label


def _universe():
    from lsst.daf.butler import DimensionUniverse

    return DimensionUniverse()


def test_the_subsets_of_alert_production_are_what_a_night_needs():
    graph = Pipeline.from_uri("resource://middleware.pipelines/AP.yaml").to_graph()
    subsets = {label: set(subset) for label, subset in graph.task_subsets.items()}
    assert {"preload", "prompt", "afterburner", "apPipeSingleFrame"} <= set(subsets)
    exclusive = [subsets[n] for n in ("preload", "prompt", "afterburner")]
    assert sum(map(len, exclusive)) == len(set.union(*exclusive)) == len(graph.tasks)
