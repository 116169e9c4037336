"""Connections of `JointcalTask`, and the fit's configuration as the framework wants it."""

from calibration.joint.config import JointcalConfig
from tasks.base import AlertTaskConfig, AlertTaskConnections
from tasks.datasets import columns_of, needs, reads, writes

__all__ = ["JointcalConnections", "JointcalTaskConfig"]


class JointcalConnections(AlertTaskConnections, dimensions=("skymap", "tract", "instrument", "physical_filter")):  # type: ignore[call-arg]
    """Many visits in, two catalogues per visit out."""

    inputSourceTableVisit = reads("single_visit_star", multiple=True, deferLoad=True)
    inputVisitSummary = reads("preliminary_visit_summary", multiple=True)
    inputCamera = needs("camera")
    astrometryRefCat = needs("reference_stars", multiple=True, deferLoad=True, minimum=0)
    photometryRefCat = needs("reference_stars", multiple=True, deferLoad=True, minimum=0)
    outputWcs = writes("jointcalSkyWcsCatalog", multiple=True)
    outputPhotoCalib = writes("jointcalPhotoCalibCatalog", multiple=True)
    outputWcsSchema = columns_of("jointcalSkyWcsCatalog")
    outputPhotoCalibSchema = columns_of("jointcalPhotoCalibCatalog")

    def __init__(self, *, config: "JointcalConfig | None" = None) -> None:
        super().__init__(config=config)
        if config is not None and not config.doAstrometry:
            self.outputs.discard("outputWcs")
            self.initOutputs.discard("outputWcsSchema")
            self.prerequisiteInputs.discard("astrometryRefCat")
        if config is not None and not config.doPhotometry:
            self.outputs.discard("outputPhotoCalib")
            self.initOutputs.discard("outputPhotoCalibSchema")
            self.prerequisiteInputs.discard("photometryRefCat")

    def getSpatialBoundsConnections(self) -> tuple[str, ...]:
        """Return what tells where reference stars are wanted: the visits, which may reach beyond the tract."""
        return ("inputVisitSummary",)


class JointcalTaskConfig(JointcalConfig, AlertTaskConfig, pipelineConnections=JointcalConnections):  # type: ignore[call-arg]
    """Configuration of `JointcalTask`."""
