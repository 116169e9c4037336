"""The datasets that the tasks read and write: each is declared here, once, and connections are made of the declarations."""

from dataclasses import dataclass
from typing import Any

import lsst.pipe.base.connectionTypes as cT

from tasks.storage_classes import BACKGROUND, CAMERA, EXPOSURE, EXPOSURE_CATALOG

__all__ = [
    "CCD", "DATASETS", "PATCH", "STARS_LEVEL", "VISIT", "Columns", "Dataset", "columns_of", "needs", "reads", "schema_of", "writes",
]  # fmt: skip

VISIT = ("instrument", "visit")
CCD = (*VISIT, "detector")
PATCH = ("skymap", "tract", "patch")
STARS_LEVEL = 7  # of HTM: shards of star catalogues, as those of Rubin
_FRAME = ("instrument", "exposure", "detector")
_TRACT = (*VISIT, "skymap", "tract")
_SHARD = f"htm{STARS_LEVEL}"
_TABLE, _METADATA, _CONFIG = "DataFrame", "TaskMetadata", "Config"


@dataclass(frozen=True)
class Dataset:
    """What a dataset is: how it is stored, of what there is one, and what it holds."""

    storage: str
    dimensions: tuple[str, ...]
    doc: str
    is_calibration: bool = False


DATASETS = {
    # what a repository is filled with
    "post_isr_image": Dataset(EXPOSURE, _FRAME, "Frame without the signature of its instrument."),
    "template_coadd": Dataset(EXPOSURE, (*PATCH, "band"), "Patch of a template set, nJy."),
    "template_stars": Dataset(_TABLE, (_SHARD, "band"), "Stars of a template set, for relative calibrations."),
    "reference_stars": Dataset(_TABLE, (_SHARD,), "Stars of a reference catalogue."),
    "camera": Dataset(CAMERA, ("instrument",), "Where the detectors sit.", is_calibration=True),
    # single frames and visits
    "preliminary_visit_image": Dataset(EXPOSURE, CCD, "Calibrated exposure."),
    "preliminary_visit_image_background": Dataset(BACKGROUND, CCD, "Background that was subtracted from it."),
    "single_visit_star_unstandardized": Dataset(_TABLE, CCD, "Sources of the exposure."),
    "preliminary_visit_summary": Dataset(EXPOSURE_CATALOG, VISIT, "One row a detector: its parts and their numbers."),
    "single_visit_star": Dataset(_TABLE, VISIT, "Isolated stars and galaxies of the visit."),
    "preloaded_ss_object": Dataset(_TABLE, VISIT, "Known bodies of the solar system at the time of the visit."),
    # calibrations of many visits
    "jointcalSkyWcsCatalog": Dataset(EXPOSURE_CATALOG, _TRACT, "WCS of the joint fit."),
    "jointcalPhotoCalibCatalog": Dataset(EXPOSURE_CATALOG, _TRACT, "Calibrations of the joint fit."),
    "gbdesAstrometricFitSkyWcsCatalog": Dataset(EXPOSURE_CATALOG, VISIT, "WCS of another fit."),
    "gbdesHealpixAstrometricFitSkyWcsCatalog": Dataset(
        EXPOSURE_CATALOG, (*VISIT, "healpix3"), "WCS of another fit, by HEALPix pixels."
    ),
    "fgcmPhotoCalibCatalog": Dataset(EXPOSURE_CATALOG, VISIT, "Calibrations of another fit."),
    "finalized_psf_ap_corr_catalog": Dataset(EXPOSURE_CATALOG, VISIT, "Final PSFs and aperture corrections."),
    "finalized_src_table": Dataset(_TABLE, VISIT, "Stars that the final PSFs were made of."),
    "skyCorr": Dataset(BACKGROUND, CCD, "Background still to subtract."),
    "visit_summary": Dataset(EXPOSURE_CATALOG, VISIT, "Final summary of the visit."),
    "visit_image": Dataset(EXPOSURE, CCD, "Exposure with its final parts."),
    "recalibrated_star_detector": Dataset(_TABLE, CCD, "Sources of the exposure with its final parts."),
    # differences
    "template_detector": Dataset(EXPOSURE, CCD, "Template on the exposure's pixels, nJy."),
    "difference_image": Dataset(EXPOSURE, CCD, "Difference."),
    "template_matched": Dataset(EXPOSURE, CCD, "Template as it was subtracted, nJy."),
    "difference_score_image": Dataset(EXPOSURE, CCD, "Significance of a point source at each pixel, sigma."),
    "subtractImages_metadata": Dataset(
        _METADATA, CCD, "Numbers of the subtraction, with those that it scaled variances by."
    ),
    "dia_source_unfiltered": Dataset(_TABLE, CCD, "Raw measurements of the difference's sources."),
    "dia_source_detector": Dataset(_TABLE, CCD, "DiaSources that passed the tests."),
    "rejected_dia_source": Dataset(_TABLE, CCD, "DiaSources that failed a test before association: flags, sky sources, negative science flux."),
    "long_trailed_source_detector": Dataset(_TABLE, CCD, "DiaSources with too long a trail."),
    # the APDB
    "dia_source_apdb": Dataset(_TABLE, CCD, "DiaSources as they are stored."),
    "dia_forced_source_apdb": Dataset(_TABLE, CCD, "Forced photometry as it is stored."),
    "dia_object_apdb": Dataset(_TABLE, CCD, "DiaObjects that the visit changed, as they are stored."),
    "new_dia_source": Dataset(_TABLE, CCD, "DiaSources that founded an object: matched by nothing, and good enough."),
    "marginal_new_dia_source": Dataset(_TABLE, CCD, "DiaSources that matched nothing and were not good enough to found an object; neither stored nor alerted."),
    "apdb_marker": Dataset(_CONFIG, CCD, "The detector of the visit is in the APDB."),
    "dia_object_patch": Dataset(_TABLE, PATCH, "Newest versions of the objects of the patch."),
    "dia_object_forced_source_unstandardized": Dataset(
        _TABLE, (*CCD, "skymap", "tract"), "Forced photometry at all objects."
    ),
}  # fmt: skip


def _declared(name: str) -> dict[str, Any]:
    dataset = DATASETS[name]
    return {
        "name": name,
        "storageClass": dataset.storage,
        "dimensions": dataset.dimensions,
        "doc": dataset.doc,
        "isCalibration": dataset.is_calibration,
    }


def reads(name: str, **more: Any) -> cT.Input:
    """Return the connection that reads a dataset; `more` is what ``Input`` takes (multiple, deferLoad, minimum)."""
    return cT.Input(**_declared(name), **more)


def needs(name: str, **more: Any) -> cT.PrerequisiteInput:
    """Return the connection that reads a dataset which no task of a pipeline makes; `more` as `reads`."""
    return cT.PrerequisiteInput(**_declared(name), **more)


def writes(name: str, **more: Any) -> cT.Output:
    """Return the connection that writes a dataset."""
    return cT.Output(**_declared(name), **more)


def schema_of(name: str) -> dict[str, str]:
    """Return what an ``InitOutput`` or ``InitInput`` of the columns of a dataset takes: ``NAME_schema``, without a row."""
    dataset = DATASETS[name]
    return {"name": f"{name}_schema", "storageClass": dataset.storage, "doc": f"Columns: {dataset.doc}"}


def columns_of(name: str) -> cT.InitOutput:
    """Return the connection that stores the columns of a dataset once for a run; `Columns` is what it stores."""
    return cT.InitOutput(**schema_of(name))


class Columns:
    """Attribute of a task that is the table without a row which it announces under a name (``getSchemaCatalogs``)."""

    def __init__(self, announced: str) -> None:
        self._announced = announced

    def __get__(self, task: Any, owner: Any = None) -> Any:
        """Return the table; of the class itself this object."""
        return self if task is None else task.getSchemaCatalogs()[self._announced]
