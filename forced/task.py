"""`ForcedPhotCcdFromDataFrameTask`: PSF fluxes of one CCD at the sky positions of DataFrames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lsst.pipe.base import NoWorkFound, Struct

from exposure import Exposure, ExposureCatalog, SkyWcs
from exposure.blank import blank_exposure
from exposure.exposure_ids import exposure_number, id_generator
from forced.config import ForcedPhotCcdFromDataFrameConfig
from forced.errors import ForcedPhotometryError
from forced.external_calibrations import apply_summary, replace_parts
from forced.measurement import Options, footprint_radii, measure_rows
from forced.references import ReferenceColumns, frame_of, source_catalog
from tasks import AlertTask, IdFactory, IdGenerator
from tasks.arrays import Box
from tasks.quanta import quantum_errors

__all__ = ["ForcedPhotCcdFromDataFrameConfig", "ForcedPhotCcdFromDataFrameTask"]


class ForcedPhotCcdFromDataFrameTask(AlertTask):
    """Force PSF photometry on a CCD at positions that come in DataFrames.

    Some arguments are there for the sake of the published signatures, and are not used: `refWcs` (references are
    positions on the sky, which no WCS of theirs can move), `idPackerName` (ids come from the source of ids that is handed
    in, else from visit and detector), `exposureId` (it would seed the noise that hides neighbours, and none are
    hidden) and `psfCache` (PSF images are computed in batches, none are kept).
    """

    ConfigClass = ForcedPhotCcdFromDataFrameConfig
    _DefaultName = "forcedPhotCcdFromDataFrame"
    dataPrefix = ""
    """Published attribute: what the name of the output begins with; no dataset of this task has a prefix."""

    def __init__(self, butler: Any = None, refSchema: Any = None, initInputs: Any = None, **kwds: Any) -> None:
        """Make the task; `butler` and `refSchema` are of the published interface, and not used."""
        super().__init__(initInputs=initInputs, **kwds)

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return an empty output table under ``forced_src``."""
        return {"forced_src": self.outputSchema}

    def makeIdFactory(self, dataRef: Any) -> IdGenerator:
        """Return the source of ids of the exposure of a `dataRef`: those of its instrument file's layout."""
        return id_generator(self.getExposure(dataRef))

    def df2RefCat(self, dfList: Sequence[Any], exposureBBox: Box, exposureWcs: SkyWcs) -> pd.DataFrame:
        """Concatenate frames and keep the rows whose pixel lies in the box.

        Parameters
        ----------
        dfList
            Frames with diaObjectId, ra, dec (deg; ``decl`` is accepted), Arrow tables of the same, or source
            catalogues (id, coord_ra, coord_dec in rad; structured arrays, astropy tables); or handles of such.
        exposureBBox
            (x0, y0, width, height); the edges are at pixel centres +-0.5.

        Returns
        -------
        refCat : `pandas.DataFrame`
            id, coord_ra, coord_dec (rad), x, y (px of the frame).

        Raises
        ------
        ForcedPhotometryError
            As for `df2SourceCat`.
        """
        c = self.config
        empty = pd.DataFrame({c.refCatIdColumn: np.zeros(0, np.int64), c.refCatRaColumn: [], c.refCatDecColumn: []})
        loaded = [f.get() if hasattr(f, "dataId") else f for f in dfList]  # handles of a butler are read here
        frames = [frame_of(f, self._columns) for f in loaded if f is not None]
        cat = self.df2SourceCat(pd.concat(frames) if frames else empty)
        x, y = exposureWcs.sky_to_pixel(np.degrees(cat.coord_ra), np.degrees(cat.coord_dec))
        cat["x"], cat["y"] = x, y
        x0, y0, width, height = exposureBBox
        with np.errstate(invalid="ignore"):
            inside = (x >= x0 - 0.5) & (x < x0 + width - 0.5) & (y >= y0 - 0.5) & (y < y0 + height - 0.5)
        return cat[inside].reset_index(drop=True)

    def df2SourceCat(self, df: pd.DataFrame) -> pd.DataFrame:
        """Return id, coord_ra, coord_dec (rad) of a frame; ids come from the column, or from an index of that name.

        Raises
        ------
        ForcedPhotometryError
            No such column or index, ids that are no integers, or an id that occurs twice.
        """
        return source_catalog(df, self._columns, self.log)

    @property
    def _columns(self) -> ReferenceColumns:
        c = self.config
        return ReferenceColumns(c.refCatIdColumn, c.refCatRaColumn, c.refCatDecColumn)

    def mergeAndFilterReferences(
        self, exposure: Exposure, refCats: Sequence[Any], refWcs: SkyWcs | None = None
    ) -> pd.DataFrame:
        """Join reference frames and keep the positions inside the exposure; `refWcs` is not used.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            The exposure has no WCS.
        ForcedPhotometryError
            No reference at all.
        """
        if exposure.wcs is None:
            raise NoWorkFound("the exposure has no WCS: no position can be measured")
        if not refCats:
            raise ForcedPhotometryError("no reference catalogue given")
        return self.df2RefCat(list(refCats), exposure.bbox, exposure.wcs)

    def fetchReferences(self, dataRef: Any, exposure: Exposure) -> pd.DataFrame:
        """Return the references of a `dataRef`: frames, paths of Parquet files, or a mapping with ``references``."""
        if isinstance(dataRef, dict):
            dataRef = dataRef["references"]
        items = dataRef if isinstance(dataRef, list | tuple) else [dataRef]
        frames = [pd.read_parquet(i) if isinstance(i, str | Path) else i for i in items]
        return self.mergeAndFilterReferences(exposure, frames)

    def getExposure(self, dataRef: Any) -> Exposure:
        """Return the exposure of a `dataRef`: an object, the path of a FITS file in our layout, or a mapping with ``exposure``."""
        if isinstance(dataRef, dict):
            dataRef = dataRef["exposure"]
        return dataRef if isinstance(dataRef, Exposure) else Exposure.read_fits(dataRef)

    def getExposureId(self, dataRef: Any) -> int:
        """Return a number for an exposure: visit and detector packed."""
        return exposure_number(self.getExposure(dataRef))

    def generateMeasCat(
        self,
        exposureDataId: Any,
        exposure: Exposure,
        refCat: pd.DataFrame,
        refWcs: SkyWcs | None = None,
        idPackerName: str = "visit_detector",
    ) -> tuple[pd.DataFrame, int]:
        """Return (empty measurement rows in reference order, exposure id).

        Parameters
        ----------
        exposureDataId
            A source of ids (`IdFactory`, `IdGenerator`); of anything else, ids are those of the exposure's instrument.
        refWcs, idPackerName
            Not used.
        """
        factory = exposureDataId if hasattr(exposureDataId, "take") else id_generator(exposure)
        out = pd.DataFrame({"forcedSourceId": factory.take(len(refCat)), self.config.refCatIdColumn: refCat["id"]})
        out["coord_ra"], out["coord_dec"] = refCat.coord_ra.to_numpy(), refCat.coord_dec.to_numpy()
        return out, self.getExposureId(exposure)

    def attachFootprints(
        self, sources: pd.DataFrame, refCat: pd.DataFrame, exposure: Exposure, refWcs: SkyWcs | None = None
    ) -> pd.DataFrame:
        """Add ``footprintRadius`` (px): the radius of the PSF at each position times ``psfFootprintScaling``.

        `refWcs` is not used.

        Raises
        ------
        ForcedPhotometryError
            The exposure has no PSF.
        """
        sources["footprintRadius"] = footprint_radii(exposure, refCat, self.config.psfFootprintScaling)
        return sources

    def prepareCalibratedExposure(
        self,
        exposure: Exposure,
        skyCorr: Any = None,
        externalSkyWcsCatalog: ExposureCatalog | None = None,
        externalPhotoCalibCatalog: ExposureCatalog | None = None,
        finalizedPsfApCorrCatalog: ExposureCatalog | None = None,
        visitSummary: ExposureCatalog | None = None,
    ) -> Exposure:
        """Replace calibrations of the exposure in place: the visit summary first, then the older catalogues.

        Parameters
        ----------
        skyCorr
            Sky (height, width) in instrument units, subtracted last where ``doApplySkyCorr`` says so.
        externalSkyWcsCatalog, externalPhotoCalibCatalog, finalizedPsfApCorrCatalog, visitSummary
            One row per detector; what a row does not have is kept as it was.

        Raises
        ------
        ForcedPhotometryError
            The summary has no row for the detector (unless configured to warn).
        """
        if visitSummary is not None and self.config.useVisitSummary:
            apply_summary(exposure, visitSummary, self.config.missingSummaryRowIsError, self.log)
        for catalog, names in (
            (externalPhotoCalibCatalog, ("photo_calib",)),
            (externalSkyWcsCatalog, ("wcs",)),
            (finalizedPsfApCorrCatalog, ("psf", "ap_corr")),
        ):
            if catalog is not None:
                replace_parts(exposure, catalog, names, self.log)
        if skyCorr is not None and self.config.doApplySkyCorr:
            exposure.image -= np.asarray(skyCorr, np.float32)
        return exposure

    def run(
        self,
        measCat: pd.DataFrame,
        exposure: Exposure,
        refCat: pd.DataFrame,
        refWcs: SkyWcs | None = None,
        exposureId: int | None = None,
    ) -> Struct:
        """Measure every row.

        Parameters
        ----------
        measCat
            N rows of `generateMeasCat`; they are left as they are.
        refCat
            The same N positions, coord_ra and coord_dec in rad (ICRS).
        refWcs, exposureId
            Not used.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``measCat`` with base_PsfFlux_instFlux(Err), flags, chi2, area, npixels; base_PixelFlags_*,
            base_LocalBackground_*, base_LocalPhotoCalib*, base_LocalWcs_*, base_TransformedCentroidFromCoord_x and _y;
            nNeighbours (within two FWHM); psfFlux and psfFluxErr (nJy).

        Raises
        ------
        ForcedPhotometryError
            The exposure has no PSF.
        """
        c = self.config
        options = Options(
            c.badMaskPlanes,
            c.weighting,
            c.doCorrelatedNoise,
            c.doApCorr,
            c.doFlagApCorrFailures,
            c.psfFootprintScaling,
        )
        return Struct(measCat=measure_rows(measCat, exposure, refCat, options, self.log))

    def runDataRef(self, dataRef: dict[str, Any], psfCache: int | None = None) -> Struct:
        """Load exposure and references of `dataRef` (keys ``exposure``, ``references``, ``output``), run, store.

        `psfCache` is not used.
        """
        exposure = self.getExposure(dataRef["exposure"])
        references = self.fetchReferences(dataRef["references"], exposure)
        cat, exposure_id = self.generateMeasCat(None, exposure, references)
        result = self.run(
            self.attachFootprints(cat, references, exposure), exposure, references, exposureId=exposure_id
        )
        if dataRef.get("output") is not None:
            self.writeOutput(dataRef["output"], result.measCat)
        return result

    def writeOutput(self, dataRef: Any, sources: pd.DataFrame) -> None:
        """Write the table as Parquet to the path `dataRef`."""
        sources.to_parquet(dataRef)

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Prepare, filter, generate, attach, run, store.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            The exposure has no WCS.
        """
        inputs = butlerQC.get(inputRefs)
        names = (
            "skyCorr",
            "externalSkyWcsCatalog",
            "externalPhotoCalibCatalog",
            "finalizedPsfApCorrCatalog",
            "visitSummary",
        )
        exposure = self.prepareCalibratedExposure(
            inputs["exposure"], **{name: inputs[name] for name in names if inputs.get(name) is not None}
        )
        with quantum_errors(self):
            references = self.mergeAndFilterReferences(exposure, list(inputs["refCat"]), inputs.get("refWcs"))
            cat, exposure_id = self.generateMeasCat(None, exposure, references)
            self.attachFootprints(cat, references, exposure)
            result = self.run(cat, exposure, references, exposureId=exposure_id)
        butlerQC.put(result, outputRefs)

    @property
    def outputSchema(self) -> pd.DataFrame:
        """The output of no position, which is stored once for a run: it has all columns and types."""
        blank = blank_exposure()
        references = self.df2RefCat([], blank.bbox, blank.require_wcs())
        cat, _ = self.generateMeasCat(IdFactory(0, 1), blank, references)
        return pd.DataFrame(self.run(self.attachFootprints(cat, references, blank), blank, references).measCat)
