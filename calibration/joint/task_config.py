"""Connections of `JointcalTask`, and the fit's configuration as the framework wants it."""

import lsst.pipe.base.connectionTypes as cT

from calibration.joint.config import JointcalConfig
from tasks.base import AlertTaskConfig, AlertTaskConnections

__all__ = ["JointcalConnections", "JointcalTaskConfig"]


class JointcalConnections(AlertTaskConnections, dimensions=("skymap", "tract", "instrument", "physical_filter")):  # type: ignore[call-arg]
    """Many visits in, two catalogues per visit out."""

    inputSourceTableVisit = cT.Input(
        doc="Source table of each visit.",
        name="sourceTable_visit",
        storageClass="DataFrame",
        dimensions=("instrument", "visit"),
        multiple=True,
        deferLoad=True,
    )
    inputVisitSummary = cT.Input(
        doc="WCS and calibration of each detector of each visit.",
        name="visitSummary",
        storageClass="ExposureCatalog",
        dimensions=("instrument", "visit"),
        multiple=True,
    )
    inputCamera = cT.PrerequisiteInput(
        doc="Where the detectors sit.",
        name="camera",
        storageClass="Camera",
        dimensions=("instrument",),
        isCalibration=True,
    )
    outputWcs = cT.Output(
        doc="Fitted WCS per visit.",
        name="jointcalSkyWcsCatalog",
        storageClass="ExposureCatalog",
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )
    outputPhotoCalib = cT.Output(
        doc="Fitted calibration per visit.",
        name="jointcalPhotoCalibCatalog",
        storageClass="ExposureCatalog",
        dimensions=("instrument", "visit", "skymap", "tract"),
        multiple=True,
    )

    def __init__(self, *, config: "JointcalConfig | None" = None) -> None:
        super().__init__(config=config)
        self.inputs.discard("exposure")
        if config is not None and not config.doAstrometry:
            self.outputs.discard("outputWcs")
        if config is not None and not config.doPhotometry:
            self.outputs.discard("outputPhotoCalib")


class JointcalTaskConfig(JointcalConfig, AlertTaskConfig, pipelineConnections=JointcalConnections):  # type: ignore[call-arg]
    """Configuration of `JointcalTask`."""
