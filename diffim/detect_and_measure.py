"""The second half of a pair's way: what changed is detected, measured, judged and counted."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from diffim import preparation, quality
from diffim.detection.glints import find_glint_trails
from diffim.detection.peaks import Detections, detect, significance
from diffim.detection.sky_sources import sky_places
from diffim.detection.star_residuals import StarResiduals, star_residuals
from diffim.detection.streaks import find_streaks
from diffim.errors import NoDiaSourcesError
from diffim.measurement.measure import measure
from exposure import Exposure, PhotoCalib
from exposure.psf_width import psf_fwhm
from exposure.stars import Stars
from tasks.ids import IdFactory, IdGenerator

if TYPE_CHECKING:
    from diffim.pipeline import Differencing
    from diffim.result import Differenced

__all__ = ["detect_and_measure"]


def detect_and_measure(
    way: "Differencing", science: Exposure, template: Exposure, result: "Differenced",
    ids: IdFactory | IdGenerator | None,
) -> None:  # fmt: skip
    """Fill ``diaSources``, ``scoreExposure`` and ``spatiallySampledMetrics`` of a result that has a difference.

    Raises
    ------
    NoDiaSourcesError
        No source is left, and ``raiseOnNoDiaSources`` is set.
    SatelliteServiceError
        The satellite filter service does not answer as it should.
    """
    options, difference = way.options, result.subtractedExposure
    assert difference is not None and difference.psf is not None
    with way.timed("detect"):
        if options.doFindCosmicRays:
            way.mark_cosmic_rays(difference, template, "cosmic_ray_count")
        if options.doMaskStreaks:
            streaks = find_streaks(
                difference.image, difference.variance, difference.good("BAD", "SAT", "CR", "SUSPECT", "EDGE"),
                psf_fwhm(difference.psf, difference.bbox),
            )  # fmt: skip
            difference.set_plane("STREAK", streaks)
            way.put("nStreakPixels", int(streaks.sum()))
        found = _significant(way, difference, result)
        if options.doSkySources:
            found = found.with_places(*sky_places(difference, options.nSkySources))
    if options.doMeasurement:
        with way.timed("measure"):
            result.diaSources = _measured(way, science, template, difference, found, ids)
    _report_quality(way, science, template, difference, result)


def _significant(way: "Differencing", difference: Exposure, result: "Differenced") -> Detections:
    options = way.options
    residuals = StarResiduals(0.0, 0.0, 0)
    if options.doResidualModel and result.matchedExposure is not None:
        residuals = star_residuals(difference, Stars.of(result.selectSources))
    way.put("starFluxResidual", residuals.flux_error)
    way.put("starPositionResidual", residuals.position_error)
    assert difference.psf is not None
    s = significance(
        difference.image, difference.variance, difference.good("BAD", "SAT", "CR"), difference.psf, difference.origin,
        result.matchedExposure, residuals.flux_error, residuals.position_error,
        gaussian=not options.useScoreImageDetection,
    )  # fmt: skip
    way.put("significanceScale", s.scale)
    way.put("differencePsfFwhm", s.fwhm)
    if options.doWriteScore:
        result.scoreExposure = Exposure(
            s.image.copy(), np.ones_like(s.image), difference.mask.copy(), origin=difference.origin,
            wcs=difference.wcs, visit_info=difference.visit_info, band=difference.band, photo_calib=PhotoCalib(1.0),
        )  # fmt: skip
    found = detect(s, options.detectionThreshold)
    way.put("nPixelsDetectedPositive", found.n_positive_pixels)
    way.put("nPixelsDetectedNegative", found.n_negative_pixels)
    difference.set_plane("DETECTED", s.image > options.detectionThreshold)
    difference.set_plane("DETECTED_NEGATIVE", s.image < -options.detectionThreshold)
    return found


def _measured(
    way: "Differencing", science: Exposure, template: Exposure, difference: Exposure, found: Detections,
    factory: IdFactory | IdGenerator | None,
) -> pd.DataFrame:  # fmt: skip
    options = way.options
    unit = float(way.numbers.get("templateUnit") or preparation.flux_unit_ratio(science, template))
    if options.doDeblend:
        from diffim.measurement.deblend import measure_apart

        table = measure_apart(difference, science, template, found, template_unit=unit)
    else:
        table = measure(difference, science, template, found, template_unit=unit)
    keep = ~table[list(options.badSourceFlags)].any(axis=1)
    table = table[keep].reset_index(drop=True)
    if options.doReliability:
        from diffim.measurement.reliability import features, reliability

        score, version = reliability(features(difference, template, table))
        table = pd.concat([table, pd.DataFrame({"reliability": score, "reliabilityVersion": version})], axis=1)
        sure = score >= options.minReliability
        way.put("nRemovedUnreliable", int((~sure).sum()))
        table = table[sure].reset_index(drop=True)
    trail, n_trails = np.zeros(len(table), np.bool_), 0
    if options.doFindGlints:
        trail, trails = find_glint_trails(table)
        n_trails = len(trails)
    ids = factory.take(len(table)) if factory else np.arange(1, len(table) + 1, dtype=np.int64)
    if options.satelliteFilterUrl:
        from diffim.measurement.satellite_filter import allowed_sources

        allowed = allowed_sources(options.satelliteFilterUrl, difference, table, ids)
        way.put("nRemovedBySatelliteFilter", int((~allowed).sum()))
        table, ids, trail = table[allowed].reset_index(drop=True), ids[allowed], trail[allowed]
    if options.raiseOnNoDiaSources and not (~table.sky_source).any():
        raise NoDiaSourcesError("no source is left", **science.where)
    way.put("nMergedDiaSources", len(found.x))
    way.put("nRemovedBadFlagged", int((~keep).sum()))
    way.put("nDiaSources", int((~table.sky_source).sum()))
    way.put("nGlintTrails", n_trails)
    return pd.concat([pd.DataFrame({"id": ids, "glint_trail": trail}), table], axis=1)


def _report_quality(
    way: "Differencing", science: Exposure, template: Exposure, difference: Exposure, result: "Differenced"
) -> None:
    """Note depth, noise and residuals of this difference."""
    sizes = (way.numbers["sciencePsfSize"], way.numbers["templatePsfSize"])
    stars = Stars.of(result.selectSources)
    for key, value in quality.quality(difference, science, template, stars, *sizes).items():
        way.put(key, value)
    if way.options.doSpatialMetrics and result.diaSources is not None:
        kernel = None if result.subtractRes is None else result.subtractRes.kernel
        result.spatiallySampledMetrics = quality.sample_metrics(
            difference, science, template, result.diaSources, kernel
        )
