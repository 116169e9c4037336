"""The configuration of `ImageDifferenceTask`: the table of `diffim.options` as fields."""

from typing import Any

import lsst.pex.config as pexConfig
import lsst.pipe.base.connectionTypes as cT

from diffim.options import OPTIONS, Option, contradictions
from tasks import AlertTaskConfig
from tasks.base import AlertTaskConnections
from tasks.datasets import CCD, reads, schema_of, writes

__all__ = ["ImageDifferenceConfig", "ImageDifferenceConnections"]


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


class ImageDifferenceConnections(AlertTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """What one quantum reads and writes."""

    exposure = reads("preliminary_visit_image")
    templateExposure = reads("template_detector")
    coaddExposures = reads("template_coadd", multiple=True)
    selectSources = reads("single_visit_star_unstandardized", minimum=0)
    calexpBackgroundExposure = reads("preliminary_visit_image_background", minimum=0)
    finalizedPsfApCorrCatalog = reads("finalized_psf_ap_corr_catalog", minimum=0)
    subtractedExposure = writes("difference_image")
    matchedExposure = writes("template_matched")
    scoreExposure = writes("difference_score_image")
    warpedExposure = writes("template_detector")
    diaSources = writes("dia_source_unfiltered")
    diaSourceSchema = cT.InitOutput(**schema_of("dia_source_unfiltered"))

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
        if not (config.doDetection and config.doMeasurement):
            self.outputs.remove("diaSources")
            self.initOutputs.remove("diaSourceSchema")
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
