"""`PreloadEphemeridesTask`: which solar-system bodies a visit may see, asked before its pixels are there."""

from typing import TYPE_CHECKING, Any

import lsst.pex.config as pexConfig
import numpy as np
import pandas as pd
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.sphgeom import Region

from association.solar_system import no_bodies
from tasks.base import AlertTask
from tasks.datasets import VISIT, Columns, columns_of, writes
from tasks.quanta import quantum_errors

if TYPE_CHECKING:
    from association.orbits import Ephemerides

__all__ = ["PreloadEphemeridesConfig", "PreloadEphemeridesConnections", "PreloadEphemeridesTask"]


class PreloadEphemeridesConnections(PipelineTaskConnections, dimensions=VISIT):  # type: ignore[call-arg]
    """A visit in, a table of bodies out."""

    bodies = writes("preloaded_ss_object")
    bodies_schema = columns_of("preloaded_ss_object")


class PreloadEphemeridesConfig(PipelineTaskConfig, pipelineConnections=PreloadEphemeridesConnections):  # type: ignore[call-arg]
    """Where ephemerides come from: the service, then our own orbits, then the table; none: no body is known."""

    url = pexConfig.Field(dtype=str, default="", doc="Service of ephemerides (ALERTPROD_EPHEMERIDES_URL).")
    orbits = pexConfig.ListField(dtype=str, default=[], doc="Files of orbits (MPCORB, comets).")
    observatory = pexConfig.Field(dtype=str, default="X05", doc="Code of the observatory by the Minor Planet Center.")
    table = pexConfig.Field(dtype=str, default="", doc="Parquet table of positions, sampled in time.")


class PreloadEphemeridesTask(AlertTask):
    """Ask for the bodies around a visit."""

    ConfigClass = PreloadEphemeridesConfig
    _DefaultName = "mpSkyEphemerisQuery"
    bodies_schema = Columns("preloaded_ss_object")

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the table of no body: the columns that every source of ephemerides gives; most give more."""
        return {"preloaded_ss_object": no_bodies()}

    def run(self, region: Region, midpointMjdTai: float) -> Struct:
        """Return ``bodies``: ssObjectId, ephRa, ephDec, ... of those in the circle around a region, with a margin.

        Raises
        ------
        OrbitError
            The orbits cannot be read, or the observatory is unknown.
        SourceUnavailable
            No source answers.
        """
        source = self._source()
        if source is None:
            return Struct(bodies=no_bodies())
        from association.orbits.sources import MARGIN_DEG

        circle = region.getBoundingCircle()
        centre = np.array([circle.getCenter().x(), circle.getCenter().y(), circle.getCenter().z()])
        ra, dec = np.degrees(np.arctan2(centre[1], centre[0])) % 360, np.degrees(np.arcsin(centre[2]))
        radius = circle.getOpeningAngle().asDegrees() + MARGIN_DEG
        return Struct(bodies=source.around(midpointMjdTai, float(ra), float(dec), float(radius)))

    def _source(self) -> "Ephemerides | None":
        c = self.config
        if not (c.url or c.orbits or c.table):
            return None
        from association.orbits import FirstThatAnswers, MpSky, OrbitCatalog, PositionTable  # most runs have no source

        sources: list[Ephemerides] = []
        if c.url:
            sources.append(MpSky(c.url))
        if c.orbits:
            sources.append(OrbitCatalog.read(*c.orbits, observatory=c.observatory))
        if c.table:
            sources.append(PositionTable(pd.read_parquet(c.table)))
        return FirstThatAnswers(*sources)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Ask for the bodies of the visit's region and time, store."""
        data_id = butlerQC.quantum.dataId
        span = data_id.timespan
        middle = float(0.5 * (span.begin.tai.mjd + span.end.tai.mjd))
        with quantum_errors(self):
            result = self.run(data_id.region, middle)
        butlerQC.put(result, outputRefs)
