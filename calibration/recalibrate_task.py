"""`RecalibrateTask`: an exposure gets the final parts of its visit's summary, for a second pass of the difference."""

import logging
from typing import Any

import lsst.pipe.base.connectionTypes as cT
import pandas as pd
from lsst.pipe.base import Struct

from calibration.characterize import flatten_calibration
from exposure import Exposure, ExposureCatalog
from forced.external_calibrations import apply_summary
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.quanta import quantum_errors
from tasks.storage_classes import EXPOSURE, EXPOSURE_CATALOG

__all__ = ["RecalibrateConfig", "RecalibrateConnections", "RecalibrateTask"]

log = logging.getLogger("alertprod.calibration")
_CCD = ("instrument", "visit", "detector")


class RecalibrateConnections(AlertTaskConnections, dimensions=_CCD):  # type: ignore[call-arg]
    """An exposure, its sources and the summary of its visit in; both recalibrated out."""

    stars = cT.Input(
        doc="Sources of the exposure.",
        name="single_visit_star_unstandardized",
        storageClass="DataFrame",
        dimensions=_CCD,
    )
    summary = cT.Input(
        doc="Final summary of the visit.",
        name="visit_summary",
        storageClass=EXPOSURE_CATALOG,
        dimensions=("instrument", "visit"),
    )
    visit_image = cT.Output(
        doc="Exposure with its final parts.", name="visit_image", storageClass=EXPOSURE, dimensions=_CCD
    )
    visit_stars = cT.Output(
        doc="Its sources.", name="recalibrated_star_detector", storageClass="DataFrame", dimensions=_CCD
    )


class RecalibrateConfig(AlertTaskConfig, pipelineConnections=RecalibrateConnections):  # type: ignore[call-arg]
    """Nothing to set."""


class RecalibrateTask(AlertTask):
    """Replace WCS, calibration, PSF and aperture correction by those of a visit summary."""

    ConfigClass = RecalibrateConfig
    _DefaultName = "reprocessVisitImage"

    def run(self, exposure: Exposure, stars: pd.DataFrame, summary: ExposureCatalog) -> Struct:
        """Recalibrate, in place; a calibration that varies is divided out of pixels and fluxes.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            visit_image, visit_stars.

        Raises
        ------
        ForcedPhotometryError
            The summary has no row for the detector.
        """
        apply_summary(exposure, summary, True, log)
        stars = stars.copy()
        flatten_calibration(exposure, stars)
        ra, dec = exposure.require_wcs().pixel_to_sky(stars.x.to_numpy(), stars.y.to_numpy())
        return Struct(visit_image=exposure, visit_stars=stars.assign(ra=ra, dec=dec))

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read, recalibrate, store."""
        inputs = butlerQC.get(inputRefs)
        with quantum_errors(self):
            result = self.run(inputs["exposure"], inputs["stars"], inputs["summary"])
        butlerQC.put(result, outputRefs)
