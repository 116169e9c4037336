"""`RecalibrateTask`: an exposure gets the final parts of its visit's summary, for a second pass of the difference."""

import logging
from typing import Any

import pandas as pd
from lsst.pipe.base import Struct

from calibration.characterize import flatten_calibration
from calibration.source_columns import no_sources
from exposure import Exposure, ExposureCatalog
from forced.external_calibrations import apply_summary
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.datasets import CCD, Columns, columns_of, reads, writes
from tasks.quanta import quantum_errors

__all__ = ["RecalibrateConfig", "RecalibrateConnections", "RecalibrateTask"]

log = logging.getLogger("alertprod.calibration")


class RecalibrateConnections(AlertTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """An exposure, its sources and the summary of its visit in; both recalibrated out."""

    exposure = reads("preliminary_visit_image")
    stars = reads("single_visit_star_unstandardized")
    summary = reads("visit_summary")
    visit_image = writes("visit_image")
    visit_stars = writes("recalibrated_star_detector")
    stars_schema = columns_of("recalibrated_star_detector")


class RecalibrateConfig(AlertTaskConfig, pipelineConnections=RecalibrateConnections):  # type: ignore[call-arg]
    """Nothing to set."""


class RecalibrateTask(AlertTask):
    """Replace WCS, calibration, PSF and aperture correction by those of a visit summary."""

    ConfigClass = RecalibrateConfig
    _DefaultName = "reprocessVisitImage"
    stars_schema = Columns("recalibrated_star_detector")

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the table of an exposure without a source."""
        return {"recalibrated_star_detector": no_sources()}

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
