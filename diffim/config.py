"""The configuration of `ImageDifferenceTask`: the table of `diffim.options` as fields."""

from typing import Any

import lsst.pex.config as pexConfig
import lsst.pipe.base.connectionTypes as cT

from diffim.options import OPTIONS, Option, contradictions
from tasks import AlertTaskConfig
from tasks.base import AlertTaskConnections
from tasks.storage_classes import EXPOSURE, EXPOSURE_CATALOG

__all__ = ["ImageDifferenceConfig", "ImageDifferenceConnections"]

_CCD = ("instrument", "visit", "detector")


def _field(option: Option) -> Any:
    kind = type(option.default)
    if kind is tuple:
        return pexConfig.ListField(dtype=str, default=list(option.default), doc=option.doc)
    if option.allowed:
        return pexConfig.ChoiceField(
            dtype=str, default=option.default, allowed=dict(option.allowed), doc=option.doc, optional=False
        )
    if option.least is None and option.below is None:
        return pexConfig.Field(dtype=kind, default=option.default, doc=option.doc)
    return pexConfig.RangeField(dtype=kind, default=option.default, doc=option.doc, min=option.least, max=option.below)


class ImageDifferenceConnections(AlertTaskConnections, dimensions=_CCD):  # type: ignore[call-arg]
    """What one quantum reads and writes."""

    templateExposure = cT.Input(
        doc="Template on the image's pixels.", name="template_detector", storageClass=EXPOSURE, dimensions=_CCD
    )
    coaddExposures = cT.Input(
        doc="Patches of the template.",
        name="template_coadd",
        storageClass=EXPOSURE,
        dimensions=("tract", "patch", "skymap", "band"),
        multiple=True,
    )
    selectSources = cT.Input(
        doc="Sources of the image.",
        name="single_visit_star_unstandardized",
        storageClass="DataFrame",
        dimensions=_CCD,
        minimum=0,
    )
    calexpBackgroundExposure = cT.Input(
        doc="Background to add back.",
        name="preliminary_visit_image_background",
        storageClass=EXPOSURE,
        dimensions=_CCD,
        minimum=0,
    )
    finalizedPsfApCorrCatalog = cT.Input(
        doc="PSFs and aperture corrections of the visit.",
        name="finalized_psf_ap_corr_catalog",
        storageClass=EXPOSURE_CATALOG,
        dimensions=("instrument", "visit"),
        minimum=0,
    )
    subtractedExposure = cT.Output(doc="Difference.", name="difference_image", storageClass=EXPOSURE, dimensions=_CCD)
    matchedExposure = cT.Output(
        doc="Template as it was subtracted.", name="template_matched", storageClass=EXPOSURE, dimensions=_CCD
    )
    scoreExposure = cT.Output(doc="Score image.", name="difference_score_image", storageClass=EXPOSURE, dimensions=_CCD)
    warpedExposure = cT.Output(
        doc="Template on the image's pixels.",
        name="template_detector",
        storageClass=EXPOSURE,
        dimensions=_CCD,
    )
    diaSources = cT.Output(
        doc="Detected sources.", name="dia_source_unfiltered", storageClass="DataFrame", dimensions=_CCD
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if config.templateFrom == "template_detector":
            self.inputs.remove("coaddExposures")
            self.outputs.remove("warpedExposure")
        else:
            self.inputs.remove("templateExposure")
        if not (config.doWriteMatchedExp and config.doSubtract):
            self.outputs.remove("matchedExposure")
        if not config.doWriteScore:
            self.outputs.remove("scoreExposure")
        if not config.doDetection:
            self.outputs.remove("diaSources")
        if not config.doApplyFinalizedPsf:
            self.inputs.remove("finalizedPsfApCorrCatalog")
        if not config.doAddCalexpBackground:
            self.inputs.remove("calexpBackgroundExposure")


class ImageDifferenceConfig(AlertTaskConfig, pipelineConnections=ImageDifferenceConnections):  # type: ignore[call-arg]
    """Configuration; see `diffim.options.OPTIONS`."""

    vars().update({_name: _field(_option) for _name, _option in OPTIONS.items()})
    templateFrom = pexConfig.ChoiceField(
        dtype=str,
        default="template_detector",
        doc="What a quantum reads as its template.",
        allowed={"template_detector": "one on the image's pixels", "template_coadd": "patches, which it warps"},
        optional=False,
    )
    release_id = pexConfig.RangeField(
        dtype=int, default=0, min=0, doc="Release slot in the ids: a repetition that replaces takes the next."
    )

    def validate(self) -> None:
        """Refuse contradictions."""
        super().validate()
        for text in contradictions(self):
            raise ValueError(text)
