"""The members of the five tasks' interface documents, as they are published: names, arguments and defaults.

``python -m tools.published_members`` writes docs/published-members.md, the table of where each of them lives.
"""

import importlib
import inspect
from pathlib import Path
from typing import Any

__all__ = ["DIFFERENT", "MEMBERS", "PAGE", "TASK", "table"]

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "published-members.md"

# of every task
TASK = {
    "emptyMetadata": "()",
    "getFullMetadata": "()",
    "getFullName": "()",
    "getName": "()",
    "getResourceConfig": "()",
    "getTaskDict": "()",
    "makeField": "(doc)",
    "makeSubtask": "(name, **keyArgs)",
    "runQuantum": "(butlerQC, inputRefs, outputRefs)",
    "timer": "(name, logLevel=10)",
}
SCHEMAS = {"getAllSchemaCatalogs": "()", "getSchemaCatalogs": "()"}
COMMAND_LINE = {
    "applyOverrides": "(config)",
    "parseAndRun": "(args=None, config=None, log=None, doReturnResults=False)",
    "writeConfig": "(butler, clobber=False, doBackup=True)",
    "writeMetadata": "(dataRef)",
    "writePackageVersions": "(butler, clobber=False, doBackup=True, dataset='packages')",
    "writeSchemas": "(butler, clobber=False, doBackup=True)",
}

MEMBERS = {
    "association.DiaPipelineTask": TASK
    | SCHEMAS
    | {
        "__init__": "(initInputs=None, **kwargs)",
        "run": "(diaSourceTable, diffIm, exposure, warpedExposure, ccdExposureIdBits)",
    },
    "calibration.JointcalTask": TASK
    | SCHEMAS
    | COMMAND_LINE
    | {
        "__init__": "(butler=None, initInputs=None, **kwargs)",
        "loadData": "(dataRefs, associations, jointcalControl)",
        "run": "(inputSourceTableVisit, inputVisitSummary, inputCamera, tract=None)",
        "runDataRef": "(dataRefs)",
    },
    "calibration.UpdateVisitSummaryTask": TASK
    | {
        "__init__": "(*, initInputs=None, **kwargs)",
        "run": "(input_summary_catalog, input_exposures, psf_overrides=None, psf_star_catalog=None, ap_corr_overrides=None, "
        "photo_calib_overrides=None, wcs_overrides=None, background_originals=None, background_overrides=None)",
    },
    "diffim.ImageDifferenceTask": TASK
    | SCHEMAS
    | COMMAND_LINE
    | {
        "__init__": "(butler=None, **kwargs)",
        "checkTemplateIsSufficient": "(templateExposure)",
        "fitAstrometry": "(templateSources, templateExposure, selectSources)",
        "makeIdFactory": "(expId, expBits)",
        "prepareCalibratedExposure": "(exposure, finalizedPsfApCorrCatalog=None)",
        "run": "(exposure=None, selectSources=None, templateExposure=None, templateSources=None, idFactory=None, "
        "calexpBackgroundExposure=None, subtractedExposure=None)",
        "runDataRef": "(sensorRef, templateIdList=None)",
        "runDebug": "(exposure, subtractRes, selectSources, kernelSources, diaSources)",
    },
    "forced.ForcedPhotCcdFromDataFrameTask": TASK
    | SCHEMAS
    | COMMAND_LINE
    | {
        "__init__": "(butler=None, refSchema=None, initInputs=None, **kwds)",
        "attachFootprints": "(sources, refCat, exposure, refWcs)",
        "df2RefCat": "(dfList, exposureBBox, exposureWcs)",
        "df2SourceCat": "(df)",
        "fetchReferences": "(dataRef, exposure)",
        "generateMeasCat": "(exposureDataId, exposure, refCat, refWcs, idPackerName)",
        "getExposure": "(dataRef)",
        "getExposureId": "(dataRef)",
        "makeIdFactory": "(dataRef)",
        "mergeAndFilterReferences": "(exposure, refCats, refWcs)",
        "prepareCalibratedExposure": "(exposure, skyCorr=None, externalSkyWcsCatalog=None, externalPhotoCalibCatalog=None, "
        "finalizedPsfApCorrCatalog=None)",
        "run": "(measCat, exposure, refCat, refWcs, exposureId=None)",
        "runDataRef": "(dataRef, psfCache=None)",
        "writeOutput": "(dataRef, sources)",
    },
}

# Where the published form is not ours, and why.
DIFFERENT = {
    ("association.DiaPipelineTask", "timer"): "its document gives the level of an older logging system, 10000 for 10",
    (
        "forced.ForcedPhotCcdFromDataFrameTask",
        "makeIdFactory",
    ): "published without saying what a dataRef is: here a path, an exposure, or a mapping with `exposure`",
    (
        "association.DiaPipelineTask",
        "run",
    ): "further arguments by name: the transaction, ids, ephemerides and time of the caller",
}


def table() -> str:
    """Return the page: where each member lives, what it takes beside what is published, and what differs."""
    lines = [
        "# Published members",
        "",
        "The members of the interface documents of the five tasks, and where they live here. Every one takes what is published, under",
        "the same names and with the same defaults (tested); the last columns say what it takes beside that, and what differs. Written by",
        "`python -m tools.published_members`.",
    ]
    for task, members in MEMBERS.items():
        lines += [
            "",
            f"## {task}",
            "",
            "| member | published | lives in | beside that | note |",
            "|---|---|---|---|---|",
        ]
        kind = getattr(importlib.import_module(task.split(".")[0]), task.split(".")[1])
        for name, form in sorted(members.items()):
            note = DIFFERENT.get((task, name), "")
            lines.append(f"| {name} | `{form}` | `{_home(kind, name)}` | {_beside(kind, name, form)} | {note} |")
    return "\n".join(lines) + "\n"


def _home(kind: type, name: str) -> str:
    owner = next(c for c in kind.__mro__ if name in vars(c))
    return f"{owner.__module__}.{owner.__name__}"


def _beside(kind: type, name: str, form: str) -> str:
    names: dict[str, Any] = {}
    exec(f"def f{form}: pass", names)  # noqa: S102
    published = set(inspect.signature(names["f"]).parameters)
    ours = [
        p.name for p in inspect.signature(getattr(kind, name)).parameters.values() if p.kind not in (p.VAR_KEYWORD,)
    ]
    return ", ".join(f"`{n}`" for n in ours if n not in published and n != "self")


if __name__ == "__main__":
    PAGE.write_text(table(), encoding="utf-8")
