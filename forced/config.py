"""Connections and configuration of `ForcedPhotCcdFromDataFrameTask`."""

import lsst.pex.config as pexConfig
import lsst.pipe.base.connectionTypes as cT

from tasks import AlertTaskConfig
from tasks.base import AlertTaskConnections
from tasks.datasets import CCD, reads, schema_of, writes

__all__ = ["ForcedPhotCcdFromDataFrameConfig", "ForcedPhotCcdFromDataFrameConnections"]


class ForcedPhotCcdFromDataFrameConnections(AlertTaskConnections, dimensions=(*CCD, "skymap", "tract")):  # type: ignore[call-arg]
    """What one quantum reads and writes."""

    exposure = reads("preliminary_visit_image")
    refCat = reads("dia_object_patch", multiple=True)
    visitSummary = reads("visit_summary", minimum=0)
    measCat = writes("dia_object_forced_source_unstandardized")
    outputSchema = cT.InitOutput(**schema_of("dia_object_forced_source_unstandardized"))


class ForcedPhotCcdFromDataFrameConfig(
    AlertTaskConfig,
    pipelineConnections=ForcedPhotCcdFromDataFrameConnections,  # type: ignore[call-arg]
):
    """Configuration; names are those that users of the Rubin task know."""

    doApCorr = pexConfig.Field(dtype=bool, default=True, doc="Multiply fluxes with the aperture correction?")
    useVisitSummary = pexConfig.Field(dtype=bool, default=True, doc="Take calibrations from a visit summary?")
    missingSummaryRowIsError = pexConfig.Field(
        dtype=bool,
        default=True,
        doc="Is a detector without a row in the visit summary an error? False: a warning, and the image's own calibrations.",
    )
    doApplySkyCorr = pexConfig.Field(
        dtype=bool, default=False, doc="Subtract the sky correction that is given (skyCorr)?"
    )
    doFlagApCorrFailures = pexConfig.Field(
        dtype=bool, default=True, doc="Set the general flag where the aperture correction fails?"
    )
    doCorrelatedNoise = pexConfig.Field(
        dtype=bool, default=False, doc="Errors with the noise's correlation as it is measured on blank sky?"
    )
    weighting = pexConfig.ChoiceField(
        dtype=str,
        default="uniform",
        doc="Weights of the pixels in the flux.",
        allowed={
            "uniform": "pixels count alike, one scale for all magnitudes",
            "inverse_variance": "1 / variance: less noise where the variance changes from pixel to pixel, but where the variance "
            "holds the photon noise of the source itself, fluxes come out too faint",
        },
    )
    badMaskPlanes = pexConfig.ListField(
        dtype=str, default=[], doc="Mask planes whose pixels are left out of the flux; none by default."
    )
    copyColumns = pexConfig.DictField(
        keytype=str,
        itemtype=str,
        default={"id": "diaObjectId"},
        doc='Reference column to output column. What it gives as id must be refCatIdColumn: {"id": "objectId"}.',
    )
    footprintSource = pexConfig.ChoiceField(
        dtype=str,
        default="psf",
        doc="Where footprints come from.",
        allowed={"psf": "ellipses of the PSF", "transformed": "those of the reference (none in a table)"},
    )
    psfFootprintScaling = pexConfig.Field(
        dtype=float, default=3.0, doc="Footprint radius in sigma of the PSF (which is in px)."
    )
    refCatIdColumn = pexConfig.Field(
        dtype=str, default="diaObjectId", doc='Id column of the reference; set copyColumns["id"] to the same.'
    )
    refCatRaColumn = pexConfig.Field(dtype=str, default="ra", doc="Column of the right ascension, ICRS, deg.")
    refCatDecColumn = pexConfig.Field(dtype=str, default="dec", doc="Column of the declination, ICRS, deg.")

    def validate(self) -> None:
        """Refuse footprints that a table cannot have."""
        super().validate()
        if self.footprintSource == "transformed":
            raise ValueError("footprintSource 'transformed' needs footprints in the reference; a table has none")
        if self.copyColumns.get("id", self.refCatIdColumn) != self.refCatIdColumn:
            raise ValueError(
                f"copyColumns gives id as {self.copyColumns['id']!r}, but refCatIdColumn is {self.refCatIdColumn!r}"
            )
