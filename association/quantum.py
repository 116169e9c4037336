"""A quantum of `DiaPipelineTask`: tables are put, then the APDB commits, and the marker comes last.

Killed anywhere, the run is resumed: with ``onStored: reuse`` a detector that was committed gives its tables once more.
"""

from typing import TYPE_CHECKING, Any

from lsst.pipe.base import Struct

from exposure import Exposure
from exposure.exposure_ids import id_generator
from exposure.instrument import find_instrument
from exposure.task_config import task_overrides
from tasks.quanta import quantum_errors

if TYPE_CHECKING:
    from association.task import DiaPipelineTask

__all__ = ["run_quantum", "scaled"]

TABLES = ("associatedDiaSources", "diaForcedSources", "diaObjects", "newDiaSources", "marginalDiaSources")


def run_quantum(task: "DiaPipelineTask", butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
    """Read, associate, put the tables, commit, put the marker.

    Raises
    ------
    DuplicateRecords
        The detector of the visit is in the APDB already, and ``onStored`` is ``error``; or it is there with other sources,
        and ``onStored`` is ``reuse``.
    """
    inputs = butlerQC.get(inputRefs)
    difference: Exposure = inputs["diffIm"]
    task = scaled(task, inputs["exposure"])

    def put(result: Struct) -> None:
        for name in TABLES:
            ref = getattr(outputRefs, name, None)
            if ref is not None:
                butlerQC.put(getattr(result, name), ref)

    with quantum_errors(task):
        result = task.run(
            inputs["diaSourceTable"],
            difference,
            inputs["exposure"],
            inputs["template"],
            solarSystemObjectTable=inputs.get("solarSystemObjectTable"),
            idGenerator=id_generator(difference, task.config.release_id),
            beforeCommit=put,
        )
    butlerQC.put(result.apdbMarker, outputRefs.apdbMarker)


def scaled(task: "DiaPipelineTask", exposure: Exposure) -> "DiaPipelineTask":
    """Return a task whose radii in arcsec fit the exposure's stars, where they have their defaults; its metadata are shared."""
    rules = find_instrument(exposure.require_visit_info().instrument)
    if rules is None or not task.config.scaleToSeeing:
        return task
    defaults, config = type(task.config)(), task.config.copy()
    wanted = task_overrides(type(task), rules, exposure)
    for name, value in wanted.items():
        if getattr(config, name) == getattr(defaults, name):
            setattr(config, name, value)
    config.freeze()
    fitted = type(task)(config=config, name=task.getName(), log=task.log)
    fitted.metadata = task.metadata
    return fitted
