"""`StandardizeTask`: raw measurements become DiaSources, and those that fail a test are put aside, as in the service."""

from typing import Any

import lsst.pipe.base.connectionTypes as cT
import pandas as pd
from astropy.time import Time
from lsst.pipe.base import Struct

from association.standardize import filter_dia_sources, standardize
from exposure import Exposure
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.quanta import quantum_errors
from tasks.storage_classes import EXPOSURE

__all__ = ["StandardizeConfig", "StandardizeConnections", "StandardizeTask"]

_CCD = ("instrument", "visit", "detector")


class StandardizeConnections(AlertTaskConnections, dimensions=_CCD):  # type: ignore[call-arg]
    """Raw measurements and their image in, DiaSources out."""

    raw = cT.Input(doc="Raw measurements.", name="dia_source_unfiltered", storageClass="DataFrame", dimensions=_CCD)
    difference = cT.Input(
        doc="Image that was measured.", name="difference_image", storageClass=EXPOSURE, dimensions=_CCD
    )
    good = cT.Output(
        doc="DiaSources that go on.", name="dia_source_detector", storageClass="DataFrame", dimensions=_CCD
    )
    rejected = cT.Output(
        doc="DiaSources that fail a test.", name="rejected_dia_source", storageClass="DataFrame", dimensions=_CCD
    )
    trailed = cT.Output(
        doc="DiaSources with too long a trail.",
        name="long_trailed_source_detector",
        storageClass="DataFrame",
        dimensions=_CCD,
    )

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        self.inputs.remove("exposure")


class StandardizeConfig(AlertTaskConfig, pipelineConnections=StandardizeConnections):  # type: ignore[call-arg]
    """Nothing to set."""


class StandardizeTask(AlertTask):
    """Columns and units of the APDB, and the tests before association."""

    ConfigClass = StandardizeConfig
    _DefaultName = "standardizeDiaSource"

    def run(self, raw: pd.DataFrame, difference: Exposure, processedMjdTai: float | None = None) -> Struct:
        """Standardise and split.

        Parameters
        ----------
        raw
            What `ImageDifferenceTask` measured.
        processedMjdTai
            Processing time (MJD, TAI); now by default.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            good, rejected, trailed (a source may be in both of the latter).
        """
        now = float(Time.now().tai.mjd) if processedMjdTai is None else processedMjdTai
        table = standardize(raw, difference, now)
        split = filter_dia_sources(raw, table, difference.pixel_scale_arcsec())
        self.put("nRejectedDiaSources", len(split.rejected))
        self.put("nTrailedDiaSources", len(split.trailed))
        return Struct(good=split.good, rejected=split.rejected, trailed=split.trailed)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read, standardise, store."""
        inputs = butlerQC.get(inputRefs)
        with quantum_errors(self):
            result = self.run(inputs["raw"], inputs["difference"])
        butlerQC.put(result, outputRefs)
