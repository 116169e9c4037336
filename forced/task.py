"""`ForcedPhotCcdFromDataFrameTask`: PSF fluxes of one CCD at the sky positions of DataFrames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lsst.pipe.base import NoWorkFound, Struct

from exposure import Exposure, ExposureCatalog, PhotoCalib, SkyWcs, VisitInfo
from exposure.apcorr import PSF_FLUX, ApCorrMap
from exposure.field import ChebyshevField
from exposure.mask import plane_bits, usable_pixels
from exposure.noise import sky_autocorrelation
from exposure.photometry import forced_psf_photometry
from exposure.psf import GaussianPsf
from forced.config import ForcedPhotCcdFromDataFrameConfig
from forced.errors import ForcedPhotometryError
from forced.plugins import (
    local_background,
    local_photo_calib,
    local_wcs,
    neighbours,
    pixel_flags,
    psf_moments,
)
from forced.positions import degrees_of, integer_ids
from tasks import AlertTask, IdFactory
from tasks.arrays import F64, Box
from tasks.ids import EXPOSURE_BITS, exposure_number

__all__ = ["ForcedPhotCcdFromDataFrameConfig", "ForcedPhotCcdFromDataFrameTask"]


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

    def df2RefCat(self, dfList: Sequence[Any], exposureBBox: Box, exposureWcs: SkyWcs) -> pd.DataFrame:
        """Concatenate frames and keep the rows whose pixel lies in the box.

        Parameters
        ----------
        dfList
            Frames with diaObjectId, ra, dec (deg; ``decl`` is accepted), Arrow tables of the same, or source
            catalogues (id, coord_ra, coord_dec in rad; structured arrays, astropy tables).
        exposureBBox
            (x0, y0, width, height); the edges are at pixel centres +-0.5.

        Returns
        -------
        refCat : `pandas.DataFrame`
            id, coord_ra, coord_dec (rad), x, y.
        """
        c = self.config
        empty = pd.DataFrame({c.refCatIdColumn: np.zeros(0, np.int64), c.refCatRaColumn: [], c.refCatDecColumn: []})
        frames = [self._frame_of(f) for f in dfList if f is not None]
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
        c = self.config
        if c.refCatIdColumn in df.columns:
            ids = df[c.refCatIdColumn].to_numpy()
        elif df.index.name == c.refCatIdColumn:
            ids = df.index.to_numpy()
        else:
            raise ForcedPhotometryError(f"the reference has no column {c.refCatIdColumn!r}")
        identity = integer_ids(ids, f"the reference: column {c.refCatIdColumn}")
        if len(np.unique(identity)) != len(identity):
            raise ForcedPhotometryError(f"{c.refCatIdColumn} holds an id twice")
        dec = c.refCatDecColumn if c.refCatDecColumn in df else "decl"
        return pd.DataFrame(
            {
                "id": identity,
                "coord_ra": self._radians(df, c.refCatRaColumn, hours=True),
                "coord_dec": self._radians(df, dec if dec in df else c.refCatDecColumn),
            }
        )

    def _radians(self, df: pd.DataFrame, name: str, hours: bool = False) -> F64:
        """Return a column of degrees in radians; rows without a value stay NaN, and that is said."""
        if name not in df:
            raise ForcedPhotometryError(f"the reference has no column {name!r}, but {list(df.columns)[:20]}")
        degrees = degrees_of(df[name], None, f"the reference: column {name}", hours, missing_allowed=True)
        nothing = int(np.isnan(degrees).sum())
        if nothing:
            self.log.warning("%d of %d rows of the reference have no %s: they are left out.", nothing, len(df), name)
        return np.radians(degrees)

    def _frame_of(self, table: Any) -> pd.DataFrame:
        """Return any of the accepted tables as a frame of ids and degrees."""
        frame = table.to_pandas() if hasattr(table, "to_pandas") else table
        if isinstance(frame, np.ndarray):
            frame = pd.DataFrame(
                {n: frame[n].astype(frame[n].dtype.newbyteorder("=")) for n in frame.dtype.names or ()}
            )
        c = self.config
        if c.refCatIdColumn in frame or "coord_ra" not in frame:
            return pd.DataFrame(frame)
        where = "the reference: column"
        return pd.DataFrame({
            c.refCatIdColumn: frame["id"],
            c.refCatRaColumn: degrees_of(frame["coord_ra"], "rad", f"{where} coord_ra (rad)", True, missing_allowed=True),
            c.refCatDecColumn: degrees_of(frame["coord_dec"], "rad", f"{where} coord_dec (rad)", missing_allowed=True),
        })  # fmt: skip

    def mergeAndFilterReferences(
        self, exposure: Exposure, refCats: Sequence[Any], refWcs: SkyWcs | None = None
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
        return exposure_number(visit, detector)

    def generateMeasCat(
        self, exposureDataId: Any, exposure: Exposure, refCat: pd.DataFrame, refWcs: SkyWcs | None = None,
        idPackerName: str = "visit_detector",
    ) -> tuple[pd.DataFrame, int]:  # fmt: skip
        """Return (empty measurement rows in reference order, exposure id)."""
        factory = (
            exposureDataId
            if hasattr(exposureDataId, "take")
            else IdFactory(self.getExposureId(exposure), EXPOSURE_BITS)
        )
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
            raise ForcedPhotometryError("the exposure has no PSF", **exposure.where)
        x, y = exposure.require_wcs().sky_to_pixel(np.degrees(refCat.coord_ra), np.degrees(refCat.coord_dec))
        m = psf_moments(exposure, x, y)
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
        if skyCorr is not None and self.config.doApplySkyCorr:
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
            ``measCat`` with base_PsfFlux_instFlux(Err), flags, chi2, area, npixels; base_PixelFlags_*,
            base_LocalBackground_*, base_LocalPhotoCalib*, base_LocalWcs_*, base_TransformedCentroidFromCoord_x and _y;
            nNeighbours (within two FWHM); psfFlux and psfFluxErr (nJy).

        Raises
        ------
        ForcedPhotometryError
            The exposure has no PSF.
        """
        if exposure.psf is None:
            raise ForcedPhotometryError("the exposure has no PSF", **exposure.where)
        x, y = exposure.require_wcs().sky_to_pixel(np.degrees(refCat.coord_ra), np.degrees(refCat.coord_dec))
        out = measCat.copy().reset_index(drop=True)
        out["base_TransformedCentroidFromCoord_x"], out["base_TransformedCentroidFromCoord_y"] = x, y
        table = forced_psf_photometry(
            exposure.image, exposure.variance, exposure.psf, x, y, origin=exposure.origin, bad=self._bad(exposure),
            weighting=self.config.weighting, correlation=self._correlation(exposure),
        )  # fmt: skip
        for name in ("instFlux", "instFluxErr", "chi2", "npixels", "area", "flag", "flag_edge", "flag_noGoodPixels"):
            out[f"base_PsfFlux_{name}"] = table[name]
        out["base_InvalidPsf_flag"] = table.flag_invalidPsf
        if self.config.doApCorr:
            self._correct(out, exposure, x, y)
        moments = psf_moments(exposure, x, y)
        columns = {
            **pixel_flags(exposure, x, y, moments, self.config.psfFootprintScaling),
            **local_background(exposure, x, y, moments), **local_photo_calib(exposure, x, y), **local_wcs(exposure, x, y),
            "nNeighbours": neighbours(x, y, moments),
        }  # fmt: skip
        columns["psfFlux"] = out.base_PsfFlux_instFlux.to_numpy() * columns["base_LocalPhotoCalib"]
        columns["psfFluxErr"] = out.base_PsfFlux_instFluxErr.to_numpy() * columns["base_LocalPhotoCalib"]
        return Struct(measCat=pd.concat([out, pd.DataFrame(columns)], axis=1))

    def _bad(self, exposure: Exposure) -> Any:
        bits = plane_bits(self.config.badMaskPlanes)
        return (exposure.mask & bits) != 0 if bits else None

    def _correlation(self, exposure: Exposure) -> Any:
        if not self.config.doCorrelatedNoise:
            return None
        good = usable_pixels(exposure.image, exposure.variance, exposure.mask, plane_bits(["BAD", "SAT", "NO_DATA"]))
        found = sky_autocorrelation(exposure.image, exposure.variance, good)
        if found is None:
            self.log.warning("Too little blank sky to measure the noise's correlation: pixels count as independent.")
        return found

    def _correct(self, out: pd.DataFrame, exposure: Exposure, x: Any, y: Any) -> None:
        factor = None
        if exposure.ap_corr is not None:
            factor = exposure.ap_corr.at(PSF_FLUX, np.nan_to_num(x), np.nan_to_num(y))
        if factor is None:
            self.log.warning("The exposure has no aperture correction for %s.", PSF_FLUX)
            if exposure.ap_corr is not None:
                out["base_PsfFlux_flag_apCorr"] = True
            return
        good = np.isfinite(factor) & (factor > 0)
        out["base_PsfFlux_flag_apCorr"] = ~good
        if self.config.doFlagApCorrFailures:
            out["base_PsfFlux_flag"] |= ~good
        out["base_PsfFlux_apCorr"] = factor
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
        references = self.mergeAndFilterReferences(exposure, list(inputs["refCat"]), inputs.get("refWcs"))
        cat, exposure_id = self.generateMeasCat(None, exposure, references)
        self.attachFootprints(cat, references, exposure)
        butlerQC.put(self.run(cat, exposure, references, exposureId=exposure_id), outputRefs)

    def _empty_output(self) -> pd.DataFrame:
        """Return the output of no position: it has all columns and types."""
        blank = _blank()
        nothing = self.df2RefCat([], blank.bbox, blank.require_wcs())
        cat, _ = self.generateMeasCat(IdFactory(0, 1), blank, nothing)
        return pd.DataFrame(self.run(self.attachFootprints(cat, nothing, blank), blank, nothing).measCat)


def _blank() -> Exposure:
    """Return a pixel of sky with all calibrations: what an output of no rows is made with."""
    wcs = SkyWcs.tan((0.0, 0.0), (0.0, 0.0), np.eye(2))
    ap_corr = ApCorrMap({PSF_FLUX: ChebyshevField(np.ones((1, 1)), (0, 0, 1, 1))})
    return Exposure(
        np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), np.zeros((1, 1), np.int32), wcs=wcs,
        psf=GaussianPsf(1.0, 3), photo_calib=PhotoCalib(1.0), visit_info=VisitInfo(1, 0, 60000.0, 1.0, ""), band="r",
        ap_corr=ap_corr,
    )  # fmt: skip
