"""`BuildTemplateTask`: the patches of a template that an exposure needs, on its pixels, as the service warps them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from lsst.pipe.base import Struct

from diffim.templates.patches import BORDER, merge_patches
from diffim.templates.skymap import SkyMap
from diffim.templates.store import tiles_of
from exposure import Exposure
from exposure.io.components import PARTS
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.datasets import CCD, reads, writes
from tasks.quanta import quantum_errors

__all__ = ["BuildTemplateConfig", "BuildTemplateConnections", "BuildTemplateTask", "without_pixels"]


class BuildTemplateConnections(AlertTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """An exposure's place on the sky and patches in, a template out."""

    exposure = reads("preliminary_visit_image", deferLoad=True)
    coaddExposures = reads("template_coadd", multiple=True, deferLoad=True)
    template = writes("template_detector")


class BuildTemplateConfig(AlertTaskConfig, pipelineConnections=BuildTemplateConnections):  # type: ignore[call-arg]
    """Nothing to set."""


class BuildTemplateTask(AlertTask):
    """Warp and merge the patches of a template."""

    ConfigClass = BuildTemplateConfig
    _DefaultName = "buildTemplate"

    def run(self, exposure: Exposure, coaddExposures: Sequence[Exposure]) -> Struct:
        """Return ``template``: patches on the exposure's pixels, with a border, in nJy.

        Parameters
        ----------
        exposure
            WCS, box and visit info are looked at, pixels are not.

        Raises
        ------
        NoTemplateCoverage
            No patch overlaps the exposure.
        """
        return Struct(template=merge_patches(exposure, coaddExposures))

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the parts of the exposure and the patches that it needs, merge, store.

        Of a sky map of ours, those whose inner area is needed are taken, as the service does.
        """
        inputs = butlerQC.get(inputRefs)
        handle = inputs["exposure"]
        science = without_pixels({name: handle.get(component=name) for name in PARTS})
        patches = sorted(
            inputs["coaddExposures"], key=lambda h: (h.dataId["skymap"], h.dataId["tract"], h.dataId["patch"])
        )
        with quantum_errors(self):
            result = self.run(science, [h.get() for h in patches if _needed(h.dataId, science)])
        butlerQC.put(result.template, outputRefs.template)


def without_pixels(parts: dict[str, Any]) -> Exposure:
    """Return an exposure of parts by the names of `exposure.io.components.PARTS`; its pixels are all one zero."""
    x0, y0, width, height = parts["bbox"]
    nothing = np.broadcast_to(np.float32(0), (height, width))
    attributes = {attribute: parts[name] for name, attribute in PARTS.items() if attribute != "bbox"}
    return Exposure(nothing, nothing, np.broadcast_to(np.int32(0), (height, width)), (x0, y0), **attributes)


def _needed(data_id: Any, science: Exposure) -> bool:
    """Return whether the inner area of a patch is needed; of a foreign sky map all are."""
    sky = SkyMap.named(str(data_id["skymap"]))
    if sky is None:
        return True
    x0, y0, width, height = science.bbox
    box = (x0 - BORDER, y0 - BORDER, width + 2 * BORDER, height + 2 * BORDER)
    places = {(p.tract, sky.patch(p)) for p in map(sky.place, tiles_of(sky.tiling, science.require_wcs(), box))}
    return (int(data_id["tract"]), int(data_id["patch"])) in places
