"""`StandardizeTask`: raw measurements become DiaSources, and those that fail a test are put aside, as in the service."""

from typing import Any

import pandas as pd
from astropy.time import Time
from lsst.pipe.base import Struct

from apdb import empty_frame
from association.standardize import filter_dia_sources, standardize
from exposure import Exposure
from tasks.base import AlertTask, AlertTaskConfig, AlertTaskConnections
from tasks.datasets import CCD, Columns, columns_of, reads, writes
from tasks.quanta import quantum_errors

__all__ = ["StandardizeConfig", "StandardizeConnections", "StandardizeTask"]


class StandardizeConnections(AlertTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """Raw measurements and their image in, DiaSources out."""

    raw = reads("dia_source_unfiltered")
    difference = reads("difference_image")
    good = writes("dia_source_detector")
    rejected = writes("rejected_dia_source")
    trailed = writes("long_trailed_source_detector")
    good_schema = columns_of("dia_source_detector")
    rejected_schema = columns_of("rejected_dia_source")
    trailed_schema = columns_of("long_trailed_source_detector")


class StandardizeConfig(AlertTaskConfig, pipelineConnections=StandardizeConnections):  # type: ignore[call-arg]
    """Nothing to set."""


class StandardizeTask(AlertTask):
    """Columns and units of the APDB, and the tests before association."""

    ConfigClass = StandardizeConfig
    _DefaultName = "standardizeDiaSource"
    good_schema = Columns("dia_source_detector")
    rejected_schema = Columns("rejected_dia_source")
    trailed_schema = Columns("long_trailed_source_detector")

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return tables of no source."""
        names = ("dia_source_detector", "rejected_dia_source", "long_trailed_source_detector")
        return {name: empty_frame("DiaSource") for name in names}

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
