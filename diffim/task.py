"""`ImageDifferenceTask`: subtract a template from an image, detect and measure what changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lsst.pipe.base import NoWorkFound, Struct, UpstreamFailureNoWorkFound
from numpy.typing import NDArray

from diffim import matching, metrics, prepare, registration
from diffim.config import ImageDifferenceConfig
from diffim.cosmic_rays import find_cosmic_rays
from diffim.detect import Detections, detect, significance
from diffim.errors import BadSubtraction, InsufficientKernelSources, NoDiaSourcesError
from diffim.glints import find_glint_trails
from diffim.kernel_fit import KernelFit
from diffim.kernel_sources import detect_kernel_sources
from diffim.measure import measure, sky_places
from diffim.pictures import Subject, draw_subtraction
from diffim.reliability import features, reliability
from diffim.satellites import allowed_sources
from diffim.star_residuals import StarResiduals, star_residuals
from diffim.streaks import find_streaks
from exposure import Exposure, ExposureCatalog, PhotoCalib, subtract_mesh
from tasks import AlertTask, IdFactory, IdGenerator
from tasks.errors import CallerError

__all__ = ["ImageDifferenceConfig", "ImageDifferenceTask"]

REGISTRATION_STARS = 400


class ImageDifferenceTask(AlertTask):
    """Subtract a template that is already on the image's pixels, detect, measure."""

    ConfigClass = ImageDifferenceConfig
    _DefaultName = "imageDifference"
    _known_fit: KernelFit | None = None

    @staticmethod
    def makeIdFactory(expId: int, expBits: int) -> IdFactory:
        """Return the older id source; see `tasks.ids.IdFactory`."""
        return IdFactory(expId, expBits)

    def getSchemaCatalogs(self) -> dict[str, Any]:
        """Return an empty table of raw measurements under ``diaSrc``."""
        return {"diaSrc": pd.DataFrame({"id": np.zeros(0, np.int64), "x": np.zeros(0), "y": np.zeros(0)})}

    def checkTemplateIsSufficient(self, templateExposure: Exposure) -> None:
        """Raise NoWorkFound when too little of the template has data."""
        self._check_coverage(prepare.coverage(templateExposure))

    def _check_coverage(self, fraction: float) -> None:
        self.put("templateCoveragePercent", 100 * fraction)
        if fraction < self.config.requiredTemplateFraction:
            raise NoWorkFound(
                f"the template covers {100 * fraction:.1f} % of the image, need "
                f"{100 * self.config.requiredTemplateFraction:.1f} %"
            )

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
        self, exposure: Exposure | None = None, selectSources: pd.DataFrame | None = None,
        templateExposure: Exposure | None = None, templateSources: pd.DataFrame | None = None,
        idFactory: IdFactory | IdGenerator | None = None, calexpBackgroundExposure: Exposure | None = None,
        subtractedExposure: Exposure | None = None,
    ) -> Struct:  # fmt: skip
        """Subtract, detect, measure.

        Parameters
        ----------
        exposure
            Calibrated science exposure with PSF. Its mask and its variance plane, and those of the template, are changed in
            place: detection planes are cleared, variances scaled.
        selectSources
            Its sources (x, y, snr, psfFlux, star, isolated, flagged); ``exposure.sources`` by default.
        templateExposure
            Template warped to the image's pixels, with a border of at least half a kernel.
        idFactory
            Where ids come from; without one the ids are 1, 2, 3, ...
        calexpBackgroundExposure
            Added to the image first with doAddCalexpBackground.
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
        if exposure is None or templateExposure is None or exposure.psf is None:
            raise CallerError("image differencing needs a science exposure with PSF and a template")
        sources = exposure.sources if selectSources is None else selectSources
        if sources is None and self.config.allowKernelSourceDetection:
            sources = self._own_sources(exposure)
        if sources is None:
            raise CallerError("no sources to take kernel stars from: characterise the exposure first")
        template = templateExposure
        if self.config.doAddCalexpBackground and calexpBackgroundExposure is not None:
            exposure.image += calexpBackgroundExposure.image
        result = Struct(
            subtractedExposure=subtractedExposure, scoreExposure=None, warpedExposure=templateExposure,
            matchedExposure=None, subtractRes=None, diaSources=None, selectSources=sources,
            spatiallySampledMetrics=None,
        )  # fmt: skip
        with self.step("subtract"):
            prepare.check_match(exposure, template)
            self._check_psfs(exposure, template)
            self._check_coverage(prepare.coverage(template, exposure))
            self._prepare(exposure, template)
            if self.config.doUseRegister and self.config.doSubtract:
                template = result.warpedExposure = self._register(exposure, template, sources)
            if self.config.doSubtract:
                self._subtract(exposure, template, sources, result)
        if self.config.doDetection:
            if result.subtractedExposure is None:
                raise CallerError("doSubtract is off and no difference was given")
            self._detect(exposure, template, sources, result, idFactory)
        return result

    def runWithKernel(
        self, exposure: Exposure, templateExposure: Exposure, subtractRes: KernelFit,
        selectSources: pd.DataFrame | None = None, idFactory: IdFactory | IdGenerator | None = None,
    ) -> Struct:  # fmt: skip
        """Do what `run` does with a kernel that an earlier `run` on the same images found (its ``subtractRes``)."""
        self._known_fit = subtractRes
        try:
            return self.run(exposure, selectSources, templateExposure, idFactory=idFactory)
        finally:
            self._known_fit = None

    def runDebug(
        self, exposure: Exposure, subtractRes: Any, selectSources: pd.DataFrame | None, kernelSources: pd.DataFrame | None,
        diaSources: pd.DataFrame | None, subtractedExposure: Exposure | None = None,
        matchedExposure: NDArray[np.float32] | None = None, folder: str | Path = "diffim-debug",
    ) -> list[Path]:  # fmt: skip
        """Draw one subtraction; returns the paths of the pictures (see `diffim.pictures.draw_subtraction`).

        Parameters
        ----------
        exposure, subtractRes, diaSources, subtractedExposure, matchedExposure
            The image and what `run` returned for it.
        selectSources, kernelSources
            Taken for the sake of the published interface; the fit knows its stars.
        folder
            Where the pictures go.
        """
        if subtractedExposure is None:
            raise CallerError(
                "runDebug draws a difference: give subtractedExposure", visit=exposure.key[0], detector=exposure.key[1]
            )
        convolved = str(self.metadata["convolved"]) if "convolved" in self.metadata else ""
        subject = Subject(subtractedExposure, exposure, matchedExposure, subtractRes, diaSources, convolved)
        return draw_subtraction(subject, Path(folder))

    def _check_psfs(self, science: Exposure, template: Exposure) -> None:
        """Note the PSF sizes; where one is defined nowhere there is nothing to match."""
        for key, e in (("sciencePsfSize", science), ("templatePsfSize", template)):
            if e.psf is None:
                raise CallerError(f"the {key[:-7]} exposure has no PSF", visit=science.key[0], detector=science.key[1])
            fwhm = matching.psf_fwhm(e.psf, e.bbox)
            if not np.isfinite(fwhm):
                raise UpstreamFailureNoWorkFound(f"the PSF of the {key[:-7]} image is defined nowhere on it")
            self.put(key, fwhm)

    def _prepare(self, science: Exposure, template: Exposure) -> None:
        if self.config.doScaleTemplateVariance:
            self.put("scaleTemplateVarianceFactor", prepare.scale_variance(template))
        if self.config.doScaleVariance:
            self.put("scaleTemplateVarianceFactor", prepare.scale_variance(template))
            self.put("scaleScienceVarianceFactor", prepare.scale_variance(science))
        prepare.prepare_masks(science, template)  # after the scaling, which leaves out what was detected
        if self.config.doFindCosmicRays:
            self._mark_cosmic_rays(science, template, "scienceCosmicRays")

    def _register(self, science: Exposure, template: Exposure, sources: pd.DataFrame) -> Exposure:
        """Return the template, resampled where its stars do not lie where those of the image do."""
        assert science.psf is not None
        bright = sources[(sources.snr > 20) & ~sources.flagged & sources.isolated].head(REGISTRATION_STARS)
        fwhm = matching.psf_fwhm(science.psf, science.bbox)
        stars = registration.displacement_at_stars(science, template, bright, fwhm)
        if stars[0].size < 3:
            self.log.warning("Only %d stars to check the registration with: it is taken as it is.", stars[0].size)
            return template
        found = registration.fit_displacement(*stars, science.bbox)
        self.put("registrationShift", found.rms)
        self.put("registrationScatter", found.scatter)
        self.put("registrationOrder", found.order)
        if found.rms < self.config.registerMinShift:
            return template
        return registration.resampled(template, found)

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
        found = registration.fit_displacement(px[first], py[first], dx, dy, np.zeros(len(dx)), templateExposure.bbox)
        matches = pd.DataFrame({"templateIndex": second, "selectIndex": first, "distance": np.hypot(dx, dy)})
        return Struct(wcs=registration.moved_wcs(wcs, found), matches=matches)

    def _mark_cosmic_rays(self, image: Exposure, template: Exposure, key: str) -> None:
        assert image.psf is not None
        good = image.good("SAT", "BAD", "CR", "SUSPECT")
        rays = find_cosmic_rays(
            image.image, image.variance, good, image.psf, template.cutout(*image.bbox).image,
            prepare.flux_unit_ratio(image, template),
        )  # fmt: skip
        image.set_plane("CR", rays)
        self.put(key, int(rays.sum()))

    def _own_sources(self, science: Exposure) -> pd.DataFrame:
        found = detect_kernel_sources(science)
        self.put("nKernelSourcesDetected", len(found))
        return found

    def _match(self, science: Exposure, template: Exposure, sources: pd.DataFrame) -> matching.Matched:
        """Match and subtract; where the stars do not suffice, with stars found here, if that is allowed."""
        c = self.config

        def match(stars: pd.DataFrame) -> matching.Matched:
            if c.subtractAlgorithm == "ZOGY":
                return matching.match_and_subtract_proper(science, template, stars)
            return matching.match_and_subtract(
                science, template, stars, mode=c.mode, kernel_size=c.kernelSize, kernel_order=c.spatialKernelOrder,
                background_order=c.spatialBgOrder, decorrelate=c.doDecorrelation, min_stars=c.minKernelSources,
                max_stars=c.maxKernelSources, known=self._known_fit, subtract_background=c.doSubtractBackground,
            )  # fmt: skip

        try:
            try:
                return match(sources)
            except InsufficientKernelSources as error:
                if not c.allowKernelSourceDetection or "nKernelSourcesDetected" in self.metadata:
                    raise
                self.log.warning("%s: stars are searched for.", error)
                return match(self._own_sources(science))
        except InsufficientKernelSources as error:
            percent = float(self.metadata["templateCoveragePercent"])
            if percent < 100 * c.minTemplateFractionForExpectedSuccess:
                raise NoWorkFound(f"the template covers only {percent:.1f} % of the image, and: {error}") from error
            raise

    def _subtract(self, science: Exposure, template: Exposure, sources: pd.DataFrame, result: Struct) -> None:
        c = self.config
        assert science.psf is not None
        done = self._match(science, template, sources)
        self.put("convolved", done.convolved)
        self.put("templateUnit", done.unit)
        reach = matching.psf_fwhm(science.psf, science.bbox)
        if done.fit is not None:
            self._report_fit(done.fit, science)
            reach += done.fit.kernel.size // 2
        difference = done.difference
        prepare.mark_saturated_haloes(difference, reach)
        if c.doSubtractBackground:
            planes = ("BAD", "EDGE", "SAT", "SUSPECT", "CR")
            subtract_mesh(difference, c.backgroundMesh, *planes, clip=3.0)  # what stands out is left out
        if c.doScaleDiffimVariance:
            self.put("scaleDiffimVarianceFactor", prepare.scale_variance(difference))
        result.subtractedExposure, result.subtractRes = difference, done.fit
        result.matchedExposure = done.matched

    def _report_fit(self, fit: KernelFit, science: Exposure) -> None:
        """Write what the kernel's fit says of itself to the metadata; raise where it is too poor."""
        for key, value in {
            "spatialKernelSum": fit.kernel.kernel_sum, "nKernelCandidates": fit.n_candidates,
            "nKernelUsed": fit.n_used, "nKernelRejected": fit.n_rejected, "nKernelHeldOut": fit.n_held_out,
            "kernelResidualRms": fit.residual_rms, "kernelStarScatter": fit.star_scatter,
            "spatialConditionNum": fit.kernel.condition,
            "kernelOrder": fit.kernel.kernel_order, "ALKernelSize": fit.kernel.size,
            "ALBasisMode": fit.kernel.basis.mode, "ALBasisSigGauss": list(fit.kernel.basis.sigmas),
        }.items():  # fmt: skip
            self.put(key, value)
        if self.config.maxResidual and fit.residual_rms > self.config.maxResidual:
            raise BadSubtraction(
                f"residual / sigma of the held-out stars is {fit.residual_rms:.2f}, more than {self.config.maxResidual}",
                visit=science.key[0], detector=science.key[1],
            )  # fmt: skip

    def _detect(
        self,
        science: Exposure,
        template: Exposure,
        sources: pd.DataFrame,
        result: Struct,
        factory: IdFactory | IdGenerator | None,
    ) -> None:
        difference = result.subtractedExposure
        with self.step("detect"):
            if self.config.doFindCosmicRays:
                self._mark_cosmic_rays(difference, template, "cosmic_ray_count")
            if self.config.doMaskStreaks:
                streaks = find_streaks(
                    difference.image, difference.variance, difference.good("BAD", "SAT", "CR", "SUSPECT", "EDGE"),
                    matching.psf_fwhm(difference.psf, difference.bbox),
                )  # fmt: skip
                difference.set_plane("STREAK", streaks)
                self.put("nStreakPixels", int(streaks.sum()))
            found = self._significant(difference, sources, result)
            if self.config.doSkySources:
                found = found.with_places(*sky_places(difference, self.config.nSkySources))
        if self.config.doMeasurement:
            with self.step("measure"):
                result.diaSources = self._measure(science, template, found, result, factory)
        self._report_quality(science, template, sources, result)

    def _measure(
        self, science: Exposure, template: Exposure, found: Detections, result: Struct,
        factory: IdFactory | IdGenerator | None,
    ) -> pd.DataFrame:  # fmt: skip
        unit = self._template_unit(science, template)
        table = measure(result.subtractedExposure, science, template, found, template_unit=unit)
        keep = ~table[list(self.config.badSourceFlags)].any(axis=1)
        table = table[keep].reset_index(drop=True)
        if self.config.doReliability:
            score, version = reliability(features(result.subtractedExposure, template, table))
            table = pd.concat([table, pd.DataFrame({"reliability": score, "reliabilityVersion": version})], axis=1)
            sure = score >= self.config.minReliability
            self.put("nRemovedUnreliable", int((~sure).sum()))
            table = table[sure].reset_index(drop=True)
        trail, n_trails = np.zeros(len(table), np.bool_), 0
        if self.config.doFindGlints:
            trail, trails = find_glint_trails(table)
            n_trails = len(trails)
        ids = factory.take(len(table)) if factory else np.arange(1, len(table) + 1, dtype=np.int64)
        if self.config.satelliteFilterUrl:
            allowed = allowed_sources(self.config.satelliteFilterUrl, result.subtractedExposure, table, ids)
            self.put("nRemovedBySatelliteFilter", int((~allowed).sum()))
            table, ids, trail = table[allowed].reset_index(drop=True), ids[allowed], trail[allowed]
        if self.config.raiseOnNoDiaSources and not (~table.sky_source).any():
            raise NoDiaSourcesError("no source is left", visit=science.key[0], detector=science.key[1])
        self.put("nMergedDiaSources", len(found.x))
        self.put("nRemovedBadFlagged", int((~keep).sum()))
        self.put("nDiaSources", int((~table.sky_source).sum()))
        self.put("nGlintTrails", n_trails)
        return pd.concat([pd.DataFrame({"id": ids, "glint_trail": trail}), table], axis=1)

    def _report_quality(self, science: Exposure, template: Exposure, sources: pd.DataFrame, result: Struct) -> None:
        """Write depth, noise and residuals of this difference to the metadata."""
        difference = result.subtractedExposure
        sizes = (float(self.metadata["sciencePsfSize"]), float(self.metadata["templatePsfSize"]))
        for key, value in metrics.quality(difference, science, template, sources, *sizes).items():
            self.put(key, value)
        if self.config.doSpatialMetrics and result.diaSources is not None:
            kernel = None if result.subtractRes is None else result.subtractRes.kernel
            result.spatiallySampledMetrics = metrics.sample_metrics(
                difference, science, template, result.diaSources, kernel
            )

    def _template_unit(self, science: Exposure, template: Exposure) -> float:
        """Return counts of the difference per count of the template: the kernel knows best."""
        if "templateUnit" in self.metadata:
            return float(self.metadata["templateUnit"])
        return prepare.flux_unit_ratio(science, template)

    def _significant(self, difference: Exposure, sources: pd.DataFrame, result: Struct) -> Detections:
        residuals = StarResiduals(0.0, 0.0, 0)
        if self.config.doResidualModel and result.matchedExposure is not None:
            residuals = star_residuals(difference, sources)
        self.put("starFluxResidual", residuals.flux_error)
        self.put("starPositionResidual", residuals.position_error)
        good = difference.good("BAD", "SAT", "CR")
        assert difference.psf is not None
        s = significance(
            difference.image, difference.variance, good, difference.psf, difference.origin,
            result.matchedExposure, residuals.flux_error, residuals.position_error,
            gaussian=not self.config.useScoreImageDetection,
        )  # fmt: skip
        self.put("significanceScale", s.scale)
        self.put("differencePsfFwhm", s.fwhm)
        if self.config.doWriteScore:
            result.scoreExposure = Exposure(
                s.image.copy(), np.ones_like(s.image), difference.mask.copy(), origin=difference.origin,
                wcs=difference.wcs, visit_info=difference.visit_info, band=difference.band, photo_calib=PhotoCalib(1.0),
            )  # fmt: skip
        found = detect(s, self.config.detectionThreshold)
        self.put("nPixelsDetectedPositive", found.n_positive_pixels)
        self.put("nPixelsDetectedNegative", found.n_negative_pixels)
        difference.set_plane("DETECTED", s.image > self.config.detectionThreshold)
        difference.set_plane("DETECTED_NEGATIVE", s.image < -self.config.detectionThreshold)
        return found
