"""Connections and configuration of `DiaPipelineTask`."""

from typing import Any

import lsst.pex.config as pexConfig

from association.apdb_address import has_password
from association.new_objects import BAD_FLAGS
from association.statistics.summary import BANDS
from tasks import AlertTaskConfig
from tasks.base import AlertTaskConnections
from tasks.datasets import CCD, columns_of, reads, writes

__all__ = ["DiaPipelineConfig", "DiaPipelineConnections"]


class DiaPipelineConnections(AlertTaskConnections, dimensions=CCD):  # type: ignore[call-arg]
    """Sources and images of a detector in; what was stored, and the marker that says so, out."""

    exposure = reads("preliminary_visit_image")
    diaSourceTable = reads("dia_source_detector")
    diffIm = reads("difference_image")
    template = reads("template_detector")
    subtraction = reads("subtractImages_metadata", minimum=0)
    solarSystemObjectTable = reads("preloaded_ss_object", minimum=0)
    associatedDiaSources = writes("dia_source_apdb")
    diaForcedSources = writes("dia_forced_source_apdb")
    diaObjects = writes("dia_object_apdb")
    newDiaSources = writes("new_dia_source")
    marginalDiaSources = writes("marginal_new_dia_source")
    apdbMarker = writes("apdb_marker")
    associatedDiaSourceSchema = columns_of("dia_source_apdb")
    diaForcedSourceSchema = columns_of("dia_forced_source_apdb")
    diaObjectSchema = columns_of("dia_object_apdb")

    def __init__(self, *, config: Any = None) -> None:
        super().__init__(config=config)
        if not config.doSolarSystemAssociation:
            self.inputs.remove("solarSystemObjectTable")


class DiaPipelineConfig(AlertTaskConfig, pipelineConnections=DiaPipelineConnections):  # type: ignore[call-arg]
    """Configuration; names are those that users of the Rubin task know."""

    validBands = pexConfig.ListField(dtype=str, default=list(BANDS), doc="Bands that the database knows.")
    apdb_config_url = pexConfig.Field(
        dtype=str,
        default="",
        doc="APDB, for runs outside of the service's unit of work: file that holds its URI, or a URI without a password; "
        "empty: ALERTPROD_DATABASE_URI_FILE, ALERTPROD_DATABASE_URI.",
    )
    onStored = pexConfig.ChoiceField(
        dtype=str,
        default="error",
        doc="What to do with a detector of a visit that is in the APDB already.",
        allowed={
            "error": "refuse it",
            "reuse": "give the tables of what is stored once more, and store nothing: a run that was killed goes on",
            "replace": "take back what is stored, and store anew",
        },
        optional=False,
    )
    release_id = pexConfig.RangeField(
        dtype=int, default=0, min=0, doc="Release slot in the ids: a repetition that replaces takes the next."
    )
    alertArchive = pexConfig.Field(
        dtype=str,
        default="",
        doc="In a quantum: folder or store that alerts are written to, as the service's; empty: none.",
    )
    scaleToSeeing = pexConfig.Field(
        dtype=bool,
        default=True,
        doc="In a quantum: radii in arcsec that have their defaults grow with wide stars, as in the service.",
    )
    angleMargin = pexConfig.RangeField(
        dtype=float,
        default=2.0,
        min=0.0,
        doc="Margin around the image within which objects and their history are read, arcsec.",
    )
    imagePixelMargin = pexConfig.RangeField(
        dtype=int, default=10, min=0, doc="Objects up to so many px beyond the edge of the image count as on it."
    )
    maxDistArcSeconds = pexConfig.RangeField(dtype=float, default=1.0, min=0.0, doc="Association radius, arcsec.")
    sigmaFloorArcSeconds = pexConfig.RangeField(
        dtype=float, default=0.05, min=0.0, doc="Least error of an offset between source and object, arcsec."
    )
    fallbackSigmaArcSeconds = pexConfig.RangeField(
        dtype=float, default=0.2, min=0.0, doc="Position error of a source that has none, arcsec."
    )
    doSolarSystemAssociation = pexConfig.Field(
        dtype=bool, default=True, doc="Match known solar-system bodies before objects?"
    )
    solarSystemMaxDistArcSeconds = pexConfig.RangeField(
        dtype=float, default=1.0, min=0.0, doc="Radius within which a source is a known body, arcsec."
    )
    doRunForcedMeasurement = pexConfig.Field(
        dtype=bool, default=True, doc="Measure forced photometry at objects of the database?"
    )
    historyThreshold = pexConfig.RangeField(
        dtype=int,
        default=2,
        min=1,
        doc="Visits with a good source, the present one included, that an object needs for forced photometry.",
    )
    forcedReliabilityThreshold = pexConfig.Field(
        dtype=float, default=0.5, doc="Least reliability of a good source (forced photometry)."
    )
    forcedNeedsReliability = pexConfig.Field(
        dtype=bool,
        default=False,
        doc="Is a source without reliability a bad one? True where a model scores every source.",
    )
    forcedBadFlags = pexConfig.ListField(
        dtype=str, default=["glint_trail", "isDipole"], doc="Flags of a bad source (forced photometry)."
    )
    forcedTrailLengthThreshold = pexConfig.Field(
        dtype=float, default=1.4, doc="Longest trail of a good source (forced photometry), arcsec."
    )
    filterUnAssociatedSources = pexConfig.Field(
        dtype=bool, default=True, doc="Test unmatched sources before they become new objects?"
    )
    newObjectBadFlags = pexConfig.ListField(dtype=str, default=list(BAD_FLAGS), doc="Flags that forbid new objects.")
    newObjectFluxField = pexConfig.Field(
        dtype=str, default="apFlux", doc="Flux of DiaSource whose S/N the newObject thresholds test."
    )
    newObjectSnrThreshold = pexConfig.Field(
        dtype=float, default=0.0, doc="Least S/N of a source that becomes a new object; 0 is off."
    )
    newObjectReliabilityThreshold = pexConfig.Field(
        dtype=float, default=0.1, doc="Least reliability of a source that becomes a new object; NULL passes."
    )
    newObjectLowReliabilitySnrThreshold = pexConfig.Field(
        dtype=float, default=0.0, doc="S/N below which a source needs newObjectLowSnrReliabilityThreshold; 0 is off."
    )
    newObjectLowSnrReliabilityThreshold = pexConfig.Field(
        dtype=float, default=0.1, doc="Least reliability of sources below newObjectLowReliabilitySnrThreshold."
    )
    alertLeastDiaSources = pexConfig.RangeField(
        dtype=int, default=1, min=1, doc="Visits with an object from which on its detections are alerts; 1: all are."
    )
    alertSingleSnr = pexConfig.RangeField(
        dtype=float, default=0.0, min=0.0, doc="S/N from which one source is enough for an alert; 0 is off."
    )
    earliestMjdTai = pexConfig.Field(
        dtype=float, default=49718.0, doc="MJD (TAI) before which no exposure is taken for real (1995)."
    )
    futureDays = pexConfig.RangeField(
        dtype=float, default=1000.0, min=0.0, doc="Days that a mid-exposure may lie after now and the processing time."
    )
    maxNewDiaObjects = pexConfig.RangeField(
        dtype=int, default=0, min=0, doc="More new objects of one detector are an error; 0 is off."
    )

    def validate(self) -> None:
        """Refuse a password, which would be stored with the configuration."""
        super().validate()
        if has_password(self.apdb_config_url):
            raise ValueError(
                "apdb_config_url has a password, which would be stored with the configuration: write the URI to a file "
                "and name that, or use ALERTPROD_DATABASE_URI_FILE"
            )
