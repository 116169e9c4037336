"""The joint fit of one field: select sources, fit both halves, put the results together."""

import dataclasses
import logging
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from calibration.errors import JointCalibrationError
from calibration.joint.config import JointcalConfig
from calibration.joint.data import Images
from calibration.joint.halves import FitInputs, calibrations, fit_astrometry, fit_photometry
from calibration.joint.image_quality import by_image, report_images, report_weak
from calibration.joint.io.inputs import gather, images_of, most_common_filter
from calibration.joint.io.references import Wanted, colour_corrected, load_references, read_colorterms
from calibration.joint.matching.references import Circle, References
from calibration.joint.matching.stars import bounding_circle
from calibration.joint.model.build_astrometry import build_wcs
from calibration.joint.model.frames import fit_epoch
from calibration.joint.reference_field import (
    absolute_rms,
    differences,
    field,
    field_metrics,
    flux_differences,
    flux_field_metrics,
)
from calibration.joint.result import AstrometryHalf, JointResult, PhotometryHalf, star_table
from calibration.joint.solve.fit import FitReport, Progress
from calibration.joint.whiteness import white_metrics
from exposure import ExposureCatalog, PhotoCalib
from exposure.camera import Camera
from exposure.wcs.mapped import ComposedWcs
from exposure.wcs.plain_tan import plain_or_same

__all__ = ["JointFit", "Progress"]

log = logging.getLogger("alertprod.jointcal")
Value = TypeVar("Value")
_OTHER_UNIT = (
    5.0  # mag between all input calibrations and the reference fluxes: no cloud is as thick, units differ by more
)
_AGREE = 1.0  # mag to which images agree on that
_LEAST_REFERENCES = 0.5  # of the reference stars that a fit must agree with


@dataclass
class JointFit:
    """The fit of one field.

    Parameters
    ----------
    config
        What is fitted and how.
    astrometry_refs, photometry_refs
        Reference catalogues (columns as documented); only that of a half that is on is needed.
    timed
        Context manager around each step, called with its name.
    colorterms
        The library of colour terms; read at once where they are asked for and none is given.
    """

    config: JointcalConfig
    astrometry_refs: pd.DataFrame | None = None
    photometry_refs: pd.DataFrame | None = None
    timed: Callable[[str], AbstractContextManager[Any]] = nullcontext
    colorterms: "Mapping[str, Any] | None" = None

    def __post_init__(self) -> None:
        """Read the colour terms before anything is fitted: a broken library is told at once."""
        if self.colorterms is None:
            self.colorterms = read_colorterms(self.config.colorterms) if self.config.applyColorTerms else {}

    def run(
        self,
        tables: "Sequence[Any]",
        summaries: "Sequence[ExposureCatalog]",
        camera: Camera,
        tract: int | None = None,
        progress: Progress | None = None,
    ) -> JointResult:
        """Fit in memory; see `calibration.joint.task.JointcalTask.run` for arguments, result and errors."""
        # blocks are summed side by side: each product of matrices on all cores would only wait for the others
        with threadpool_limits(limits=1, user_api="blas"):
            return self._run(tables, summaries, camera, tract, progress)

    def _run(
        self,
        tables: "Sequence[Any]",
        summaries: "Sequence[ExposureCatalog]",
        camera: Camera,
        tract: int | None,
        progress: Progress | None,
    ) -> JointResult:
        start = time.perf_counter()
        with self.timed("load"):
            images, measurements = gather(tables, images_of(summaries), self.config)
            images = dataclasses.replace(images, wcs=[plain_or_same(w) for w in images.wcs])
        self._check_filters(images)
        circle = bounding_circle(images)
        tag = f"{tract or 0}_{most_common_filter(images)[0]}"
        inputs = partial(FitInputs, measurements=measurements, camera=camera, config=self.config, tag=tag)
        fitted, wcs, calibs = images, None, None
        metrics: dict[str, Any] = {}
        quality: dict[str, pd.DataFrame] = {}
        astrometry: AstrometryHalf | None = None
        photometry: PhotometryHalf | None = None
        over_sky: pd.DataFrame | None = None
        flux_field: pd.DataFrame | None = None
        if self.config.doAstrometry:
            with self.timed("astrometry"):
                references = self._references("astrometry", images, circle)
                fitted, astrometry = fit_astrometry(
                    inputs(images=images, references=references, progress=progress, need="astrometry")
                )
            quality["astrometry"] = astrometry.quality
            wcs = self._published(build_wcs(astrometry.builder), quality["astrometry"])
            over_sky, told = self._against_references(astrometry)
            metrics |= astrometry.metrics | told | white_metrics("astrometry", astrometry.white)
        if self.config.doPhotometry:
            with self.timed("photometry"):
                references = self._references("photometry", images, circle)
                moved = _with_wcs(images, wcs)
                every = wcs is not None and len(wcs) == len(images)
                photo_images, photometry = fit_photometry(
                    inputs(images=moved, references=references, progress=progress, registered=every)
                )
            quality["photometry"] = photometry.quality
            calibs = self._published(calibrations(photometry), quality["photometry"])
            metrics |= photometry.metrics | white_metrics("photometry", photometry.white)
            metrics["photometry_input_offset_mag"] = _input_offset(calibs, images)
            flux_field = field(flux_differences(photometry, self.config), ("d_mag",))
            metrics |= flux_field_metrics(flux_field)
            fitted = photo_images if astrometry is None else fitted
        reports = [h.report for h in (astrometry, photometry) if h is not None]
        metrics |= _lost(quality) | _resources(start)
        metrics["converged"] = converged = self._converged(reports, metrics)
        if not converged:
            log.error("the joint fit%s did not converge", "" if tract is None else f" of tract {tract}")
        stars = star_table(astrometry, photometry)
        loaders = self.astrometry_refs, self.photometry_refs
        table = by_image(quality)
        halves = astrometry, photometry
        return JointResult(
            wcs, calibs, metrics, metrics, converged, stars, fitted, table, *halves, *loaders, over_sky, flux_field
        )

    def _against_references(self, half: AstrometryHalf) -> tuple[pd.DataFrame, dict[str, float]]:
        """Return how stars differ from the reference catalogue over the sky, and numbers of it."""
        off = differences(half, self.config)
        over_sky = field(off)
        return over_sky, {"absolute_rms_mas": absolute_rms(off)} | field_metrics(over_sky)

    def _check_filters(self, images: Images) -> None:
        """Refuse to fit one flux of each star to images of several filters."""
        # a name is no band: names are compared with names, and bands where a name is missing
        said = images.physical_filter
        if len(set(said) - {""}) < 2 and not all(said):
            said = images.band
        names = sorted({name for name in said if name})
        if self.config.doPhotometry and len(names) > 1 and not self.config.allowMixedFilters:
            index = said.index(names[1])
            raise JointCalibrationError(
                f"the images are of {len(names)} filters ({', '.join(names)}), and a star has one flux in a fit: fit each "
                "filter for itself (--id visit=...), or set allowMixedFilters=True for filters that are the same to the stars",
                visit=int(images.visit[index]),
                detector=int(images.detector[index]),
            )

    def _converged(self, reports: Sequence[FitReport], metrics: Mapping[str, Any]) -> bool:
        """Return whether all fits settled, describe their data, and hold those of every image."""
        for report in reports:
            if report.per_degree > self.config.maxReducedChi2:
                limit = self.config.maxReducedChi2
                log.error("chi2 per degree of freedom is %.3g, above maxReducedChi2 = %g", report.per_degree, limit)
            if report.n_references_kept < _LEAST_REFERENCES * report.n_references:
                kept, had = report.n_references_kept, report.n_references
                log.error(
                    "%d of %d reference stars contradict the fit: more of them, or a model of lower order",
                    had - kept,
                    had,
                )
        settled = all(
            r.converged
            and r.per_degree <= self.config.maxReducedChi2
            and r.n_references_kept >= _LEAST_REFERENCES * r.n_references
            for r in reports
        )
        if not abs(metrics.get("photometry_input_offset_mag", 0.0)) < _OTHER_UNIT:
            log.error(
                "the input calibrations of all images are off by one factor of about %.3g from the fluxes of the reference "
                "catalogue: one of the two is not in nJy (CALMEAN: nJy per count); the fitted calibrations follow the catalogue",
                10 ** (0.4 * metrics["photometry_input_offset_mag"]),
            )
            settled = False
        return settled and not any(value for name, value in metrics.items() if name.endswith("_lost_ccdImages"))

    def _published(self, values: "dict[tuple[int, int], Value]", table: pd.DataFrame) -> "dict[tuple[int, int], Value]":
        """Return what is fit to be used: without the images that lost their data, unless these are asked for."""
        if self.config.publishLostImages:
            return values
        lost = table[table.lost]
        gone = set(zip(lost.visit.tolist(), lost.detector.tolist(), strict=True))
        return {key: value for key, value in values.items() if key not in gone}

    def _references(self, need: str, images: Images, circle: Circle) -> References:
        table = self.astrometry_refs if need == "astrometry" else self.photometry_refs
        if table is None:
            raise JointCalibrationError(
                f"do{need.capitalize()} is on but no {need} reference catalogue was given: pass {need}_refs"
            )
        config = self.config.astrometryRefs if need == "astrometry" else self.config.photometryRefs
        physical, band = most_common_filter(images)
        if need == "photometry" and self.config.applyColorTerms:
            table = colour_corrected(table, self.colorterms or {}, config.name, physical)
        epoch = fit_epoch(images)
        if epoch != epoch:
            log.warning("no image has a time: reference stars stay at their catalogue's epoch")
        blue, red = self.config.dcrColor
        wanted = Wanted(
            need,
            [n for n in (physical, band) if n],
            epoch,
            reference_err_mas=self.config.astrometryReferenceErr,
            colour_bands=(blue, red) if self.config.fitDcr and need == "astrometry" else None,
        )
        return load_references(table, config, circle, wanted)


def _lost(quality: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """Warn of the images that stand out, and count those that lost their data and those that are weak, half by half."""
    out = {}
    for half, table in quality.items():
        report_images(half, table)
        report_weak(half, table)
        out[f"{half}_lost_ccdImages"] = int(table.lost.sum())
        out[f"{half}_weak_ccdImages"] = int(table.weak.sum())
    return out


def _input_offset(calibs: "Mapping[tuple[int, int], PhotoCalib]", images: Images) -> float:
    """Return by how much (mag) the fitted fluxes of a typical image are brighter than its input calibration makes them; 0
    where images do not agree on it.
    """
    given = {images.key(i): images.calib_mean[i] for i in range(len(images))}
    ratio = np.array([2.5 * np.log10(calib.mean / given[key]) for key, calib in calibs.items()])
    if not ratio.size:
        return 0.0
    typical = float(np.median(ratio))
    return typical if float(np.median(np.abs(ratio - typical))) < _AGREE else 0.0


def _resources(start: float) -> dict[str, Any]:
    """Return the time since `start` (of the performance counter) and the peak memory of the process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return {"wall_s": time.perf_counter() - start, "peak_rss_mb": peak}


def _with_wcs(images: Images, wcs: "Mapping[tuple[int, int], ComposedWcs] | None") -> Images:
    """Take the fitted WCS for matching fluxes where there is one."""
    if wcs is None:
        return images
    return dataclasses.replace(images, wcs=[wcs.get(images.key(i), images.wcs[i]) for i in range(len(images))])
