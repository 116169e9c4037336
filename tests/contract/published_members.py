"""The members of the five tasks' interface documents, as they are published: names, arguments and defaults."""

__all__ = ["DIFFERENT", "MEMBERS", "TASK"]

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

# Where what is asked for by position or name is the same, but Python sees another default or another name.
DIFFERENT = {
    (
        "*",
        "makeSubtask",
    ): "the framework calls the further arguments keyArgs or kwargs by its version: they have no names here",
    ("association.DiaPipelineTask", "timer"): "its document gives the level of another logging system, 10000 for 10",
}
