"""The steps of a pair: prepare, register, subtract; then detect and measure. The task and the command line share them.

Nothing here knows the framework of tasks: options are read from any object that has them (`diffim.options`), numbers
go to `Differencing.put`.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from diffim import preparation
from diffim.checks.common_stars import MOST, CommonStars
from diffim.checks.gate import checks_not_made, problems
from diffim.checks.kernel import kernel_numbers, star_numbers
from diffim.checks.template import Found, Search
from diffim.detection.cosmic_rays import find_cosmic_rays
from diffim.errors import BadSubtraction, InsufficientKernelSources, NoPsf, NoTemplateCoverage, WrongTemplate
from diffim.matching import registration
from diffim.matching.kernel_fit import KernelFit
from diffim.matching.kernel_solution import MAX_CONDITION
from diffim.result import Differenced
from diffim.subtraction import match_and_subtract
from diffim.subtraction.difference_background import subtract_difference_sky
from diffim.subtraction.matched_exposure import matched_exposure
from diffim.subtraction.photon_noise import with_sky_noise
from diffim.subtraction.variance_scale import scale_variance
from exposure import Exposure
from exposure.flagging.missing import forget_missing, note_missing, refuse_missing
from exposure.psf_width import psf_fwhm
from exposure.stars import Stars
from exposure.threads import in_threads
from tasks.arrays import F64, I64
from tasks.errors import CallerError
from tasks.ids import IdFactory, IdGenerator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Differencing"]

LARGEST_MOTION = 0.9  # px between template and image that a star's stamp is moved by
NOT_SKY = ("BAD", "EDGE", "SAT", "SUSPECT", "CR")


def _with_motions(stars: Stars, rows: I64, motion: F64) -> Stars:
    """Note the motions of the stars in `rows`; those of more than `LARGEST_MOTION` are flagged instead."""
    far = np.abs(motion).max(1) > LARGEST_MOTION
    flagged, motions = stars.flagged.copy(), np.zeros((len(stars), 2))
    flagged[rows[far]] = True
    motions[rows[~far]] = motion[~far]
    return replace(stars, flagged=flagged, motion=motions)


@dataclass
class Differencing:
    """The differencing of one pair.

    Parameters
    ----------
    options
        Object with the options as attributes.
    report
        Called with each number that the steps find, ``(key, value)``.
    timed
        Context manager around each step, called with its name.
    earlier_fit
        A kernel's fit on the same images: it is applied, none is made.
    registered
        The pixels of the two are said to lie on each other: their WCS are not looked at.
    result
        What there is so far: products of a pair that fails later.
    """

    options: Any
    report: Callable[[str, Any], None] = lambda key, value: None
    timed: Callable[[str], AbstractContextManager[Any]] = nullcontext
    log: logging.Logger | logging.LoggerAdapter[Any] = field(
        default_factory=lambda: logging.getLogger("alertprod.diffim")
    )
    earlier_fit: KernelFit | None = None
    registered: bool = False
    numbers: dict[str, Any] = field(default_factory=dict)
    result: Differenced | None = None

    def put(self, key: str, value: Any) -> None:
        """Note a number."""
        self.numbers[key] = value
        self.report(key, value)

    def run(
        self,
        exposure: Exposure,
        template: Exposure,
        sources: "pd.DataFrame | Stars | None" = None,
        ids: IdFactory | IdGenerator | None = None,
        difference: Exposure | None = None,
    ) -> Differenced:
        """Subtract, detect, measure; see `diffim.task.ImageDifferenceTask.run`."""
        self.result = None
        try:
            return self._run(exposure, template, sources, ids, difference)
        finally:  # of a pair that fails, too, what there is is kept
            difference_image = None if self.result is None else self.result.subtractedExposure
            if difference_image is not None and difference_image is not difference:
                forget_missing(difference_image)

    def _run(
        self,
        exposure: Exposure,
        template: Exposure,
        sources: "pd.DataFrame | Stars | None",
        ids: IdFactory | IdGenerator | None,
        difference: Exposure | None,
    ) -> Differenced:
        """Do the steps of `run`."""
        if sources is None and self.options.allowKernelSourceDetection:
            sources = self._own_sources(exposure)
        if sources is None:
            raise CallerError("no sources to take kernel stars from: characterise the exposure first")
        stars = Stars.of(sources)
        # threads of the BLAS use up a core while they wait for work: ours are enough
        with self.timed("subtract"), threadpool_limits(limits=1, user_api="blas"):
            preparation.check_match(exposure, template, self.registered)
            refuse_missing(exposure)
            note_missing(template)
            self._check_psfs(exposure, template)
            self.check_coverage(preparation.coverage(template, exposure))
            self._prepare(exposure, template)
            if self.options.doSubtract:
                checked = self._stars_of_both(exposure, template, stars)
                template = checked.template
                if self.options.doUseRegister:
                    template, stars = self._register(exposure, checked, stars)
                matched = self._match(exposure, template, stars)
                self.result = Differenced(
                    matched.difference,
                    template,
                    sources,
                    matchedExposure=matched_exposure(exposure, template, matched),
                    subtractRes=matched.fit,
                )
                self._finish(matched, exposure, template, checked.common)
        result = self.result or Differenced(difference, template, sources)
        if self.options.doDetection:
            from diffim.detect_and_measure import detect_and_measure  # a subtraction alone does not load what it needs

            result = detect_and_measure(self, exposure, template, result, ids)
        return result

    def check_coverage(self, fraction: float) -> None:
        """Raise `NoTemplateCoverage` where the template covers too small a fraction (0 to 1) of the pixels."""
        self.put("templateCoveragePercent", 100 * fraction)
        if fraction < self.options.requiredTemplateFraction:
            raise NoTemplateCoverage(
                f"the template covers {100 * fraction:.1f} % of the image, need "
                f"{100 * self.options.requiredTemplateFraction:.1f} %"
            )

    def _check_psfs(self, science: Exposure, template: Exposure) -> None:
        """Note the PSF sizes; where one is defined nowhere there is nothing to match."""
        for name, e in (("science", science), ("template", template)):
            if e.psf is None:
                raise CallerError(f"the {name} exposure has no PSF", **science.where)
            fwhm = psf_fwhm(e.psf, e.bbox)
            if not np.isfinite(fwhm):
                raise NoPsf(f"the PSF of the {name} image is defined nowhere on it")
            self.put(f"{name}PsfSize", fwhm)

    def _prepare(self, science: Exposure, template: Exposure) -> None:
        """Scale the variances, reduce the masks and mark cosmic rays, in place."""
        if self.options.doScaleTemplateVariance:
            self.put("scaleTemplateVarianceFactor", scale_variance(template))
        if self.options.doScaleVariance:
            factors = in_threads(scale_variance, (template, science))
            self.put("scaleTemplateVarianceFactor", factors[0])
            self.put("scaleScienceVarianceFactor", factors[1])
        preparation.prepare_masks(science, template)  # after the scaling, which leaves out what was detected
        if self.options.doFindCosmicRays:
            self.mark_cosmic_rays(science, template, "scienceCosmicRays")

    def mark_cosmic_rays(self, image: Exposure, template: Exposure, key: str) -> None:
        """Set CR where an image is sharper than its PSF and than the template."""
        good = image.good("SAT", "BAD", "CR", "SUSPECT")
        rays = find_cosmic_rays(
            image.image,
            image.variance,
            good,
            image.require_psf(),
            template.cutout(*image.bbox).image,
            preparation.flux_unit_ratio(image, template),
        )
        image.set_plane("CR", rays)
        self.put(key, int(np.count_nonzero(rays)))

    def _stars_of_both(self, science: Exposure, template: Exposure, stars: Stars) -> Found:
        """Find the stars of the image in the template, which is moved where it lay within `registerReach` px.

        Raises
        ------
        WrongTemplate
            They are not there, and the gate is set to errors; or it is set to warnings, and not one of them is.
        """
        o, sizes = self.options, (self.numbers["sciencePsfSize"], self.numbers["templatePsfSize"])
        least = 0.0 if o.qualityGate == "off" else o.minTemplateStars
        search = Search(sizes, preparation.known_unit_ratio(science, template), least, o.registerReach)
        checked = search.run(science, template, stars)
        nothing = checked.common.n_found == 0  # nothing can be made of that, whoever looks at it
        if checked.problem and (o.qualityGate == "error" or (nothing and o.qualityGate == "warn")):
            raise WrongTemplate(checked.problem, **science.where)
        if checked.problem:
            self.problem(checked.problem)
        if checked.shift is not None:
            for axis, shift in zip("XY", checked.shift, strict=True):
                self.put(f"templateMoved{axis}", shift)
        if np.isnan(checked.common.share) and least:
            self.log.warning(
                "templateStarShare: whether the template is of the image's field, neither mirrored nor shifted, was not checked: "
                "%d bright stars are too few.",
                checked.common.n_expected,
            )
        for key, value in star_numbers(checked.common, science, checked.template, sizes).items():
            self.put(key, value)
        return checked

    def problem(self, text: str) -> None:
        """Note that something is wrong with this subtraction: in the metadata, once, and in the log."""
        before = str(self.numbers.get("qualityProblems", ""))
        if text not in before.split("; "):
            self.log.warning("%s.", text)
            self.put("qualityProblems", "; ".join(t for t in (before, text) if t))
            if self.options.qualityGate == "veto":
                self.put("qualityVeto", self.numbers["qualityProblems"])

    def judge(self, science: Exposure) -> None:
        """Hold what is known of the subtraction against the limits of the quality gate.

        Raises
        ------
        BadSubtraction
            One is exceeded, and the gate is set to errors.
        """
        if self.options.qualityGate == "off":
            return
        missing = checks_not_made(self.numbers, self.options)
        self.put("nChecksNotMade", len(missing))
        self.put("checksNotMade", ", ".join(missing))
        wrong = problems(self.numbers, self.options)
        if wrong and self.options.qualityGate == "error":
            self.put("qualityProblems", "; ".join(wrong))
            raise BadSubtraction("; ".join(wrong), **science.where)
        for text in wrong:
            self.problem(text)

    def _register(self, science: Exposure, checked: Found, stars: Stars) -> tuple[Exposure, Stars]:
        """Return the template, resampled where its stars do not lie where those of the image do, and the stars.

        Those that moved by themselves have their motion noted, so that they do not pull the kernel along; those that
        moved far are flagged.
        """
        template, bright = checked.template, np.flatnonzero((stars.snr > 20) & ~stars.flagged & stars.isolated)[:MOST]
        shifts = checked.common.shifts
        if not checked.apart:  # those are of all stars, not of the isolated ones
            chosen = stars.take(bright)
            shifts = registration.displacement_at_stars(science, template, chosen, self.numbers["sciencePsfSize"])
        if shifts.x.size < 3:
            self.log.warning("Only %d stars to check the registration with: it is taken as it is.", shifts.x.size)
            return template, stars
        displacement, motion = registration.register_stars(shifts, science.bbox)
        self.put("nMovedStars", int(motion.any(1).sum()))
        if motion.any():
            stars = _with_motions(stars, bright[shifts.row], motion)
        self.put("registrationShift", displacement.rms)
        self.put("registrationScatter", displacement.scatter)
        self.put("registrationOrder", displacement.order)
        if displacement.rms < self.options.registerMinShift:
            return template, stars
        return registration.resampled(template, displacement), stars

    def _own_sources(self, science: Exposure) -> "pd.DataFrame":
        """Return sources that are searched for on the image itself."""
        from diffim.measurement.science_stars import detect_kernel_sources

        sources = detect_kernel_sources(science)
        self.put("nKernelSourcesDetected", len(sources))
        return sources

    def _match(self, science: Exposure, template: Exposure, given: Stars) -> match_and_subtract.Matched:
        """Match and subtract; where the stars do not suffice, with stars found here, if that is allowed."""
        o = self.options

        def match(stars: Stars) -> match_and_subtract.Matched:
            if o.subtractAlgorithm == "ZOGY":
                return match_and_subtract.match_and_subtract_proper(science, template, stars)
            options = match_and_subtract.MatchOptions(
                mode=o.mode,
                kernel_size=o.kernelSize,
                kernel_order=o.spatialKernelOrder,
                background_order=o.spatialBgOrder,
                subtract_background=o.doSubtractBackground,
                decorrelate=o.doDecorrelation,
                min_stars=o.minKernelSources,
                max_stars=o.maxKernelSources,
                want_matched=o.doWriteMatchedExp or (o.doDetection and o.doResidualModel),
            )
            return match_and_subtract.match_and_subtract(science, template, stars, options, self.earlier_fit)

        try:
            try:
                return match(given)
            except InsufficientKernelSources as error:
                if not o.allowKernelSourceDetection or "nKernelSourcesDetected" in self.numbers:
                    raise
                self.log.warning("%s: stars are searched for.", error)
                return match(Stars.of(self._own_sources(science)))
        except InsufficientKernelSources as error:
            percent = self.numbers["templateCoveragePercent"]
            if percent < 100 * o.minTemplateFractionForExpectedSuccess:
                raise NoTemplateCoverage(
                    f"the template covers only {percent:.1f} % of the image, and: {error}"
                ) from error
            raise

    def _finish(
        self, matched: match_and_subtract.Matched, science: Exposure, template: Exposure, common: CommonStars
    ) -> None:
        """Judge the match, take the sky off the difference, scale its variance."""
        self.put("convolved", matched.convolved)
        self.put("templateUnit", matched.unit)
        reach = self.numbers["sciencePsfSize"]
        if matched.fit is not None:
            self._report_fit(matched, science, template, common)
            reach += matched.fit.kernel.size // 2
        difference = matched.difference
        preparation.mark_saturated_haloes(difference, reach)
        if self.options.doSubtractBackground:
            sky = subtract_difference_sky(
                difference, self.options.backgroundMesh, *NOT_SKY, fwhm=self.numbers["sciencePsfSize"]
            )
            for name, rms in vars(sky).items():
                self.put(f"sky{name.capitalize()}Rms", rms)
            self.put("skyStructure", sky.smooth / preparation.usual_noise(difference))
        if self.options.doScaleDiffimVariance:
            self.put("scaleDiffimVarianceFactor", scale_variance(difference, static_sky=False))
        difference.psf, factor = with_sky_noise(difference)
        self.put("psfFluxErrorFactor", factor)

    def _report_fit(
        self, matched: match_and_subtract.Matched, science: Exposure, template: Exposure, common: CommonStars
    ) -> None:
        """Note what the kernel's fit says of itself and what the stars say of it; raise where it is too poor."""
        fit = matched.fit
        assert fit is not None
        for key, value in fit.numbers().items():
            self.put(key, value)
        self.put("maxPhi", matched.max_phi)
        self._warn_of_kernel(fit)
        if fit.kernel.kernel_sum <= 0:
            raise BadSubtraction(
                f"the kernel that the stars tell has a sum of {fit.kernel.kernel_sum:.3g}: what is bright in the one image is "
                "not in the other; is the template of the same field, and are both WCS right?",
                **science.where,
            )
        of_template, ratio = matched.convolved == "convolveTemplate", preparation.known_unit_ratio(science, template)
        numbers = kernel_numbers(common, fit.kernel, of_template, ratio, self.options.mode == "auto")
        for name, number in numbers.items():
            self.put(name, number)
        self.judge(science)

    def _warn_of_kernel(self, fit: KernelFit) -> None:
        """Say, in the log and in ``kernelWarning``, what makes a kernel less than it should be."""
        warnings = []
        if fit.kernel.basis.mode == "deconvolution":
            name = self.numbers["convolved"].removeprefix("convolve").lower()
            warnings.append(
                f"mode {self.options.mode} convolves the broader image (PSF FWHM of the image "
                f"{self.numbers['sciencePsfSize']:.2f} px, of the template {self.numbers['templatePsfSize']:.2f} px): a "
                f"regularised deconvolution, which multiplies the noise of the {name} image's pixels by "
                f"{fit.kernel.noise_gain:.2f} and leaves residuals of stars; mode auto convolves the sharper one"
            )
        if fit.kernel.condition > MAX_CONDITION:
            warnings.append(
                f"the condition number of the kernel's fit is {fit.kernel.condition:.1e}, more than {MAX_CONDITION:.0e}: "
                f"of its parameters the {fit.n_used} stars determine {fit.kernel.rank}, the others are held at small values"
            )
        self.put("kernelWarning", "; ".join(warnings))
        for text in warnings:
            self.log.warning("%s.", text)
