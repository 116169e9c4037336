"""The second half of the pipeline: what changed is detected, measured, judged and counted."""

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from diffim import preparation, quality
from diffim.checks.depth import depth_loss, star_residual_rms
from diffim.checks.footprints import Footprints, sky_mean
from diffim.checks.star_misfit import star_misfits
from diffim.detection.glints import find_glint_trails
from diffim.detection.peaks import Detections, detect
from diffim.detection.significance import Significance, significance
from diffim.detection.sky_sources import sky_positions
from diffim.detection.star_residuals import StarResiduals, star_residuals
from diffim.detection.streaks import find_streaks
from diffim.errors import NoDiaSourcesError
from diffim.measurement.measure import measure
from diffim.measurement.trail_fits import Behind, merge_trails
from diffim.options import OPTIONS
from exposure import Exposure, PhotoCalib
from exposure.blank import blank_exposure
from exposure.psf_width import psf_fwhm
from exposure.stars import Stars
from tasks.errors import CallerError
from tasks.ids import IdFactory, IdGenerator

if TYPE_CHECKING:
    from diffim.pipeline import Differencing
    from diffim.result import Differenced

__all__ = ["detect_and_measure", "no_sources"]

MISFIT_SNR = 50.0  # of sources that are looked at one by one
RAISED = 1.5  # times what the noise of the two images asks for: the threshold had to rise by much


def detect_and_measure(
    pipeline: "Differencing",
    science: Exposure,
    template: Exposure,
    result: "Differenced",
    ids: IdFactory | IdGenerator | None,
) -> "Differenced":
    """Return a result that has a difference with its sources, score image and metrics (as far as the options ask).

    Parameters
    ----------
    pipeline
        The differencing with its options and what was found so far.
    science, template
        The two images as they were subtracted.
    ids
        Where the ids of sources come from; without one they are 1, 2, 3, ...

    Raises
    ------
    CallerError
        There is no difference.
    NoDiaSourcesError
        No source is left, and ``raiseOnNoDiaSources`` is set.
    SatelliteServiceError
        The satellite filter service does not answer as it should.
    """
    options, difference = pipeline.options, result.subtractedExposure
    if difference is None:
        raise CallerError("doSubtract is off and no difference was given")
    with pipeline.timed("detect"):
        if options.doFindCosmicRays:
            pipeline.mark_cosmic_rays(difference, template, "cosmic_ray_count")
        if options.doMaskStreaks:
            _mask_streaks(pipeline, difference)
        detections, score = _detected(pipeline, difference, result)
        if options.doSkySources:
            detections = detections.with_sky(*sky_positions(difference, options.nSkySources))
    result = pipeline.result = replace(result, scoreExposure=score)
    if options.doMeasurement:
        with pipeline.timed("measure"):
            table = _measured(pipeline, science, template, difference, detections, ids)
        result = replace(result, diaSources=table)
    metrics = _report_quality(pipeline, science, template, difference, result)
    return replace(result, spatiallySampledMetrics=metrics)


def _mask_streaks(pipeline: "Differencing", difference: Exposure) -> None:
    """Set STREAK on the difference."""
    good = difference.good("BAD", "SAT", "CR", "SUSPECT", "EDGE")
    fwhm = psf_fwhm(difference.require_psf(), difference.bbox)
    streaks = find_streaks(difference.image, difference.variance, good, fwhm)
    difference.set_plane("STREAK", streaks)
    pipeline.put("nStreakPixels", int(streaks.sum()))


def _detected(
    pipeline: "Differencing", difference: Exposure, result: "Differenced"
) -> tuple[Detections, Exposure | None]:
    """Return the detections, and the score image where it is asked for; sets the planes of detection."""
    options = pipeline.options
    residuals = StarResiduals(0.0, 0.0, 0)
    if options.doResidualModel and result.matchedExposure is not None:
        residuals = star_residuals(difference, Stars.of(result.selectSources))
    pipeline.put("starFluxResidual", residuals.flux_error)
    pipeline.put("starPositionResidual", residuals.position_error)
    s = significance(
        difference,
        difference.good("BAD", "SAT", "CR", "EDGE"),
        None if result.matchedExposure is None else result.matchedExposure.image,
        residuals,
        gaussian=not options.useScoreImageDetection,
    )
    pipeline.put("significanceScale", s.scale)
    pipeline.put("significanceScaleMax", s.largest_scale)
    pipeline.put("significanceScaleMean", s.mean_scale)
    for key, value in _threshold_numbers(pipeline, s, result).items():
        pipeline.put(key, value)
    pipeline.put("differencePsfFwhm", s.fwhm)
    score = None
    if options.doWriteScore:
        score = Exposure(
            s.image.copy(),
            np.ones_like(s.image),
            difference.mask.copy(),
            origin=difference.origin,
            wcs=difference.wcs,
            visit_info=difference.visit_info,
            band=difference.band,
            photo_calib=PhotoCalib(1.0),
        )
    detections = detect(s, options.detectionThreshold)
    pipeline.put("nPixelsDetectedPositive", detections.n_positive_pixels)
    pipeline.put("nPixelsDetectedNegative", detections.n_negative_pixels)
    difference.set_plane("DETECTED", s.image > options.detectionThreshold)
    difference.set_plane("DETECTED_NEGATIVE", s.image < -options.detectionThreshold)
    return detections, score


def _threshold_numbers(pipeline: "Differencing", s: Significance, result: "Differenced") -> dict[str, float]:
    """Return by what the threshold had to rise, and on which share of the frame by much: more than on most of it, too.

    The variance plane was scaled before the score was: both raise the threshold. Where the noise was not whitened they make up
    for noise that is correlated, and tell nothing (NaN).
    """
    if not (pipeline.options.doDecorrelation or result.subtractRes is None):
        return dict.fromkeys(("thresholdExcess", "thresholdRaisedShare"), float("nan"))
    before = float(np.sqrt(pipeline.numbers.get("scaleDiffimVarianceFactor", 1.0)))
    return {
        "thresholdExcess": before * s.scale,
        "thresholdRaisedShare": s.raised_share(RAISED * max(1 / before, s.scale)),
    }


def _measured(
    pipeline: "Differencing",
    science: Exposure,
    template: Exposure,
    difference: Exposure,
    detections: Detections,
    factory: IdFactory | IdGenerator | None,
) -> pd.DataFrame:
    """Return the table of sources that are kept, with ids."""
    options = pipeline.options
    unit = float(pipeline.numbers.get("templateUnit") or preparation.flux_unit_ratio(science, template))
    detections = merge_trails(difference, detections, Behind(science, template, unit))
    if options.doDeblend:
        from diffim.measurement.deblend import measure_apart

        table = measure_apart(difference, science, template, detections, template_unit=unit)
    else:
        table = measure(difference, science, template, detections, template_unit=unit)
    keep = ~table[list(options.badSourceFlags)].any(axis=1)
    table = table[keep].reset_index(drop=True)
    if options.doReliability:
        from diffim.measurement.reliability import features, reliability

        score, version = reliability(features(difference, science, template, table))
        table = pd.concat([table, pd.DataFrame({"reliability": score, "reliabilityVersion": version})], axis=1)
        sure = (score >= options.minReliability) | table.sky_source.to_numpy(bool)  # blank sky is asked for
        pipeline.put("nRemovedUnreliable", int((~sure).sum()))
        table = table[sure].reset_index(drop=True)
    trail, n_trails = np.zeros(len(table), np.bool_), 0
    if options.doFindGlints:
        trail, trails = find_glint_trails(table)
        n_trails = len(trails)
    ids = factory.take(len(table)) if factory else np.arange(1, len(table) + 1, dtype=np.int64)
    if options.satelliteFilterUrl:
        from diffim.measurement.satellite_filter import allowed_sources

        allowed = allowed_sources(options.satelliteFilterUrl, difference, table, ids)
        pipeline.put("nRemovedBySatelliteFilter", int((~allowed).sum()))
        table, ids, trail = table[allowed].reset_index(drop=True), ids[allowed], trail[allowed]
    if options.raiseOnNoDiaSources and not (~table.sky_source).any():
        raise NoDiaSourcesError("no source is left", **science.where)
    pipeline.put("nUnmergedDiaSources", detections.n_unmerged)
    pipeline.put("nMergedDiaSources", len(detections.x))
    pipeline.put("nRemovedBadFlagged", int((~keep).sum()))
    pipeline.put("nDiaSources", int((~table.sky_source).sum()))
    pipeline.put("nGlintTrails", n_trails)
    return pd.concat([pd.DataFrame({"id": ids, "glint_trail": trail}), table], axis=1)


def _misfits(difference: Exposure, stars: Stars) -> dict[str, float]:
    """Return which shares of the bright sources do not subtract, and where."""
    bright = stars.take((stars.snr > MISFIT_SNR) & ~stars.flagged & stars.isolated)
    found = star_misfits(difference, bright)
    return {
        "starMisfitShare": found.share,
        "starMisfitLocalShare": found.local_share,
        "starMisfitX": found.x,
        "starMisfitY": found.y,
    }


def no_sources(options: Any) -> pd.DataFrame:
    """Return the table of an image without a source: it has the columns and types that `detect_and_measure` gives."""
    from diffim.pipeline import Differencing

    none, blank = np.zeros(0, np.int64), blank_exposure()
    nothing = Detections(
        none, none, none.astype(np.float64), none, np.zeros((0, 4), np.int64), none, blank.mask, 0, 0, none.astype(bool)
    )
    asked = {name: getattr(options, name) for name in OPTIONS} | {
        "satelliteFilterUrl": "",
        "raiseOnNoDiaSources": False,
    }
    return _measured(Differencing(SimpleNamespace(**asked)), blank, blank, blank, nothing, None)


def _report_quality(
    pipeline: "Differencing", science: Exposure, template: Exposure, difference: Exposure, result: "Differenced"
) -> pd.DataFrame | None:
    """Note depth, noise and residuals of this difference; returns samples over the image where they are asked for."""
    sizes = (pipeline.numbers["sciencePsfSize"], pipeline.numbers["templatePsfSize"])
    stars, sky = Stars.of(result.selectSources), _sky(result, difference, sizes[0])
    for key, value in quality.quality(difference, science, template, *sizes).items():
        pipeline.put(key, value)
    bright = stars.take((stars.snr > 20) & ~stars.flagged)
    discs = Footprints.of(difference, science, bright.x, bright.y, sizes[0])
    for name, (mean, stdev) in {"Ratio": discs.over_sky(sky), "SkyRatio": discs.of_sky(sky)}.items():
        pipeline.put(f"differenceFootprint{name}Mean", mean)
        pipeline.put(f"differenceFootprint{name}Stdev", stdev)
    for key, value in _gate_numbers(pipeline, science, template, difference, result, sky).items():
        pipeline.put(key, value)
    pipeline.judge(science)
    if not pipeline.options.doSpatialMetrics or result.diaSources is None:
        return None
    kernel = None if result.subtractRes is None else result.subtractRes.kernel
    return quality.sample_metrics(difference, science, template, result.diaSources, kernel)


def _sky(result: "Differenced", difference: Exposure, fwhm: float) -> float:
    """Return the mean |D| of the sky: at the sky sources, where there are some."""
    table = result.diaSources
    if table is None:
        return sky_mean(difference, np.zeros(0), np.zeros(0), fwhm)
    blank = table[table.sky_source]
    return sky_mean(difference, blank.x.to_numpy(np.float64), blank.y.to_numpy(np.float64), fwhm)


def _gate_numbers(
    pipeline: "Differencing",
    science: Exposure,
    template: Exposure,
    difference: Exposure,
    result: "Differenced",
    sky: float,
) -> dict[str, float]:
    """Return what the quality gate looks at, beside what is known already."""
    numbers, fit = pipeline.numbers, result.subtractRes
    ratios = (
        numbers.get("starFluxRatio"),
        preparation.known_unit_ratio(science, template),
        numbers.get("templateUnit"),
    )
    unit = next((float(r) for r in ratios if r is not None and np.isfinite(r) and r > 0), 1.0)
    out = {"diffimDepthLoss": depth_loss(difference, science, template, unit, numbers["significanceScaleMean"])}
    if fit is not None or pipeline.options.doSubtract:
        stars = Stars.of(result.selectSources)
        chosen = stars.take((stars.snr > 20) & ~stars.flagged & stars.isolated)  # where no kernel was fitted to any
        x, y = (chosen.x, chosen.y) if fit is None else (fit.x[fit.used], fit.y[fit.used])
        discs = Footprints.of(difference, science, x, y, numbers["sciencePsfSize"])
        out["starResidualRms"] = star_residual_rms(difference, science, template, x, y, unit)
        out |= _misfits(difference, stars)
        for name, pair in (
            ("residualFootprintRatio", discs.over_sky(sky)),
            ("residualFootprintSkyRatio", discs.of_sky(sky)),
            ("starLightLeft", discs.over_noise()),
        ):
            out |= {f"{name}Mean": pair[0], f"{name}Stdev": pair[1]}
    if fit is not None:
        images = (science, template) if numbers["convolved"] == "convolveTemplate" else (template, science)
        out |= quality.plain_noise_correlation(fit.kernel, *images)
    return out | quality.masked_shares(difference, science, int(numbers.get("cosmic_ray_count", 0)))
