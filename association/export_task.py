"""`ExportDiaObjectsTask`: the objects of the APDB on a patch of the sky, when the visits that touch it are stored."""

from typing import Any

import lsst.pex.config as pexConfig
import numpy as np
from lsst.pipe.base import PipelineTaskConfig, PipelineTaskConnections, Struct
from lsst.sphgeom import Region

from apdb import Database, VisitUnitOfWork, empty_frame
from association.apdb_address import apdb_uri, has_password
from diffim.templates.skymap import SkyMap
from tasks.base import AlertTask
from tasks.datasets import PATCH, Columns, columns_of, reads, writes
from tasks.quanta import quantum_errors

__all__ = ["ExportDiaObjectsConfig", "ExportDiaObjectsConnections", "ExportDiaObjectsTask"]


class ExportDiaObjectsConnections(PipelineTaskConnections, dimensions=PATCH):  # type: ignore[call-arg]
    """Markers of stored visits in, a table of objects out."""

    markers = reads("apdb_marker", multiple=True, deferLoad=True)  # of the visits that the export waits for
    objects = writes("dia_object_patch")
    objects_schema = columns_of("dia_object_patch")


class ExportDiaObjectsConfig(PipelineTaskConfig, pipelineConnections=ExportDiaObjectsConnections):  # type: ignore[call-arg]
    """Where the APDB is."""

    apdb_config_url = pexConfig.Field(
        dtype=str, default="", doc="APDB, as in DiaPipelineTask: file that holds its URI, or a URI without a password."
    )

    def validate(self) -> None:
        """Refuse a password, which would be stored with the configuration."""
        super().validate()
        if has_password(self.apdb_config_url):
            raise ValueError("apdb_config_url has a password: write the URI to a file and name that")


class ExportDiaObjectsTask(AlertTask):
    """Read objects out of the APDB."""

    ConfigClass = ExportDiaObjectsConfig
    _DefaultName = "loadDiaCatalogs"
    objects_schema = Columns("dia_object_patch")

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the table of no object."""
        return {"dia_object_patch": empty_frame("DiaObjectLast")}

    def run(self, region: Region, skymap: str = "", tract: int = 0, patch: int = 0) -> Struct:
        """Return ``objects``: the newest versions (DiaObjectLast columns) of the objects in a region.

        Parameters
        ----------
        skymap, tract, patch
            Of a sky map of ours those objects are given that are of this patch: each is of one, though patches overlap.

        Raises
        ------
        AssociationError
            Nothing names the APDB.
        """
        with Database(apdb_uri(self.config.apdb_config_url)).connect() as connection:
            with VisitUnitOfWork(connection) as work:
                objects = work.load_objects(region)
        ra, dec = objects.ra.to_numpy(np.float64), objects.dec.to_numpy(np.float64)
        sky = SkyMap.named(skymap)
        inside = np.asarray(region.contains(np.radians(ra), np.radians(dec)), np.bool_)
        if sky is not None:
            inside &= sky.owned(ra, dec, tract, patch)
        return Struct(objects=objects[inside].reset_index(drop=True))

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Read the objects of the patch, store."""
        with quantum_errors(self):
            patch_id = butlerQC.quantum.dataId
            result = self.run(patch_id.region, str(patch_id["skymap"]), int(patch_id["tract"]), int(patch_id["patch"]))
        butlerQC.put(result, outputRefs)
