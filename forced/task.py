"""`ForcedPhotCcdFromDataFrameTask`: PSF fluxes of one CCD at the sky positions of DataFrames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lsst.pex.config as pexConfig
import numpy as np
import pandas as pd
from lsst.pipe.base import NoWorkFound, Struct

from exposure import Exposure, ExposureCatalog, SkyWcs
from exposure.apcorr import PSF_FLUX
from exposure.photometry import forced_psf_photometry
from forced.errors import ForcedPhotometryError
from tasks import AlertTask, AlertTaskConfig, IdFactory
from tasks.base import AlertTaskConnections

__all__ = ["ForcedPhotCcdFromDataFrameConfig", "ForcedPhotCcdFromDataFrameTask"]


class ForcedPhotCcdFromDataFrameConfig(AlertTaskConfig, pipelineConnections=AlertTaskConnections):  # type: ignore[call-arg]
    """Configuration; names are those that users of the Rubin task know."""

    doApCorr = pexConfig.Field(dtype=bool, default=True, doc="Multiply fluxes with the aperture correction?")
    useVisitSummary = pexConfig.Field(dtype=bool, default=True, doc="Take calibrations from a visit summary?")
    missingSummaryRowIsError = pexConfig.Field(
        dtype=bool, default=True, doc="No row for the detector: error or warning?"
    )
    footprintSource = pexConfig.ChoiceField(
        dtype=str, default="psf", doc="Where footprints come from.",
        allowed={"psf": "ellipses of the PSF", "transformed": "those of the reference (none in a table)"},
    )  # fmt: skip
    psfFootprintScaling = pexConfig.Field(dtype=float, default=3.0, doc="Footprint radius in PSF sigma.")
    refCatIdColumn = pexConfig.Field(dtype=str, default="diaObjectId", doc="Id column of the reference.")
    refCatRaColumn = pexConfig.Field(dtype=str, default="ra", doc="Right ascension column, deg.")
    refCatDecColumn = pexConfig.Field(dtype=str, default="dec", doc="Declination column, deg.")

    def validate(self) -> None:
        """Refuse footprints that a table cannot have."""
        super().validate()
        if self.footprintSource == "transformed":
            raise ValueError("footprintSource 'transformed' needs footprints in the reference; a table has none")


class ForcedPhotCcdFromDataFrameTask(AlertTask):
    """Force PSF photometry on a CCD at positions that come in DataFrames."""

    ConfigClass = ForcedPhotCcdFromDataFrameConfig
    _DefaultName = "forcedPhotCcdFromDataFrame"
    dataPrefix = ""

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return an empty output table under ``forced_src``."""
        return {"forced_src": self._empty_output()}

    @staticmethod
    def makeIdFactory(expId: int, expBits: int) -> IdFactory:
        """Return the older id source."""
        return IdFactory(expId, expBits)

    def df2RefCat(
        self, dfList: Sequence[pd.DataFrame], exposureBBox: tuple[int, int, int, int], exposureWcs: SkyWcs
    ) -> pd.DataFrame:
        """Concatenate frames and keep the rows whose pixel lies in the box.

        Parameters
        ----------
        dfList
            Frames with diaObjectId, ra, dec (deg; ``decl`` is accepted).
        exposureBBox
            (x0, y0, width, height); the edges are at pixel centres +-0.5.

        Returns
        -------
        refCat : `pandas.DataFrame`
            id, coord_ra, coord_dec (rad), x, y.
        """
        frames = [f for f in dfList if f is not None]
        joined = (
            pd.concat(frames) if frames else pd.DataFrame({"diaObjectId": np.zeros(0, np.int64), "ra": [], "dec": []})
        )
        cat = self.df2SourceCat(joined)
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
        c = self.config
        if c.refCatIdColumn in df.columns:
            ids = df[c.refCatIdColumn].to_numpy()
        elif df.index.name == c.refCatIdColumn:
            ids = df.index.to_numpy()
        else:
            raise ForcedPhotometryError(f"the reference has no column {c.refCatIdColumn!r}")
        if ids.dtype.kind not in "iu":
            raise ForcedPhotometryError(f"{c.refCatIdColumn} must be int64, got {ids.dtype}")
        if len(np.unique(ids)) != len(ids):
            raise ForcedPhotometryError(f"{c.refCatIdColumn} holds an id twice")
        dec = c.refCatDecColumn if c.refCatDecColumn in df else "decl"
        return pd.DataFrame(
            {
                "id": ids.astype(np.int64),
                "coord_ra": np.radians(df[c.refCatRaColumn].to_numpy(np.float64)),
                "coord_dec": np.radians(df[dec].to_numpy(np.float64)),
            }
        )

    def mergeAndFilterReferences(
        self, exposure: Exposure, refCats: Sequence[pd.DataFrame], refWcs: SkyWcs | None = None
    ) -> pd.DataFrame:
        """Join reference frames and keep those inside the exposure.

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
        """Return the references of a `dataRef`: frames, or paths of Parquet files, that overlap the exposure."""
        items = dataRef if isinstance(dataRef, list | tuple) else [dataRef]
        frames = [pd.read_parquet(i) if isinstance(i, str | Path) else i for i in items]
        return self.mergeAndFilterReferences(exposure, frames)

    def getExposure(self, dataRef: Any) -> Exposure:
        """Return the exposure of a `dataRef`: an object, or the path of a FITS file in our layout."""
        return dataRef if isinstance(dataRef, Exposure) else Exposure.read_fits(dataRef)

    def getExposureId(self, dataRef: Any) -> int:
        """Return a number for an exposure: visit and detector packed."""
        visit, detector = self.getExposure(dataRef).key
        return visit * 1000 + detector

    def generateMeasCat(
        self, exposureDataId: Any, exposure: Exposure, refCat: pd.DataFrame, refWcs: SkyWcs | None = None,
        idPackerName: str = "visit_detector",
    ) -> tuple[pd.DataFrame, int]:  # fmt: skip
        """Return (empty measurement rows in reference order, exposure id)."""
        factory = exposureDataId if hasattr(exposureDataId, "take") else IdFactory(self.getExposureId(exposure), 40)
        out = pd.DataFrame({"forcedSourceId": factory.take(len(refCat)), self.config.refCatIdColumn: refCat["id"]})
        out["coord_ra"], out["coord_dec"] = refCat.coord_ra.to_numpy(), refCat.coord_dec.to_numpy()
        return out, self.getExposureId(exposure)

    def attachFootprints(
        self, sources: pd.DataFrame, refCat: pd.DataFrame, exposure: Exposure, refWcs: SkyWcs | None = None
    ) -> pd.DataFrame:
        """Add footprint radii (px): PSF moments at each position times ``psfFootprintScaling``.

        Raises
        ------
        ForcedPhotometryError
            The exposure has no PSF.
        """
        if exposure.psf is None:
            raise ForcedPhotometryError("the exposure has no PSF", visit=exposure.key[0], detector=exposure.key[1])
        x, y = exposure.require_wcs().sky_to_pixel(np.degrees(refCat.coord_ra), np.degrees(refCat.coord_dec))
        m = exposure.psf.moments_at(np.nan_to_num(x), np.nan_to_num(y)) if len(refCat) else np.zeros((0, 3))
        sources["footprintRadius"] = self.config.psfFootprintScaling * np.sqrt(0.5 * (m[:, 0] + m[:, 1]))
        return sources

    def prepareCalibratedExposure(
        self, exposure: Exposure, skyCorr: Any = None, externalSkyWcsCatalog: ExposureCatalog | None = None,
        externalPhotoCalibCatalog: ExposureCatalog | None = None,
        finalizedPsfApCorrCatalog: ExposureCatalog | None = None, visitSummary: ExposureCatalog | None = None,
    ) -> Exposure:  # fmt: skip
        """Replace calibrations: the visit summary first, then the older catalogues; the sky correction last.

        Raises
        ------
        ForcedPhotometryError
            The summary has no row for the detector (unless configured to warn).
        """
        detector = exposure.key[1]
        if visitSummary is not None and self.config.useVisitSummary:
            record = visitSummary.find(detector)
            if record is None:
                text = f"the visit summary has no row for detector {detector}"
                if self.config.missingSummaryRowIsError:
                    raise ForcedPhotometryError(text, visit=exposure.key[0], detector=detector)
                self.log.warning(text)
            else:
                for name in ("photo_calib", "wcs", "psf", "ap_corr"):
                    if getattr(record, name) is not None:
                        setattr(exposure, name, getattr(record, name))
        for catalog, names in (
            (externalPhotoCalibCatalog, ("photo_calib",)), (externalSkyWcsCatalog, ("wcs",)),
            (finalizedPsfApCorrCatalog, ("psf", "ap_corr")),
        ):  # fmt: skip
            record = catalog.find(detector) if catalog is not None else None
            if catalog is not None and (record is None or any(getattr(record, n) is None for n in names)):
                self.log.warning("No %s for detector %d: the original is kept.", "/".join(names), detector)
            elif record is not None:
                for name in names:
                    setattr(exposure, name, getattr(record, name))
        if skyCorr is not None:
            exposure.image -= np.asarray(skyCorr, np.float32)
        return exposure

    def run(
        self, measCat: pd.DataFrame, exposure: Exposure, refCat: pd.DataFrame, refWcs: SkyWcs | None = None,
        exposureId: int | None = None,
    ) -> Struct:  # fmt: skip
        """Measure every row.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``measCat`` with x, y, base_PsfFlux_instFlux(Err), flags, chi2, area, npixels, localPhotoCalib, psfFlux and
            psfFluxErr (nJy).

        Raises
        ------
        ForcedPhotometryError
            The exposure has no PSF.
        """
        if exposure.psf is None:
            raise ForcedPhotometryError("the exposure has no PSF", visit=exposure.key[0], detector=exposure.key[1])
        x, y = exposure.require_wcs().sky_to_pixel(np.degrees(refCat.coord_ra), np.degrees(refCat.coord_dec))
        table = forced_psf_photometry(exposure.image, exposure.variance, exposure.psf, x, y, origin=exposure.origin)
        out = measCat.copy().reset_index(drop=True)
        out["x"], out["y"] = x, y
        for name in ("instFlux", "instFluxErr", "chi2", "npixels", "area", "flag", "flag_edge", "flag_noGoodPixels"):
            out[f"base_PsfFlux_{name}"] = table[name]
        out["base_InvalidPsf_flag"] = table.flag_invalidPsf
        if self.config.doApCorr:
            self._correct(out, exposure, x, y)
        calib = exposure.photo_calib
        factor = calib.at(np.nan_to_num(x), np.nan_to_num(y)) if calib is not None else np.full(len(out), np.nan)
        out["localPhotoCalib"], out["localPhotoCalib_flag"] = factor, calib is None
        out["psfFlux"] = out.base_PsfFlux_instFlux * factor
        out["psfFluxErr"] = out.base_PsfFlux_instFluxErr * factor
        return Struct(measCat=out)

    def _correct(self, out: pd.DataFrame, exposure: Exposure, x: Any, y: Any) -> None:
        factor = None
        if exposure.ap_corr is not None:
            factor = exposure.ap_corr.at(PSF_FLUX, np.nan_to_num(x), np.nan_to_num(y))
        if factor is None:
            self.log.warning("The exposure has no aperture correction for %s.", PSF_FLUX)
            return
        good = np.isfinite(factor) & (factor > 0)
        out["base_PsfFlux_flag_apCorr"] = ~good
        out["base_PsfFlux_flag"] |= ~good
        for name in ("instFlux", "instFluxErr"):
            out[f"base_PsfFlux_{name}"] *= np.where(good, factor, 1.0)

    def runDataRef(self, dataRef: dict[str, Any], psfCache: int | None = None) -> Struct:
        """Load exposure and references of `dataRef` (keys ``exposure``, ``references``, ``output``), run, store."""
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

    def _empty_output(self) -> pd.DataFrame:
        columns = {"forcedSourceId": "i8", self.config.refCatIdColumn: "i8", "coord_ra": "f8", "coord_dec": "f8"}
        columns |= {"psfFlux": "f8", "psfFluxErr": "f8"}
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})
