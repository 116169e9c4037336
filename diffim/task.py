"""`ImageDifferenceTask`: subtract a template from an image, detect and measure what changed.

The published front of `diffim.pipeline`: signatures, configuration, metadata, errors that the framework knows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lsst.pipe.base import NoWorkFound, Struct, UpstreamFailureNoWorkFound

from diffim import preparation
from diffim.config import ImageDifferenceConfig
from diffim.errors import NoPsf, NoTemplateCoverage
from diffim.matching import registration
from diffim.matching.kernel_fit import KernelFit
from diffim.pictures.difference_pages import Subject, draw_subtraction
from diffim.pipeline import Differencing
from diffim.result import Differenced
from diffim.source_matches import check_sources, with_matches
from diffim.stand_ins import blank_columns, stand_in
from diffim.templates.patches import merge_patches
from exposure import Exposure, ExposureCatalog
from exposure.exposure_ids import id_generator
from exposure.stars import Stars
from tasks import AlertTask, IdFactory, IdGenerator
from tasks.arrays import F32
from tasks.errors import CallerError
from tasks.quanta import quantum_errors

__all__ = ["ImageDifferenceConfig", "ImageDifferenceTask"]


@contextmanager
def _no_work() -> Iterator[None]:
    """Turn our errors of nothing to do into those that the framework knows."""
    try:
        yield
    except NoTemplateCoverage as error:
        raise NoWorkFound(str(error)) from error
    except NoPsf as error:
        raise UpstreamFailureNoWorkFound(str(error)) from error


class ImageDifferenceTask(AlertTask):
    """Subtract a template that is already on the image's pixels, detect, measure."""

    ConfigClass = ImageDifferenceConfig
    _DefaultName = "imageDifference"
    _PRODUCTS = ("subtractedExposure", "matchedExposure", "scoreExposure", "warpedExposure", "diaSources")

    def __init__(self, butler: Any = None, **kwargs: Any) -> None:
        """Make the task; `butler` is of the published interface, and not used."""
        super().__init__(**kwargs)
        self._last: Differenced | None = None
        self._partial: Differenced | None = None

    @staticmethod
    def makeIdFactory(expId: int, expBits: int) -> IdFactory:
        """Return the older id source; see `tasks.ids.IdFactory`."""
        return IdFactory(expId, expBits)

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return the table of no source under ``diaSrc``: with the columns and types of ``diaSources``."""
        if not (self.config.doDetection and self.config.doMeasurement):
            return {}
        from diffim.detect_and_measure import no_sources  # a subtraction alone does not load what it needs

        return {"diaSrc": no_sources(self.config)}

    @property
    def diaSourceSchema(self) -> pd.DataFrame:
        """The table of no source, which is stored once for a run."""
        return pd.DataFrame(self.getSchemaCatalogs()["diaSrc"])

    def checkTemplateIsSufficient(self, templateExposure: Exposure) -> None:
        """Raise NoWorkFound when too little of the template has data."""
        with _no_work():
            self._differencing().check_coverage(preparation.coverage(templateExposure))

    def _differencing(self, earlier_fit: KernelFit | None = None) -> Differencing:
        return Differencing(self.config, self.put, self.step, self.log, earlier_fit)

    def prepareCalibratedExposure(
        self, exposure: Exposure, finalizedPsfApCorrCatalog: ExposureCatalog | None = None
    ) -> Exposure:
        """Replace PSF and aperture corrections by those of the catalogue's row; both or none."""
        if finalizedPsfApCorrCatalog is None:
            return exposure
        detector = exposure.key[1]
        record = finalizedPsfApCorrCatalog.find(detector)
        if record is None or record.psf is None or record.ap_corr is None:
            self.log.warning("No PSF and aperture correction for detector %d: the originals are kept.", detector)
            return exposure
        exposure.psf, exposure.ap_corr = record.psf, record.ap_corr
        return exposure

    def run(
        self,
        exposure: Exposure | None = None,
        selectSources: pd.DataFrame | None = None,
        templateExposure: Exposure | None = None,
        templateSources: pd.DataFrame | None = None,
        idFactory: IdFactory | IdGenerator | None = None,
        calexpBackgroundExposure: Exposure | F32 | None = None,
        subtractedExposure: Exposure | None = None,
    ) -> Struct:
        """Subtract, detect, measure.

        Parameters
        ----------
        exposure
            Calibrated science exposure with PSF; None where `subtractedExposure` is given and doSubtract is off. Its mask and its variance plane, and those of the template, are changed in
            place: detection planes are cleared, variances scaled.
        selectSources
            Its sources (x, y in px, snr, psfFlux in counts, star, isolated, flagged); ``exposure.sources`` by default.
        templateExposure
            Template warped to the image's pixels, with a border of at least half a kernel; None as `exposure`.
        templateSources
            Sources of the template (ra, dec in deg, id or sourceId): the result's diaSources have ``srcMatchId`` and ``refMatchId``
            then, the id of the image's and of the template's source within diaSourceMatchRadius, 0 for none.
        idFactory
            Where ids come from; without one the ids are 1, 2, 3, ...
        calexpBackgroundExposure
            Added to the image first with doAddCalexpBackground; an array of shape (height, width), or an exposure.
        subtractedExposure
            A difference made before; needed with doSubtract off.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            subtractedExposure, scoreExposure (with doWriteScore), warpedExposure, matchedExposure, subtractRes, diaSources
            (raw measurements), selectSources, spatiallySampledMetrics (with doSpatialMetrics).

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            The template covers too little.
        MismatchError, InsufficientKernelSources, BadSubtraction, CallerError
            With visit and detector.
        """
        if templateSources is not None:
            check_sources(templateSources, "templateSources", **({} if exposure is None else exposure.where))
        result = self._run(
            exposure, templateExposure, selectSources, idFactory, calexpBackgroundExposure, subtractedExposure
        )
        if templateSources is not None and result.diaSources is not None and result.subtractedExposure is not None:
            with_ids = result.selectSources if isinstance(result.selectSources, pd.DataFrame) else None
            radius = self.config.diaSourceMatchRadius
            table = with_matches(result.diaSources, result.subtractedExposure, with_ids, templateSources, radius)
            result = self._last = replace(result, diaSources=table)
        return Struct(**vars(result))

    def runWithKernel(
        self,
        exposure: Exposure,
        templateExposure: Exposure,
        subtractRes: KernelFit,
        selectSources: pd.DataFrame | None = None,
        idFactory: IdFactory | IdGenerator | None = None,
    ) -> Struct:
        """Do what `run` does with a kernel that an earlier `run` on the same images found (its ``subtractRes``)."""
        return Struct(**vars(self._run(exposure, templateExposure, selectSources, idFactory, earlier_fit=subtractRes)))

    def _run(
        self,
        exposure: Exposure | None,
        template: Exposure | None,
        sources: pd.DataFrame | None,
        ids: IdFactory | IdGenerator | None,
        background: Exposure | F32 | None = None,
        difference: Exposure | None = None,
        earlier_fit: KernelFit | None = None,
    ) -> Differenced:
        """Check what was given and run the pipeline; errors of nothing to do become the framework's."""
        absent: list[str] = []
        if difference is not None and not self.config.doSubtract and (exposure is None or template is None):
            absent = [name for name, image in (("science", exposure), ("template", template)) if image is None]
            exposure, template = (stand_in(difference) if i is None else i for i in (exposure, template))
        if exposure is None or template is None or exposure.psf is None:
            raise CallerError("image differencing needs a science exposure with PSF and a template")
        if self.config.doAddCalexpBackground and background is not None:
            exposure.image += background.image if isinstance(background, Exposure) else background
        with _no_work():
            chosen = exposure.sources if sources is None else sources
            stars = Stars.none() if absent and chosen is None else chosen
            way = self._differencing(earlier_fit)
            try:
                self._last = way.run(exposure, template, stars, ids, difference)
            finally:
                self._partial = way.result
        if absent and self._last.diaSources is not None:
            self._last = replace(self._last, diaSources=blank_columns(self._last.diaSources, absent))
        return self._last

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Prepare the image, warp and check the template, run, store; a product that was not made is not stored.

        Of a run that fails, what was made until then is stored.
        """
        inputs = butlerQC.get(inputRefs)
        with quantum_errors(self):
            exposure, template = self._prepared(inputs["exposure"], inputs)
            kept = getattr(outputRefs, "warpedExposure", None)
            if kept is not None:  # as it was read: its mask is changed by the subtraction
                butlerQC.put(template, kept)
            self._partial, products = None, None
            try:
                products = self._from_inputs(exposure, template, inputs)
            finally:
                self._put_products(butlerQC, products or self._partial, outputRefs, kept)

    def _put_products(self, butlerQC: Any, products: Any, outputRefs: Any, kept: Any) -> None:
        """Store the products that there are, but for `kept`, which is stored already."""
        for name in self._PRODUCTS:
            ref, value = getattr(outputRefs, name, None), getattr(products, name, None)
            if ref is not None and ref is not kept and value is not None:
                butlerQC.put(value, ref)

    def runDataRef(self, sensorRef: dict[str, Any], templateIdList: list[Any] | None = None) -> Struct:
        """Do what `runQuantum` does with files.

        Parameters
        ----------
        sensorRef
            ``exposure`` and, if there are, ``selectSources``, ``calexpBackgroundExposure``, ``finalizedPsfApCorrCatalog``:
            objects or paths; ``output``: folder of the products.
        templateIdList
            Patches of the template: objects or paths; by default ``sensorRef["templates"]``.
        """
        inputs = {key: _opened(value) for key, value in sensorRef.items() if key not in ("output", "templates")}
        patches = [_opened(p) for p in (sensorRef["templates"] if templateIdList is None else templateIdList)]
        exposure, template = self._prepared(inputs.pop("exposure"), {**inputs, "coaddExposures": patches})
        result = self._from_inputs(exposure, template, inputs)
        if sensorRef.get("output") is not None:
            folder = Path(sensorRef["output"])
            folder.mkdir(parents=True, exist_ok=True)
            for name in self._PRODUCTS:
                value = getattr(result, name)
                if isinstance(value, Exposure):
                    value.write_fits(folder / f"{name}.fits")
                elif value is not None:
                    value.to_parquet(folder / f"{name}.parquet")
        return result

    def _prepared(self, exposure: Exposure, inputs: dict[str, Any]) -> tuple[Exposure, Exposure]:
        """Return the image with its final parts, and the template on its pixels, which is made of patches where none is given."""
        catalog = inputs.get("finalizedPsfApCorrCatalog") if self.config.doApplyFinalizedPsf else None
        exposure = self.prepareCalibratedExposure(exposure, catalog)
        template = inputs.get("templateExposure")
        if template is None:
            with _no_work():
                template = merge_patches(exposure, list(inputs["coaddExposures"]))
        self.checkTemplateIsSufficient(template)
        return exposure, template

    def _from_inputs(self, exposure: Exposure, template: Exposure, inputs: dict[str, Any]) -> Struct:
        return self.run(
            exposure,
            inputs.get("selectSources"),
            template,
            idFactory=id_generator(exposure, self.config.release_id),
            calexpBackgroundExposure=inputs.get("calexpBackgroundExposure"),
        )

    def runDebug(
        self,
        exposure: Exposure,
        subtractRes: Any,
        selectSources: pd.DataFrame | None,
        kernelSources: pd.DataFrame | None,
        diaSources: pd.DataFrame | None,
        subtractedExposure: Exposure | None = None,
        matchedExposure: F32 | None = None,
        folder: str | Path = "diffim-debug",
    ) -> list[Path]:
        """Draw one subtraction; returns the paths of the pictures (see `diffim.pictures.difference_pages.draw_subtraction`).

        Parameters
        ----------
        exposure, diaSources, subtractedExposure, matchedExposure
            The image and what `run` returned for it; without a difference, that which this task made last is drawn.
        subtractRes
            The kernel's fit, or all that `run` returned (of any task), whose difference is drawn then.
        selectSources, kernelSources
            Taken for the sake of the published interface; the fit knows its stars.
        folder
            Where the pictures go.
        """
        whole = subtractRes if hasattr(subtractRes, "subtractedExposure") else self._last
        if subtractedExposure is None and whole is not None:
            subtractedExposure, matched = whole.subtractedExposure, whole.matchedExposure
            matchedExposure = None if matched is None else matched.image
        if subtractedExposure is None or subtractedExposure.key != exposure.key:
            raise CallerError(
                "runDebug draws a difference: give subtractedExposure, or run the task first", **exposure.where
            )
        convolved = str(self.metadata["convolved"]) if "convolved" in self.metadata else ""
        fit = subtractRes.subtractRes if hasattr(subtractRes, "subtractedExposure") else subtractRes
        subject = Subject(subtractedExposure, exposure, matchedExposure, fit, diaSources, convolved)
        return draw_subtraction(subject, Path(folder))

    def fitAstrometry(
        self, templateSources: pd.DataFrame, templateExposure: Exposure, selectSources: pd.DataFrame
    ) -> Struct:
        """Fit a WCS of the template that puts its stars where those of the image are.

        Parameters
        ----------
        templateSources
            Sources of the template: x, y in its pixels, brightest first.
        templateExposure
            The template with the WCS to be mended.
        selectSources
            Sources of the image: ra, dec in degrees, brightest first.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            wcs (TAN-SIP) and matches (templateIndex, selectIndex, distance in px before the fit).

        Raises
        ------
        DifferencingError
            Too few stars are common to both.
        """
        wcs = templateExposure.require_wcs()
        px, py = wcs.sky_to_pixel(selectSources.ra.to_numpy(np.float64), selectSources.dec.to_numpy(np.float64))
        x, y = templateSources.x.to_numpy(np.float64), templateSources.y.to_numpy(np.float64)
        seen = np.flatnonzero(np.isfinite(px + py))
        first, second = registration.match_lists(px[seen], py[seen], x, y)
        first = seen[first]
        dx, dy = x[second] - px[first], y[second] - py[first]
        displacement = registration.fit_displacement(
            px[first], py[first], dx, dy, np.zeros(len(dx)), templateExposure.bbox
        )
        matches = pd.DataFrame({"templateIndex": second, "selectIndex": first, "distance": np.hypot(dx, dy)})
        return Struct(wcs=registration.moved_wcs(wcs, displacement), matches=matches)


def _opened(value: Any) -> Any:
    """Return an exposure or table; paths are read."""
    if not isinstance(value, str | Path):
        return value
    return pd.read_parquet(value) if str(value).endswith(".parquet") else Exposure.read_fits(value)
