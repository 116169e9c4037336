"""Connections of `JointcalTask`, and the fit's configuration as the framework wants it."""

import lsst.pipe.base.connectionTypes as cT

from calibration.joint.config import JointcalConfig
from tasks.base import AlertTaskConfig, AlertTaskConnections
from tasks.storage_classes import CAMERA, EXPOSURE_CATALOG

__all__ = ["JointcalConnections", "JointcalTaskConfig"]


class JointcalConnections(AlertTaskConnections, dimensions=("skymap", "tract", "instrument", "physical_filter")):  # type: ignore[call-arg]
    """Many visits in, two catalogues per visit out."""

    inputSourceTableVisit = cT.Input(
        doc="Source table of each visit.",
        name="single_visit_star",
        storageClass="DataFrame",
        dimensions=("instrument", "visit"),
        multiple=True,
        deferLoad=True,
    )
    inputVisitSummary = cT.Input(
        doc="WCS and calibration of each detector of each visit.",
        name="preliminary_visit_summary",
        storageClass=EXPOSURE_CATALOG,
        dimensions=("instrument", "visit"),
        multiple=True,
    )
    inputCamera = cT.PrerequisiteInput(
        doc="Where the detectors sit.",
        name="camera",
        storageClass=CAMERA,
        dimensions=("instrument",),
        isCalibration=True,
    )
    astrometryRefCat = cT.PrerequisiteInput(
        doc="Reference stars of the positions.",
        name="reference_stars",
        storageClass="DataFrame",
        dimensions=("htm7",),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    photometryRefCat = cT.PrerequisiteInput(
        doc="Reference stars of the fluxes.",
        name="reference_stars",
        storageClass="DataFrame",
        dimensions=("htm7",),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    outputWcs = cT.Output(
        doc="Fitted WCS per visit.",
        name="jointcalSkyWcsCatalog",
        storageClass=EXPOSURE_CATALOG,
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )
    outputPhotoCalib = cT.Output(
        doc="Fitted calibration per visit.",
        name="jointcalPhotoCalibCatalog",
        storageClass=EXPOSURE_CATALOG,
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )

    def __init__(self, *, config: "JointcalConfig | None" = None) -> None:
        super().__init__(config=config)
        self.inputs.discard("exposure")
        if config is not None and not config.doAstrometry:
            self.outputs.discard("outputWcs")
            self.prerequisiteInputs.discard("astrometryRefCat")
        if config is not None and not config.doPhotometry:
            self.outputs.discard("outputPhotoCalib")
            self.prerequisiteInputs.discard("photometryRefCat")

    def getSpatialBoundsConnections(self) -> tuple[str, ...]:
        """Return what tells where reference stars are wanted: the visits, which may reach beyond the tract."""
        return ("inputVisitSummary",)


class JointcalTaskConfig(JointcalConfig, AlertTaskConfig, pipelineConnections=JointcalConnections):  # type: ignore[call-arg]
    """Configuration of `JointcalTask`."""
