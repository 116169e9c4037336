"""A quantum of `DiaPipelineTask`: tables are put, then the APDB commits, and the marker comes last.

Killed anywhere, the run is resumed: with ``onStored: reuse`` a detector that was committed gives its tables once more.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from lsst.pipe.base import Struct

from alerts import AlertArchive, AlertInputs, build_alerts
from apdb import empty_frame
from exposure import Exposure
from exposure.exposure_ids import id_generator
from exposure.instrument import find_instrument
from exposure.task_config import task_overrides
from tasks.quanta import quantum_errors

if TYPE_CHECKING:
    from association.task import DiaPipelineTask

__all__ = ["run_quantum", "scale_variances", "scaled", "stored_objects", "write_alerts"]

ATTEMPT = 1  # in the names of alert files: a quantum has no others
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
    scale_variances(inputs["exposure"], inputs["template"], inputs.get("subtraction"))
    task = scaled(task, inputs["exposure"])

    def put(result: Struct) -> None:
        if task.config.alertArchive:
            write_alerts(task.config.alertArchive, result, inputs)
        for name in TABLES:
            ref = getattr(outputRefs, name, None)
            if ref is not None:
                butlerQC.put(stored_objects(result) if name == "diaObjects" else getattr(result, name), ref)

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


def scale_variances(science: Exposure, template: Exposure, subtraction: Any) -> None:
    """Multiply variances, in place, by what the subtraction multiplied those of the same images in memory with.

    Parameters
    ----------
    subtraction
        Its metadata, under the name of the task; None leaves the variances as they are.
    """
    numbers = {} if subtraction is None else subtraction.to_dict()
    for image, key in ((science, "scaleScienceVarianceFactor"), (template, "scaleTemplateVarianceFactor")):
        for of_task in numbers.values():
            if isinstance(of_task, dict) and key in of_task:
                image.variance *= np.float32(of_task[key])


def stored_objects(result: Struct) -> pd.DataFrame:
    """Return the objects that the visit changed, with the columns and types of the database."""
    columns = empty_frame("DiaObject").dtypes
    objects: pd.DataFrame = result.updatedDiaObjects
    return objects.reindex(columns=list(columns.index)).astype(columns.to_dict())


def write_alerts(archive: str, result: Struct, inputs: dict[str, Any]) -> None:
    """Write the alerts of a detector to a folder or store, one file as the service's; a repetition writes the same name."""
    difference: Exposure = inputs["diffIm"]
    science: Exposure = inputs["exposure"]
    given = AlertInputs(
        result.alertDiaSources,
        result.updatedDiaObjects,
        result.historySources,
        result.historyForcedSources,
        result.diaForcedSources,
        result.associatedSsSources,
        difference,
        science,
        inputs["template"].cutout(*science.bbox),
        inputs.get("solarSystemObjectTable"),
        lacking=result.lackingForcedSources,
    )
    AlertArchive(archive).write(*difference.key, ATTEMPT, build_alerts(given))


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
